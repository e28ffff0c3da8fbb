"""Finds the duplicates of a corpus, exact and near, and decides which copy stays, in three steps over files.

1. `index.IndexWriter`: a task per input shard writes what the next step needs of each document.
2. `find_pairs`: a task per partition, which is a range of keys. Documents that share a key are candidates, and those
   that are alike enough are linked. The partition is read from all shards and sorted; it fits the memory that `partitions`
   is told.
3. `merge`: one process joins the links of all partitions into clusters, in 16 bytes per document that has a duplicate.

The best document of a cluster stays (`index.priority`). Which that is depends on neither the number of partitions nor the
order of the shards nor the number of workers.
"""

import pathlib
from collections.abc import Iterator, Sequence

import numpy as np

from iquest_jax.data.clean import index, minhash
from iquest_jax.data.clean.index import Measure

TEXT = Measure(np.dtype(('u1', (minhash.SIZE,))), minhash.bands, minhash.similarity, minhash.LINKED_FROM)

LINK = np.dtype([('reference', '<u8'), ('parent', '<u8'), ('priority', '<u8')])
_BYTES_PER_KEY = 100  # of a partition, at the most: where all its keys are one
_ALL_PAIRS = 32  # documents of a bucket that are compared in all pairs
_LEADERS = 64  # of a larger bucket, which its other documents are compared with
_BATCH_BYTES = 32 << 20  # of vectors at a time
_BATCH = 1 << 18  # links at a time


def partitions(folders: Sequence[pathlib.Path], memory: int = 1 << 30) -> int:
  """How many partitions these indices take so that each needs about `memory` bytes at most.

  Documents that share a key cannot be parted, so 10 million copies of one text need 1 GiB wherever they are.
  """
  keys = sum((folder / 'keys.bin').stat().st_size for folder in folders) // index.KEY.itemsize
  return max(1, -(-keys * _BYTES_PER_KEY // memory))


def find_pairs(folders: Sequence[pathlib.Path], part: int, parts: int, out: pathlib.Path, measure: Measure = TEXT) -> int:
  """Writes the links that the keys of one partition give: LINK, a forest, sorted by reference; returns their number.

  Args:
    folders: indices of all shards; a document's shard number is the position here.
    part: from 0 to `parts` - 1.
    out: file to write.
  """
  low, high = part * 2**64 // parts, (part + 1) * 2**64 // parts
  keys, references = index.keys_between(folders, low, high)
  forest, pending, waiting = np.empty((0, 2), np.uint64), [], 0
  for exact, buckets, members in _batches(keys, references, measure.document.itemsize):
    found = _exact(folders, buckets, members, measure) if exact else _near(folders, buckets, members, measure)
    pending.append(found)
    waiting += len(found)
    if waiting > _BATCH:
      forest, pending, waiting = _forest(np.concatenate([forest, *pending])), [], 0
  forest = _forest(np.concatenate([forest, *pending]))
  links = np.empty(len(forest), LINK)
  links['reference'], links['parent'] = forest.T
  links['priority'] = index.read(folders, links['reference'], measure, 'priority')
  out.write_bytes(links.tobytes())
  return len(links)


def _batches(keys: np.ndarray, references: np.ndarray, size: int) -> Iterator[tuple[bool, np.ndarray, np.ndarray]]:
  """Yields (whether the keys are those of exact copies, bucket numbers, references) of buckets of two documents or more.

  A batch has documents of _BATCH_BYTES, or a single larger bucket.
  """
  starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
  sizes = np.diff(np.append(starts, len(keys))) if len(keys) else np.zeros(0, np.int64)
  starts = starts[: len(sizes)]
  for exact in (True, False):
    chosen = np.flatnonzero((sizes > 1) & ((keys[starts] & np.uint64(1)) == exact))
    first, ends = 0, np.cumsum(sizes[chosen])
    while first < len(chosen):
      before = ends[first - 1] if first else 0
      last = max(first + 1, int(np.searchsorted(ends, before + max(2, _BATCH_BYTES // size), 'right')))
      here, lengths = starts[chosen[first:last]], sizes[chosen[first:last]]
      buckets = np.repeat(np.arange(len(here)), lengths)
      offsets = np.arange(len(buckets)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
      yield exact, buckets, references[here[buckets] + offsets]
      first = last


def _exact(folders: Sequence[pathlib.Path], buckets: np.ndarray, members: np.ndarray, measure: Measure) -> np.ndarray:
  """Links each document to the first with its digest: uint64 [N, 2]."""
  documents, at = np.unique(members, return_inverse=True)
  digests = index.read(folders, documents, measure, 'digest')[at]
  order = np.lexsort((members, digests[:, 1], digests[:, 0], buckets))
  digests, members = digests[order], members[order]
  first = np.concatenate([[True], (digests[1:] != digests[:-1]).any(axis=1)])
  leaders = members[np.flatnonzero(first)[np.cumsum(first) - 1]]
  return np.stack([members[~first], leaders[~first]], axis=1)


def _near(folders: Sequence[pathlib.Path], buckets: np.ndarray, members: np.ndarray, measure: Measure) -> np.ndarray:
  """Links documents of a bucket that are alike enough: uint64 [N, 2]; of exact copies only the best takes part."""
  documents, at = np.unique(members, return_inverse=True)
  digests, priorities = (index.read(folders, documents, measure, field) for field in ('digest', 'priority'))
  # By content, not by reference, so that nothing depends on the order of the shards. Copies may differ in white space, and
  # so in their embeddings.
  order = np.lexsort((members, priorities[at], digests[at, 1], digests[at, 0], buckets))
  copies = np.zeros(len(order), bool)
  copies[1:] = (buckets[order][1:] == buckets[order][:-1]) & (digests[at[order]][1:] == digests[at[order]][:-1]).all(axis=1)
  kept = order[~copies]
  at = at[kept]
  _, starts, sizes = np.unique(buckets[kept], return_index=True, return_counts=True)
  found = []
  for size in np.unique(sizes[(sizes > 1) & (sizes <= _ALL_PAIRS)]):
    rows = at[starts[sizes == size][:, None] + np.arange(size)]
    found.append(np.stack([rows[:, side] for side in np.triu_indices(size, 1)], axis=-1).reshape(-1, 2))
  pairs = np.sort(np.concatenate(found or [np.empty((0, 2), np.int64)]), axis=1)
  pairs = np.stack(np.divmod(np.unique(pairs[:, 0] * len(documents) + pairs[:, 1]), len(documents)), axis=1)
  links = [documents[pairs[_alike(folders, documents, pairs, measure)]]]
  for start, size in zip(starts[sizes > _ALL_PAIRS], sizes[sizes > _ALL_PAIRS]):
    links += _led(folders, documents[at[start : start + size]], measure)
  return np.concatenate(links)


def _alike(folders: Sequence[pathlib.Path], documents: np.ndarray, pairs: np.ndarray, measure: Measure) -> np.ndarray:
  """Whether the documents of each pair of positions are alike enough: bool [N]."""
  used, at = np.unique(pairs, return_inverse=True)
  vectors, at = index.read(folders, documents[used], measure, 'vector'), at.reshape(-1, 2)
  batch = max(1, _BATCH_BYTES // measure.document.itemsize // 2)
  parts = [at[start : start + batch].T for start in range(0, len(at), batch)]
  alike = [measure.similarity(vectors[a], vectors[b]) >= measure.linked_from for a, b in parts]
  return np.concatenate(alike) if alike else np.zeros(0, bool)


def _led(folders: Sequence[pathlib.Path], members: np.ndarray, measure: Measure) -> list[np.ndarray]:
  """Links of a large bucket, in time linear in its size: each document to the first leader that it is like.

  A document that is like none becomes a leader itself while there are fewer than _LEADERS. Boilerplate fills such buckets;
  what is missed here has other keys to be found by.
  """
  leaders, leading, links = [], [], []
  batch = max(1, _BATCH_BYTES // measure.document.itemsize)
  for start in range(0, len(members), batch):
    here = members[start : start + batch]
    by_reference = np.argsort(here)
    vectors = np.empty((len(here), *measure.vector.shape), measure.vector.base)
    vectors[by_reference] = index.read(folders, here[by_reference], measure, 'vector')
    rest, turn = np.arange(len(here)), 0
    while len(rest):
      if turn == len(leaders):
        if turn == _LEADERS:
          break
        leaders.append(here[rest[0]])
        leading.append(vectors[rest[0]])
        rest = rest[1:]
      alike = measure.similarity(vectors[rest], leading[turn][None]) >= measure.linked_from
      followers = here[rest[alike]]
      links.append(np.stack([followers, np.full(len(followers), leaders[turn])], axis=1))
      rest, turn = rest[~alike], turn + 1
  return links


def _forest(links: np.ndarray) -> np.ndarray:
  """As few links, uint64 [N, 2], with the same components: (document, parent), sorted; a root is its own parent."""
  documents, ends = np.unique(links, return_inverse=True)
  parents = np.arange(len(documents), dtype=np.int32)
  connect(parents, *ends.reshape(-1, 2).T)
  return np.stack([documents, documents[parents]], axis=1)


def connect(parents: np.ndarray, a: np.ndarray, b: np.ndarray) -> None:
  """Joins the trees of a[i] and b[i] for all i, in place; a parent is never larger than its child."""
  while len(a):
    a, b = roots(parents, a), roots(parents, b)
    apart = a != b
    a, b = a[apart], b[apart]
    # Where several links meet in a root, one wins and the others take another turn.
    np.minimum.at(parents, np.maximum(a, b), np.minimum(a, b).astype(parents.dtype))


def roots(parents: np.ndarray, nodes: np.ndarray) -> np.ndarray:
  """Roots of the nodes' trees; shortens the paths to them."""
  found = parents[nodes]
  while len(moved := np.flatnonzero(parents[found] != found)):
    found[moved] = parents[found[moved]]
  parents[nodes] = found
  return found
