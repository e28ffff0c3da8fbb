"""Writes up to 128 MB in files of 1 MB wherever it can, then waits."""

import guard

guard.require_sandbox()

import os  # noqa: E402
import time  # noqa: E402

for folder in ('.', os.environ['HOME'], '/tmp', '/dev/shm', '/', '/dev', '/var/tmp', '/run'):
  for i in range(16):
    try:
      with open(f'{folder}/fill-{i}', 'wb') as file:
        file.write(b'x' * (1 << 20))
    except OSError as error:
      print(folder, i, error, flush=True)
      break
time.sleep(1)
