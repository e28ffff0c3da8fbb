"""Leaves processes behind that left its session and its parent."""

import guard

guard.require_sandbox()

import os  # noqa: E402
import signal  # noqa: E402
import time  # noqa: E402

for _ in range(10):
  if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
      signal.signal(signal.SIGTERM, signal.SIG_IGN)
      signal.signal(signal.SIGHUP, signal.SIG_IGN)
      for fd in range(3):
        os.close(fd)
      time.sleep(60)
    os._exit(0)
print('left', flush=True)
