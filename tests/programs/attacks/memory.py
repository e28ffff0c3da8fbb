"""Touches up to 1 GB and then holds what it got."""

import guard

guard.require_sandbox()

import time  # noqa: E402

blocks = []
try:
  for _ in range(128):
    blocks.append(b'x' * (8 << 20))
except MemoryError:
  pass
time.sleep(30)
