"""Random access to packed rows on disk, through a bounded number of open files. Imports no TensorFlow."""

import bisect
import collections
import itertools
import os
import pathlib
import threading
from typing import Any

from iquest_jax.data.rows import record
from iquest_jax.data.rows.fetch import Cache
from iquest_jax.data.rows.manifest import Manifest, read, segments_of, shard_name
from iquest_jax.data.rows.packing import Row
from iquest_jax.errors import UserError

# Files that all rows of a loader keep open together; the usual limit of a process is 1024.
_OPEN = 64


class OpenShards:
  """The shards that are open, at most `limit`: the one not read for longest is closed first. Thread-safe."""

  def __init__(self, rows_dir: str | os.PathLike, cache: Cache | None = None, limit: int = _OPEN):
    """Opens shards of `rows_dir`, through a cache where this is on gs://."""
    self._rows_dir, self._cache, self._limit, self._lock = rows_dir, cache, limit, threading.Lock()
    self._readers: collections.OrderedDict[str, Any] = collections.OrderedDict()

  def path(self, name: str) -> str:
    """Where a shard is read, given its path below the folder of the rows; UserError if it cannot be copied there."""
    return self._cache.local(name) if self._cache else os.path.join(self._rows_dir, name)

  def read(self, path: str, row: int) -> bytes:
    """The record of a row; raises RuntimeError, IndexError or OSError if the file is damaged."""
    return self._reader(path).read([row])[0]

  def fix(self, command: str) -> str:
    """What to do about a damaged shard."""
    return 'remove it, and it is copied again' if self._cache else f'prepare the rows again with {command}'

  def _reader(self, path: str) -> Any:
    from array_record.python import array_record_module

    with self._lock:
      if path not in self._readers:
        while len(self._readers) >= self._limit:
          self._readers.popitem(last=False)  # closes it, unless another thread still reads from it
        # A row is read by itself, so nothing is read ahead.
        self._readers[path] = array_record_module.ArrayRecordReader(path, options='readahead_buffer_size:0')
      self._readers.move_to_end(path)
      return self._readers[path]


class Segment:
  """Random access to the rows of a segment: `[i] -> {field: [T]}`, `len()`. Thread-safe."""

  def __init__(
      self, source: str, split: str, segment: dict[str, Any], context: int, command: str, opened: OpenShards
  ):
    """Opens nothing yet. If a file is damaged, reading from it raises UserError, which names `command`."""
    self._context, self._command, self._opened = context, command, opened
    self._name = lambda shard: f'{segment["folder"]}/{shard_name(source, split, shard, len(segment["shards"]))}'
    self._ends = list(itertools.accumulate(shard['rows'] for shard in segment['shards']))

  def __len__(self) -> int:
    return self._ends[-1] if self._ends else 0

  def __getitem__(self, row: int) -> Row:
    if not 0 <= row < len(self):
      raise IndexError(f'row {row} of {len(self)}')
    shard = bisect.bisect_right(self._ends, row)
    path = self._opened.path(self._name(shard))
    try:
      return record.parse(self._opened.read(path, row - (self._ends[shard - 1] if shard else 0)), self._context)
    except Exception as error:  # ArrayRecord checks the hash of every chunk; it and the parser raise many kinds
      reason = ' '.join(str(error).split())
      raise UserError(f'rows: {path} cannot be read ({reason}); {self._opened.fix(self._command)}') from error


class Rows:
  """Random access to the rows of a split: `[i] -> {field: [T]}`, `len()`. Thread-safe.

  Attributes:
    segments: its segments, in the order they were appended.
  """

  def __init__(
      self, rows_dir: str | pathlib.Path, source: str, split: str, command: str, manifest: Manifest | None = None,
      opened: OpenShards | None = None,
  ):  # fmt: skip
    """Opens no file yet; a damaged one raises UserError as it is read, which names `command`.

    Args:
      manifest: of the folder, if it was read already.
      opened: shares its open files with other rows.
    """
    manifest = manifest or read(rows_dir)
    if not manifest:
      raise UserError(f'rows: {rows_dir} has no manifest that can be read; prepare the rows with {command}')
    opened = opened or OpenShards(rows_dir)
    self.segments = [
        Segment(source, split, segment, manifest['context'], command, opened)
        for segment in segments_of(manifest, source, split)
    ]
    self._ends = list(itertools.accumulate(map(len, self.segments)))

  def __len__(self) -> int:
    return self._ends[-1] if self._ends else 0

  def __getitem__(self, row: int) -> Row:
    if not 0 <= row < len(self):
      raise IndexError(f'row {row} of {len(self)}')
    segment = bisect.bisect_right(self._ends, row)
    return self.segments[segment][row - (self._ends[segment - 1] if segment else 0)]
