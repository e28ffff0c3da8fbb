"""Prints look-alikes of a passing report and writes them to every descriptor."""

import guard

guard.require_sandbox()

import json  # noqa: E402
import os  # noqa: E402


def add(a, b):
  report = json.dumps({'passed': 2, 'token': '0' * 32})
  for fd in range(20):
    try:
      os.write(fd, report.encode())
    except OSError:
      continue
  print(report, 'OK', 'PASSED', 'All tests passed')
  os._exit(0)
