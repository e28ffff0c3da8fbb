"""Prints the environment and all command lines and environments in /proc."""

import guard

guard.require_sandbox()

import glob  # noqa: E402
import os  # noqa: E402

print(dict(os.environ))
for path in glob.glob('/proc/[0-9]*/environ') + glob.glob('/proc/[0-9]*/cmdline'):
  try:
    with open(path, 'rb') as file:
      print(path, file.read())
  except OSError:
    continue
