"""`limited_join SECONDS`: joins a run whose other process never comes."""

import sys

from launch import command, devices

if __name__ == '__main__':
  devices.JOIN_LIMIT_S = float(sys.argv.pop(1))
  command.run(lambda _: devices.join_hosts())
