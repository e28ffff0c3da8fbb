"""Creates up to 5,000 empty files, then waits."""

import guard

guard.require_sandbox()

import time  # noqa: E402

for i in range(5000):
  try:
    open(f'file-{i}', 'w').close()
  except OSError as error:
    print(i, error, flush=True)
    break
time.sleep(1)
