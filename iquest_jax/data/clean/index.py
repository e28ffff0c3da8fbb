"""What deduplication keeps of each document, on disk: a folder per input shard.

  documents.bin   digest, priority and vector of each document, in order
  keys.bin        (key, row) of everything a document can share with a duplicate, in runs sorted by key
  index.json      number of documents, size of a vector, lengths of the runs

A range of keys is thus one slice per run: a partition reads its own part of every shard and nothing else. A document is
called by its reference, shard number << 32 | row.
"""

import bisect
import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Callable, Sequence

import numpy as np

KEY = np.dtype([('key', '<u8'), ('row', '<u4')])
_RUN_BYTES = 32 << 20  # of documents that are sorted at a time


@dataclasses.dataclass(frozen=True)
class Measure:
  """How likeness of two documents is measured.

  Attributes:
    vector: dtype of what represents a document, such as ('uint8', (128,)).
    keys: vectors [N, ...] to keys for locality-sensitive hashing, uint64 [N, B].
    similarity: two equally long batches of vectors to float32 [N]; either may be a batch of one.
    linked_from: similarity from which two documents are duplicates.
  """

  vector: np.dtype
  keys: Callable[[np.ndarray], np.ndarray]
  similarity: Callable[[np.ndarray, np.ndarray], np.ndarray]
  linked_from: float

  @property
  def document(self) -> np.dtype:
    """dtype of a line of documents.bin."""
    return np.dtype([('digest', '<u8', (2,)), ('priority', '<u8'), ('vector', self.vector)])


class IndexWriter:
  """Writes the index of one shard; a context manager. Memory is bounded, however many documents the shard has."""

  def __init__(self, folder: pathlib.Path, measure: Measure):
    """Replaces what an attempt that was killed left in `folder`."""
    self._folder, self._measure = folder, measure
    self._buffer = np.empty(max(1, _RUN_BYTES // measure.document.itemsize), measure.document)
    self._compared = np.empty(len(self._buffer), bool)  # whether a document has a vector
    self._filled, self._written, self._runs = 0, 0, []

  def add(self, name: str, digest: bytes, quality: float, vector: np.ndarray | None) -> None:
    """Adds the next document.

    Args:
      name: its id; of copies of equal quality, a hash of it decides which stays.
      digest: 16 bytes, equal for exact duplicates.
      quality: in [0, 1]; of duplicates the best stays.
      vector: None for a document that only an exact copy duplicates.
    """
    line = self._buffer[self._filled]
    line['digest'] = np.frombuffer(digest, '<u8')
    line['priority'] = priority(name, quality)
    line['vector'] = 0 if vector is None else vector
    self._compared[self._filled] = vector is not None
    self._filled += 1
    if self._filled == len(self._buffer):
      self._flush()

  def __enter__(self):
    self._folder.mkdir(parents=True, exist_ok=True)
    self._documents, self._keys = (open(self._folder / name, 'wb') for name in ('documents.bin', 'keys.bin'))
    return self

  def __exit__(self, kind, *_):
    if kind is None:
      self._flush()
      description = {'documents': self._written, 'size': self._measure.vector.shape[0], 'runs': self._runs}
      (self._folder / 'index.json').write_text(json.dumps(description))
    self._documents.close()
    self._keys.close()

  def _flush(self) -> None:
    lines, rows = self._buffer[: self._filled], np.arange(self._written, self._written + self._filled, dtype='<u4')
    compared = np.flatnonzero(self._compared[: self._filled])
    near = self._measure.keys(lines['vector'][compared])
    run = np.empty(len(lines) + near.size, KEY)
    # The lowest bit tells a key of exact copies from one of likeness.
    run['key'][: len(lines)], run['row'][: len(lines)] = lines['digest'][:, 0] | np.uint64(1), rows
    run['key'][len(lines) :] = near.ravel() & ~np.uint64(1)
    run['row'][len(lines) :] = np.repeat(rows[compared], near.shape[1])
    self._documents.write(lines.tobytes())
    self._keys.write(run[np.argsort(run['key'])].tobytes())
    self._runs.append(len(run))
    self._written, self._filled = self._written + self._filled, 0


def priority(name: str, quality: float) -> int:
  """The smaller, the better: quality in the upper 16 bits, a hash of the name in the lower 48, independent of any order."""
  step = round(65535 * min(max(quality, 0.0), 1.0))
  digest = hashlib.blake2b(name.encode('utf-8', 'surrogatepass'), digest_size=6).digest()
  return (65535 - step) << 48 | int.from_bytes(digest)


def keys_between(folders: Sequence[pathlib.Path], low: int, high: int) -> tuple[np.ndarray, np.ndarray]:
  """All keys in [low, high) and the references of their documents, both uint64, sorted by key.

  `folders` are the indices of all shards, in the order of shard numbers.
  """
  slices = []
  for shard, folder in enumerate(folders):
    stored, start = _map(folder / 'keys.bin', KEY), 0
    for length in describe(folder)['runs']:
      run = stored[start : start + length]
      first, last = (bisect.bisect_left(run, key, key=lambda line: int(line['key'])) for key in (low, high))
      slices.append((shard, start + first, start + last))
      start += length
  total = sum(last - first for _, first, last in slices)
  keys, references, filled = np.empty(total, np.uint64), np.empty(total, np.uint64), 0
  for shard, first, last in slices:
    lines, here = _map(folders[shard] / 'keys.bin', KEY)[first:last], slice(filled, filled + last - first)
    keys[here], references[here] = lines['key'], lines['row'] | np.uint64(shard << 32)
    filled += last - first
  order = np.argsort(keys)
  references = references[order]
  keys.sort()
  return keys, references


def read(folders: Sequence[pathlib.Path], references: np.ndarray, measure: Measure, field: str) -> np.ndarray:
  """One field of the documents with these references, which must be sorted."""
  dtype = measure.document[field]
  values = np.empty((len(references), *dtype.shape), dtype.base)
  shards, starts = np.unique(references >> np.uint64(32), return_index=True)
  bounds = np.append(starts, len(references))
  for shard, start, end in zip(shards, bounds, bounds[1:]):
    rows = references[start:end] & np.uint64(0xFFFFFFFF)
    values[start:end] = _map(folders[int(shard)] / 'documents.bin', measure.document)[field][rows]
  return values


def describe(folder: pathlib.Path) -> dict:
  """{'documents': number of documents, 'size': entries of a vector, 'runs': lengths of the runs of keys}."""
  return json.loads((folder / 'index.json').read_text())


def _map(path: pathlib.Path, dtype: np.dtype) -> np.ndarray:
  # Mapped again for each use: a mapping holds a file open, and there may be many shards. An empty file cannot be mapped.
  return np.memmap(path, dtype, mode='r') if path.stat().st_size else np.empty(0, dtype)
