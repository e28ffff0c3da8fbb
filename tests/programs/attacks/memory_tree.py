"""Touches 48 MB in each of eight processes."""

import guard

guard.require_sandbox()

import os  # noqa: E402
import time  # noqa: E402

for _ in range(8):
  if os.fork() == 0:
    block = b'x' * (48 << 20)
    time.sleep(30)
    os._exit(len(block) & 1)
time.sleep(30)
