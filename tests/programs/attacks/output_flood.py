"""Prints up to 64 MB."""

import guard

guard.require_sandbox()

import sys  # noqa: E402

for _ in range(1024):
  sys.stdout.write('x' * 65536)
