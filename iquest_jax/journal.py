"""What a run has finished, one synced line per sample, so that a killed run resumes and nothing is made twice."""

import fcntl
import json
import os
import pathlib
import threading
from collections.abc import Callable, Hashable
from typing import Any

from iquest_jax.errors import UserError


class Journal:
  """The finished samples of a run; the file's first line holds the settings. Safe for threads.

  Attributes:
    finished: {key of a line: the line}.
  """

  def __init__(self, path: pathlib.Path, settings: dict[str, Any], key: Callable[[dict[str, Any]], Hashable]):
    """Opens the file, or creates it; a last line that a kill cut off is dropped.

    Args:
      key: of a line, such as the number of its sample; a line for which it raises KeyError is damaged.

    Raises:
      UserError: another process writes it, it was written with other settings, or a line is damaged.
    """
    settings = json.loads(json.dumps(settings))  # as it reads back
    self.finished: dict[Hashable, dict[str, Any]] = {}
    self._path, self._key, self._lock = path, key, threading.Lock()
    path.parent.mkdir(parents=True, exist_ok=True)
    self._file = open(path, 'a+b', buffering=0)
    try:
      try:
        fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
      except BlockingIOError:
        raise UserError(f'{path}: another process is writing it; name another --out, or wait for its end') from None
      self._read(settings)
    except BaseException:
      self._file.close()
      raise

  def _read(self, settings: dict[str, Any]) -> None:
    data = self._path.read_bytes()
    whole = data[: data.rfind(b'\n') + 1]
    first, *lines = whole.splitlines() or [None]
    if first is not None and (before := self._parsed(1, first, dict)) != settings:
      was, now = _leaves(before), _leaves(settings)
      pairs = [(name, was.get(name, '-'), now.get(name, '-')) for name in sorted(was | now)]
      changed = '; '.join(f'{name} {old} -> {new}' for name, old, new in pairs if old != new)
      raise UserError(f'{self._path}: holds a run with other settings ({changed}); name another --out, or delete the file')
    for number, data in enumerate(lines, start=2):
      line = self._parsed(number, data, self._keyed)
      self.finished[self._key(line)] = line
    self._file.truncate(len(whole))
    if first is None:
      self._write(settings)

  def add(self, line: dict[str, Any]) -> None:
    """Appends a finished sample; on return it is on disk."""
    with self._lock:
      self._write(line)
      self.finished[self._key(line)] = json.loads(json.dumps(line))

  def close(self) -> None:
    self._file.close()

  def _write(self, line: dict[str, Any]) -> None:
    data = memoryview(json.dumps(line).encode() + b'\n')
    while data:
      data = data[self._file.write(data) :]
    os.fsync(self._file.fileno())

  def _keyed(self, line: dict[str, Any]) -> dict[str, Any]:
    hash(self._key(line))
    return dict(line)

  def _parsed(self, number: int, data: bytes, form: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
    try:
      return form(json.loads(data))
    except (ValueError, KeyError, TypeError):
      raise UserError(f'{self._path}: line {number} is damaged; delete that line to have its sample made again') from None


def _leaves(settings: dict[str, Any], prefix: str = '') -> dict[str, Any]:
  """Leaves by dotted path."""
  leaves = {}
  for key, value in settings.items():
    leaves |= _leaves(value, f'{prefix}{key}.') if isinstance(value, dict) else {prefix + key: value}
  return leaves
