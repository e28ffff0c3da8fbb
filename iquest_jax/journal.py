"""Files that grow line by line, and what a run has finished, so that a killed run resumes and nothing is made twice.

On a disk such a file is one file. On gs://, where objects cannot be appended to, it is a folder with an object per flush:

  <path>/00000000-00000007.jsonl    parts 0 to 7, joined
  <path>/00000008-00000008.jsonl    part 8

A joined part is written before those that it replaces are removed, and readers leave out what another part covers. Where a
run takes over, its first part covers more numbers than there are parts: what a stale run still adds is then left out.

A run folder may be copied from one to the other: both forms are read in both places. A file from a disk can grow further on
gs://, but not the other way round.
"""

import fcntl
import json
import os
import pathlib
import re
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from typing import Any

from absl import logging
from etils import epath

from iquest_jax import bucket
from iquest_jax.errors import UserError
from iquest_jax.run_folder import write_whole

_PART = re.compile(r'(\d{8})-(\d{8})\.jsonl')
_MOST_PARTS = 200  # then they are joined


class Lines:
  """A file of lines that only grows; what a kill cut off is dropped before the first new line. For one thread."""

  def __init__(self, path: str | os.PathLike, alone: bool = False):
    """Opens the file, or creates it.

    Args:
      alone: whether to refuse while another process has it open so; not on gs://, where the second writer of a part stops.

    Raises:
      BlockingIOError: another process has it open.
      UserError: it is a folder of parts on a disk.
    """
    self._path, self._bucket = epath.Path(path), bucket.is_bucket(path)
    self._waiting, self._flushed = b'', time.monotonic()
    if self._bucket:
      self._next = max((last for _, last in _parts(self._path)), default=-1) + 1
      if not self._next and (content := read(self._path)):  # one object, as copied from a disk
        self._join(content, [], spare=1)
      self._remove([self._path])
      return
    _check_no_parts(self._path)
    self._path.parent.mkdir(parents=True, exist_ok=True)
    new = not self._path.exists()
    self._file = open(path, 'a+b', buffering=0)
    self._repaired = False
    if alone:
      try:
        fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
      except BaseException:
        self._file.close()
        raise
    if new:
      folder = os.open(self._path.parent, os.O_RDONLY)
      try:
        os.fsync(folder)  # the name itself
      finally:
        os.close(folder)

  def append(self, line: bytes, sync: bool = True) -> None:
    """Appends whole lines.

    Args:
      sync: whether they are stored on return, whatever happens to the machine. Otherwise they survive a kill of this
        process on a disk, and wait for `flush` on gs://.
    """
    if self._bucket:
      self._waiting += line
    else:
      self._repair()
      left = memoryview(line)
      while left:
        left = left[self._file.write(left) :]
    if sync:
      self.flush()

  @property
  def waiting_s(self) -> float:
    """Seconds since the last flush; 0 if no line waits for one."""
    return time.monotonic() - self._flushed if self._waiting else 0.0

  def flush(self) -> None:
    """Stores what was appended."""
    self._flushed = time.monotonic()
    if not self._bucket:
      os.fsync(self._file.fileno())
      return
    if not self._waiting:
      return
    number = self._next
    try:
      bucket.write(self._path / _part(number, number), self._waiting, new=True)
    except FileExistsError:
      raise self._shared() from None
    self._next, self._waiting = number + 1, b''
    if self._next % _MOST_PARTS == 0:
      parts = _parts(self._path)
      if [part for part in parts if part[1] >= number] != [(number, number)]:
        raise self._shared()
      self._join(read(self._path), parts)

  def _shared(self) -> UserError:
    return UserError(f'{self._path}: another process is writing it; end one of the two')

  @classmethod
  def begin(cls, path: str | os.PathLike, content: bytes) -> 'Lines':
    """Replaces the file by these lines, at once for readers and kills, and opens it."""
    if bucket.is_bucket(path):
      lines = cls(path)
      # A stale run stops when it would join its parts, at the latest after so many.
      lines._join(content, _parts(path), spare=_MOST_PARTS)
      return lines
    _check_no_parts(epath.Path(path))
    pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, content)
    return cls(path)

  def _join(self, content: bytes, parts: list[tuple[int, int]], spare: int = 0) -> None:
    """Replaces these parts by one that covers them and as many numbers after them as are to spare.

    What another process has added since they were listed stays: a run that takes over loses nothing to a stale one.
    """
    joined = 0, max((last for _, last in parts), default=-1) + spare
    bucket.write(self._path / _part(*joined), content)
    self._next = joined[1] + 1
    self._remove([self._path / _part(*part) for part in parts if part != joined])

  def _remove(self, paths: Sequence[epath.Path]) -> None:
    try:
      bucket.remove(paths)
    except OSError as error:  # readers leave them out, and the next join or start removes them
      logging.warning('%s: old parts are not removed: %s', self._path, error.strerror or error)

  def close(self) -> None:
    """Stores what was appended and closes the file."""
    if self._bucket:
      self.flush()
    else:
      self._file.close()

  def _repair(self) -> None:
    if not self._repaired:
      self._file.truncate(len(read(self._path)))
      self._repaired = True


def read(path: str | os.PathLike) -> bytes:
  """The whole lines of a file that grows; b'' if there is none."""
  path = epath.Path(path)
  if _parts(path):
    return _joined(path)
  try:
    data = path.read_bytes()
  except FileNotFoundError:
    return b''
  return data[: data.rfind(b'\n') + 1]


def remove(path: str | os.PathLike) -> None:
  """Removes such a file, if there is one."""
  path = epath.Path(path)
  path.rmtree(missing_ok=True) if bucket.is_bucket(path) or path.is_dir() else path.unlink(missing_ok=True)


def _check_no_parts(path: epath.Path) -> None:
  if path.is_dir():
    raise UserError(f'{path}: is a folder of parts, copied from gs://; continue this run there')


def _joined(path: epath.Path, tries: int = 3) -> bytes:
  """The content of parts, which may be joined meanwhile."""
  parts, covered = [], -1
  for first, last in _parts(path):
    if last > covered:
      parts.append(path / _part(first, last))
      covered = last
  try:
    return b''.join(bucket.read_all(parts) if bucket.is_bucket(path) else [part.read_bytes() for part in parts])
  except FileNotFoundError:
    if tries == 1:
      raise
    return _joined(path, tries - 1)


def _parts(path: epath.Path) -> list[tuple[int, int]]:
  """(first, last) of the parts in a folder, in reading order: of two that begin alike, the wider first."""
  try:
    found = [_PART.fullmatch(entry.name) for entry in path.iterdir()]
  except (FileNotFoundError, NotADirectoryError):
    return []
  return sorted(((int(match[1]), int(match[2])) for match in found if match), key=lambda part: (part[0], -part[1]))


def _part(first: int, last: int) -> str:
  return f'{first:08d}-{last:08d}.jsonl'


class Journal:
  """The finished samples of a run; the file's first line holds the settings. Safe for threads.

  Attributes:
    finished: {key of a line: the line}.
  """

  def __init__(self, path: epath.Path | pathlib.Path, settings: dict[str, Any], key: Callable[[dict[str, Any]], Hashable]):
    """Opens the file, or creates it; a last line that a kill cut off is dropped.

    Args:
      key: of a line, such as the number of its sample; a line for which it raises KeyError is damaged.

    Raises:
      UserError: another process writes it, it was written with other settings, or a line is damaged.
    """
    settings = json.loads(json.dumps(settings))  # as it reads back
    self.finished: dict[Hashable, dict[str, Any]] = {}
    self._path, self._key, self._lock = path, key, threading.Lock()
    try:
      self._lines = Lines(path, alone=True)
    except BlockingIOError:
      raise UserError(f'{path}: another process is writing it; name another --out, or wait for its end') from None
    try:
      self._read(settings)
    except BaseException:
      self._lines.close()
      raise

  def _read(self, settings: dict[str, Any]) -> None:
    first, *lines = read(self._path).splitlines() or [None]
    if first is not None and (before := self._parsed(1, first, dict)) != settings:
      was, now = _leaves(before), _leaves(settings)
      pairs = [(name, was.get(name, '-'), now.get(name, '-')) for name in sorted(was | now)]
      changed = '; '.join(f'{name} {old} -> {new}' for name, old, new in pairs if old != new)
      raise UserError(f'{self._path}: holds a run with other settings ({changed}); name another --out, or delete the file')
    for number, data in enumerate(lines, start=2):
      line = self._parsed(number, data, self._keyed)
      self.finished[self._key(line)] = line
    if first is None:
      self._write(settings)

  def add(self, line: dict[str, Any]) -> None:
    """Appends a finished sample; on return it is stored."""
    with self._lock:
      self._write(line)
      self.finished[self._key(line)] = json.loads(json.dumps(line))

  def close(self) -> None:
    self._lines.close()

  def _write(self, line: dict[str, Any]) -> None:
    self._lines.append(json.dumps(line).encode() + b'\n')

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
