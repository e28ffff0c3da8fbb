"""The lock of a stage's rows: runs share it while they read, and folders are swept only where nobody holds it."""

import fcntl
import io
import pathlib


def hold(rows_dir: str | pathlib.Path) -> io.IOBase | None:
  """Takes the lock shared, until the file returned is closed. None where the folder cannot be locked.

  A folder that is read only, or a file system without locks, is no reason not to train.
  """
  return _locked(rows_dir, fcntl.LOCK_SH)


def alone(rows_dir: str | pathlib.Path) -> io.IOBase | None:
  """Takes the lock alone, until the file returned is closed; None where a run holds it or the folder cannot be locked."""
  return _locked(rows_dir, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _locked(rows_dir: str | pathlib.Path, operation: int) -> io.IOBase | None:
  try:
    file = open(pathlib.Path(rows_dir) / '.lock', 'a')
  except OSError:
    return None
  try:
    fcntl.flock(file, operation)
  except OSError:
    file.close()
    return None
  return file
