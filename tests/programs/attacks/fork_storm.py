"""Forks up to 300 processes that wait, and prints how many it got."""

import guard

guard.require_sandbox()

import os  # noqa: E402
import time  # noqa: E402

count = 0
for _ in range(300):
  try:
    if os.fork() == 0:
      time.sleep(30)
      os._exit(0)
    count += 1
  except BlockingIOError:
    break
print(count, flush=True)
