"""Replies on disk, keyed by the request, so that a killed run pays for nothing twice.

One JSON object per line, appended and synced; a line that a crash tore is skipped. Several processes may append at a time.
"""

import asyncio
import concurrent.futures
import fcntl
import hashlib
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from iquest_jax.errors import UserError


def key_of(url: str, body: bytes) -> str:
  """Names a request by its content: whatever changes the answer changes the key."""
  return hashlib.sha256(url.encode() + b'\n' + body).hexdigest()


class Cache:
  """Replies by key.

  Attributes:
    spent: dollars that the replies to each (URL of the API, model) have cost, when the file was opened.
  """

  def __init__(self, path: pathlib.Path):
    """Opens the file, which is made if there is none.

    Raises:
      UserError: it cannot be read and written, or holds something else.
    """
    self._path, self._places = path, {}
    self.spent: dict[tuple[str, str], float] = {}
    self._waiting: list[tuple[str, bytes]] = []
    self._writer = concurrent.futures.ThreadPoolExecutor(1, 'cache')
    try:
      path.parent.mkdir(parents=True, exist_ok=True)
      self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
      self._read()
    except OSError as error:
      raise UserError(f'endpoint: the cache {path} cannot be read and written ({error.strerror})') from None

  def get(self, key: str) -> dict[str, Any] | None:
    """The record that was added under a key."""
    if key not in self._places:
      return None
    start, length = self._places[key]
    return json.loads(os.pread(self._file, length, start))['reply']

  async def add(self, key: str, url: str, model: str, cost: float, reply: Mapping[str, Any]) -> None:
    """Returns when the record is on the disk; what arrives while others are written is written together.

    Raises:
      UserError: the disk refuses.
    """
    line = {'key': key, 'endpoint': url, 'model': model, 'cost': cost, 'reply': reply}
    self._waiting.append((key, json.dumps(line).encode() + b'\n'))
    try:
      await asyncio.wrap_future(self._writer.submit(self._append))
    except OSError as error:
      raise UserError(f'endpoint: the cache {self._path} cannot be written ({error.strerror})') from None

  def close(self) -> None:
    """Returns when all is written."""
    self._writer.shutdown()
    os.close(self._file)

  def _append(self) -> None:
    """Writes what waits; in the thread of the writer."""
    lines, self._waiting = self._waiting, []
    if not lines:  # an earlier call took them along
      return
    data = b''.join(line for _, line in lines)
    fcntl.flock(self._file, fcntl.LOCK_EX)
    try:
      start = os.lseek(self._file, 0, os.SEEK_END)
      if start and os.pread(self._file, 1, start - 1) != b'\n':
        data, start = b'\n' + data, start + 1  # ends a line that a crash tore
      rest = memoryview(data)
      while rest:
        rest = rest[os.write(self._file, rest) :]
      os.fsync(self._file)
    finally:
      fcntl.flock(self._file, fcntl.LOCK_UN)
    for key, line in lines:
      self._places.setdefault(key, (start, len(line)))
      start += len(line)

  def _read(self) -> None:
    start = 0
    with open(self._path, 'rb') as file:
      for line in file:
        place, start = (start, len(line)), start + len(line)
        try:
          record = json.loads(line)
        except (ValueError, RecursionError):
          continue
        if not (isinstance(record, dict) and {'key', 'endpoint', 'model', 'cost', 'reply'} == record.keys()):
          raise UserError(f'endpoint: {self._path} holds something else than replies of an endpoint; name another file')
        if record['key'] not in self._places:
          self._places[record['key']] = place
        paid = (record['endpoint'], record['model'])
        self.spent[paid] = self.spent.get(paid, 0.0) + record['cost']
