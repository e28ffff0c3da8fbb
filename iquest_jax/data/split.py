"""Which documents a stage may see: the held-out share, and buckets that part the documents between stages."""

import hashlib
from collections.abc import Iterator

from iquest_jax.data.documents import Document, Repository

HELD_OUT_SHARE = 1 / 16


def bucket(document: Document) -> float:
  """A number in [0, 1) that depends on the id alone: stages with disjoint ranges see disjoint documents."""
  return _unit_hash('bucket', document.id)


def is_held_out(document: Document) -> bool:
  """Whether a document is kept from training. A repository is held out as a whole: its files and what is built of them."""
  repo = document.name if isinstance(document, Repository) else getattr(document, 'repo', '')
  return _unit_hash('held_out', repo or document.id) < HELD_OUT_SHARE


def select(documents: Iterator[Document], split: str, buckets: tuple[float, float]) -> Iterator[Document]:
  """The documents of one split ('train' or 'held_out') whose bucket is in [low, high)."""
  low, high = buckets
  for document in documents:
    if is_held_out(document) == (split == 'held_out') and low <= bucket(document) < high:
      yield document


def _unit_hash(*parts: str) -> float:
  digest = hashlib.sha256('\0'.join(parts).encode()).digest()
  return int.from_bytes(digest[:6], 'big') / 2**48
