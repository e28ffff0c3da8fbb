"""The lock of a stage's rows: runs share it while they read, and folders are swept only where nobody holds it.

It is on the folder itself, so taking it writes nothing.
"""

import contextlib
import fcntl
import os
import pathlib
from collections.abc import Iterator


class Held:
  """A lock that is held until `release`, or until nothing refers to it."""

  def __init__(self, folder: int | None):
    self._folder = folder

  def release(self) -> None:
    if self._folder is not None:
      os.close(self._folder)
    self._folder = None

  __del__ = release


def hold(rows_dir: str | pathlib.Path) -> Held:
  """Shares the lock. Where the folder cannot be locked, nothing is held and training goes ahead."""
  return Held(_locked(rows_dir, fcntl.LOCK_SH))


@contextlib.contextmanager
def alone(rows_dir: str | pathlib.Path) -> Iterator[bool]:
  """Holds the lock alone; False, holding nothing, where a run shares it or the folder cannot be locked."""
  folder = _locked(rows_dir, fcntl.LOCK_EX | fcntl.LOCK_NB)
  try:
    yield folder is not None
  finally:
    if folder is not None:
      os.close(folder)


def _locked(rows_dir: str | pathlib.Path, operation: int) -> int | None:
  try:
    folder = os.open(rows_dir, os.O_RDONLY | os.O_DIRECTORY)
  except OSError:
    return None
  try:
    fcntl.flock(folder, operation)
  except OSError:
    os.close(folder)
    return None
  return folder
