"""What a run has finished so far, one JSON line per (problem, sample), so that a killed run resumes where it was."""

import json
import os
import pathlib
import threading
from typing import Any

from iquest_jax.errors import UserError


class Records:
  """The finished samples of a run, in `<folder>/records.jsonl`; its first line holds the settings. Safe for threads."""

  def __init__(self, folder: pathlib.Path, settings: dict[str, Any]):
    """Opens the file, or creates it; a line that a kill cut off is dropped.

    Raises:
      UserError: the file was written with other settings, or a line in it is damaged.
    """
    settings = json.loads(json.dumps(settings))  # as it reads back
    self._path, self._lock = folder / 'records.jsonl', threading.Lock()
    self.finished: dict[tuple[str, int], dict[str, Any]] = {}
    folder.mkdir(parents=True, exist_ok=True)
    data = self._path.read_bytes() if self._path.exists() else b''
    whole = data[: data.rfind(b'\n') + 1]
    lines = [self._parsed(number, line) for number, line in enumerate(whole.splitlines(), start=1)]
    if lines and lines[0] != settings:
      was, now = _leaves(lines[0]), _leaves(settings)
      pairs = [(key, was.get(key, '-'), now.get(key, '-')) for key in sorted(was | now)]
      changed = '; '.join(f'{key} {old} -> {new}' for key, old, new in pairs if old != new)
      raise UserError(f'{folder}: holds a run with other settings ({changed}); name another --out, or delete the folder')
    for record in lines[1:]:
      self.finished[record['problem'], record['sample']] = record
    self._file = open(self._path, 'ab', buffering=0)
    self._file.truncate(len(whole))
    if not lines:
      self._write(settings)

  def add(self, record: dict[str, Any]) -> None:
    """Appends a finished sample by one synced write."""
    with self._lock:
      self._write(record)
      self.finished[record['problem'], record['sample']] = json.loads(json.dumps(record))

  def close(self) -> None:
    self._file.close()

  def _write(self, line: dict[str, Any]) -> None:
    data = memoryview(json.dumps(line).encode() + b'\n')
    while data:
      data = data[self._file.write(data) :]
    os.fsync(self._file.fileno())

  def _parsed(self, number: int, line: bytes) -> dict[str, Any]:
    try:
      record = json.loads(line)
      if number > 1:
        record['problem'], record['sample']
      return record
    except (ValueError, KeyError, TypeError):
      where = f'{self._path}: line {number}'
      raise UserError(f'{where}: is damaged; delete that line to have its problem answered again') from None


def _leaves(settings: dict[str, Any], prefix: str = '') -> dict[str, Any]:
  """Leaves by dotted path."""
  leaves = {}
  for key, value in settings.items():
    leaves |= _leaves(value, f'{prefix}{key}.') if isinstance(value, dict) else {prefix + key: value}
  return leaves
