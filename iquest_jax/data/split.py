"""Which documents a stage may see: the held-out ones, buckets that part documents between stages, and shards.

Every decision is a hash of names and contents, so it depends neither on the order of documents nor on workers. Held out is
decided for units: all documents of one repository and of its forks, or a single document.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping

from iquest_jax.data.documents import Document, Repository

# At most this share of the documents of a kind is held out, one unit aside.
MAX_HELD_OUT_SHARE = 1 / 8


def bucket(document: Document) -> float:
  """A number in [0, 1) that depends on the id alone: stages with disjoint ranges see disjoint documents."""
  return unit_hash('bucket', document.id)


def in_buckets(documents: Iterable[Document], buckets: tuple[float, float]) -> Iterator[Document]:
  """The documents whose bucket is in [low, high)."""
  low, high = buckets
  return (document for document in documents if low <= bucket(document) < high)


def shard(document: Document, shards: int) -> int:
  """The shard of a document: every shard is a sample of all documents."""
  return int(unit_hash('shard', document.id) * shards)


def repository(document: Document) -> str:
  """The name of the repository that a document comes from; '' if there is none."""
  return document.name if isinstance(document, Repository) else getattr(document, 'repo', '')


def unit(document: Document, histories: Mapping[str, str]) -> tuple[str, float]:
  """What is held out together with a document, and its place in [0, 1); the lowest places are held out.

  Args:
    histories: {repository: key of its history}; forks share the key, since they share commits.

  Returns:
    ('repository' or 'document', place).
  """
  if repo := repository(document):
    return 'repository', unit_hash('held out', histories.get(repo, repo))
  return 'document', unit_hash('held out', document.id)


def joined(histories: Iterable[tuple[str, str]]) -> dict[str, str]:
  """{repository: key} over all inputs, from (repository, key of its history) pairs.

  A name that occurs with several keys, as of a full and a shallow clone, joins them: all names of joined keys share the
  least key.
  """
  parents: dict[tuple[str, str], tuple[str, str]] = {}

  def root(node: tuple[str, str]) -> tuple[str, str]:
    while (parent := parents.setdefault(node, node)) != node:
      parents[node] = parents[parent]
      node = parent
    return node

  for name, key in histories:
    a, b = root(('name', name)), root(('key', key))
    # 'key' sorts before 'name', so the root of a component is its least key.
    parents[max(a, b)] = min(a, b)
  return {node[1]: root(node)[1] for node in list(parents) if node[0] == 'name'}


def smallest(places: Mapping[float, int], documents: int) -> list[tuple[float, int]]:
  """The lowest places that together have at least so many documents: [(place, documents)], sorted.

  What a shard must report of its places, {place: documents}, so that `limit` can be found from all shards.
  """
  found, count = [], 0
  for place in sorted(places):
    if count >= documents:
      break
    found.append((place, places[place]))
    count += places[place]
  return found


def limit(reports: Iterable[Iterable[tuple[float, int]]], documents: int, total: int) -> float:
  """The highest place that is held out, so that about `documents` are, but no more than MAX_HELD_OUT_SHARE of `total`.

  Args:
    reports: of `smallest`, one per shard; a place may be in several.

  Returns:
    -1 if nothing can be held out: fewer than two units.
  """
  places: dict[float, int] = {}
  for report in reports:
    for place, count in report:
      places[place] = places.get(place, 0) + count
  last, count = -1.0, 0
  for place in sorted(places):
    alone = places[place] >= total
    if count >= documents or alone or (count and count + places[place] > MAX_HELD_OUT_SHARE * total):
      break
    last, count = place, count + places[place]
  return last


def unit_hash(*parts: str) -> float:
  """A hash in [0, 1)."""
  digest = hashlib.sha256('\0'.join(parts).encode('utf-8', 'surrogatepass')).digest()
  return int.from_bytes(digest[:6], 'big') / 2**48
