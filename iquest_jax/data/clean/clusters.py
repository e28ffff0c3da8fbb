"""Clusters of duplicates over a whole corpus: joins what the partitions found, and says what to drop in a shard.

The result is a folder of three arrays: references of all documents that have a duplicate, sorted (uint64); the cluster of
each (uint32); and the reference of the document that stays, by cluster (uint64). A cluster has two documents or more, so
that is at most 16 bytes per document, and joining needs no more beside batches.
"""

import bisect
import itertools
import pathlib
from collections.abc import Iterator, Sequence

import numpy as np

from iquest_jax.data.clean.duplicates import LINK, connect, roots

_BATCH = 1 << 20
_CHOSEN = np.uint32(1 << 31)


class Clusters:
  """The clusters that `merge` wrote; mapped, so that a task pays only for its own shard.

  Attributes:
    references: uint64 [N], sorted; shard << 32 | row of every document that has a duplicate.
    cluster: uint32 [N].
    survivors: uint64 [number of clusters].
  """

  def __init__(self, folder: pathlib.Path):
    self.references = _map(folder / 'references.bin', np.dtype('<u8'))
    self.cluster = _map(folder / 'cluster.bin', np.dtype('<u4'))
    self.survivors = _map(folder / 'survivors.bin', np.dtype('<u8'))

  def dropped(self, shard: int) -> dict[int, int]:
    """Rows of a shard that a better duplicate replaces, and the reference of that one."""
    first, last = np.searchsorted(self.references, np.array([shard << 32, (shard + 1) << 32], np.uint64))
    references = self.references[first:last]
    survivors = self.survivors[self.cluster[first:last]]
    replaced = references != survivors
    rows = references[replaced] & np.uint64(0xFFFFFFFF)
    return dict(zip(rows.tolist(), survivors[replaced].tolist(), strict=True))


def merge(links: Sequence[pathlib.Path], out: pathlib.Path) -> dict[str, int]:
  """Joins the links of all partitions of `duplicates.find_pairs` into clusters.

  Returns:
    {'clusters': their number, 'documents': documents in them}.
  """
  out.mkdir(parents=True, exist_ok=True)
  with open(out / 'references.bin', 'wb') as file:
    for batch in _distinct(links):
      file.write(batch.tobytes())
  references = np.fromfile(out / 'references.bin', np.uint64)
  at = lambda documents: np.searchsorted(references, documents)
  parents = np.arange(len(references), dtype=np.uint32)
  for batch in _read(links):
    connect(parents, at(batch['reference']), at(batch['parent']))
  cluster = _numbered(parents)
  del parents
  survivors = np.full(int(cluster.max(initial=0)) + 1 if len(cluster) else 0, 2**64 - 1, np.uint64)
  for batch in _read(links):
    np.minimum.at(survivors, cluster[at(batch['reference'])], batch['priority'])
  for batch in _read(links):
    rows = at(batch['reference'])
    own = cluster[rows] & ~_CHOSEN
    best = rows[batch['priority'] == survivors[own]]
    cluster[best] |= _CHOSEN
  # Priorities made way for references; of equally good ones, backwards, the first stays.
  for start in reversed(range(0, len(cluster), _BATCH)):
    chosen = start + np.flatnonzero(cluster[start : start + _BATCH] & _CHOSEN)[::-1]
    cluster[start : start + _BATCH] &= ~_CHOSEN
    survivors[cluster[chosen]] = references[chosen]
  (out / 'cluster.bin').write_bytes(cluster.data)
  (out / 'survivors.bin').write_bytes(survivors.data)
  return {'clusters': len(survivors), 'documents': len(references)}


def _numbered(parents: np.ndarray) -> np.ndarray:
  """Cluster numbers from 0, in the order of roots, instead of parents; overwrites these."""
  for start in range(0, len(parents), _BATCH):
    roots(parents, np.arange(start, min(start + _BATCH, len(parents))))
  numbers, count = np.empty(len(parents), np.uint32), 0
  for start in range(0, len(parents), _BATCH):
    here = slice(start, start + _BATCH)
    is_root = parents[here] == np.arange(start, min(start + _BATCH, len(parents)))
    numbers[here] = count + np.cumsum(is_root) - 1
    count += int(is_root.sum())
  for start in range(0, len(parents), _BATCH):
    here = slice(start, start + _BATCH)
    parents[here] = numbers[parents[here]]
  return parents


def _distinct(links: Sequence[pathlib.Path]) -> Iterator[np.ndarray]:
  """All references, sorted and once each, in batches: the files are sorted, so a range of references is a slice of each."""
  longest = max(links, key=lambda path: path.stat().st_size)
  inner = _map(longest, LINK)['reference'][:: max(1, _BATCH // len(links))][1:].tolist()
  for low, high in itertools.pairwise([0, *inner, 2**64]):
    parts = []
    for path in links:
      stored = _map(path, LINK)
      first, last = (bisect.bisect_left(stored, end, key=lambda link: int(link['reference'])) for end in (low, high))
      parts.append(stored['reference'][first:last])
    yield np.unique(np.concatenate(parts))


def _read(links: Sequence[pathlib.Path]) -> Iterator[np.ndarray]:
  for path in links:
    stored = _map(path, LINK)
    for start in range(0, len(stored), _BATCH):
      yield np.array(stored[start : start + _BATCH])


def _map(path: pathlib.Path, dtype: np.dtype) -> np.ndarray:
  return np.memmap(path, dtype, mode='r') if path.stat().st_size else np.empty(0, dtype)
