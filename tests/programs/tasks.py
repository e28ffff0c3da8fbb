"""Tasks that tests run on executors: they work, raise, or kill their own process."""

import os
import pathlib
import signal
import time

from iquest_jax.errors import UserError


def double(value: int, folder: str) -> dict:
  """Counts its runs in the folder."""
  with open(pathlib.Path(folder) / f'{value}.runs', 'a') as runs:
    runs.write('x')
  return {'value': 2 * value}


def refuse(value: int) -> dict:
  raise UserError(f'input {value} cannot be read')


def full_disk(path: str) -> dict:
  raise OSError(28, 'No space left on device', path)


def die() -> dict:
  os.kill(os.getpid(), signal.SIGKILL)
  time.sleep(60)
