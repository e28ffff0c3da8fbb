"""What a run of synthesis has finished, one synced line per sample, so that a killed run resumes and asks nothing twice."""

import fcntl
import json
import os
import pathlib
import threading
from typing import Any

from iquest_jax.errors import UserError


class Journal:
  """The finished samples of a run, {number: line}; the file's first line holds the settings. Safe for threads.

  A line is {"sample", "seed", "usage", ...} with the "document" that was made, or the "drop" and its evidence.
  """

  def __init__(self, path: pathlib.Path, settings: dict[str, Any]):
    """Opens the file, or creates it; a last line that a kill cut off is dropped.

    Raises:
      UserError: another process writes it, it was written with other settings, or a line is damaged.
    """
    settings = json.loads(json.dumps(settings))  # as it reads back
    self.finished: dict[int, dict[str, Any]] = {}
    self._path, self._lock = path, threading.Lock()
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
    lines = [self._parsed(number, line) for number, line in enumerate(whole.splitlines(), start=1)]
    if lines and lines[0] != settings:
      pairs = [(key, lines[0].get(key), settings.get(key)) for key in sorted(lines[0].keys() | settings)]
      changed = '; '.join(f'{key} {json.dumps(old)} -> {json.dumps(new)}' for key, old, new in pairs if old != new)
      raise UserError(f'{self._path}: holds a run with other settings ({changed}); name another --out, or delete the file')
    self.finished = {line['sample']: line for line in lines[1:]}
    self._file.truncate(len(whole))
    if not lines:
      self._write(settings)

  def add(self, line: dict[str, Any]) -> None:
    """Appends a finished sample; on return it is on disk."""
    with self._lock:
      self._write(line)
      self.finished[line['sample']] = json.loads(json.dumps(line))

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
        record['sample'], record['seed'], record['usage'], record['document' if 'document' in record else 'drop']
      return dict(record)
    except (ValueError, KeyError, TypeError):
      raise UserError(f'{self._path}: line {number} is damaged; delete that line to have its sample made again') from None
