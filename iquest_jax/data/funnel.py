"""What became of documents in a step: how many came in, how many were dropped by which rule, how many went out."""

import collections
import dataclasses
from typing import Any

from iquest_jax.data.documents import Drop


@dataclasses.dataclass
class Funnel:
  """Counts of one step; funnels of shards are added.

  Attributes:
    read: documents that came in; read = kept + all drops.
    kept: documents that went out.
    drops: by rule.
    seen: other counts worth a line: bytes, files dropped within documents, replaced secrets.
  """

  read: int = 0
  kept: int = 0
  drops: collections.Counter = dataclasses.field(default_factory=collections.Counter)
  seen: collections.Counter = dataclasses.field(default_factory=collections.Counter)

  def keep(self) -> None:
    self.read += 1
    self.kept += 1

  def drop(self, drop: Drop) -> None:
    self.read += 1
    self.drops[drop.rule] += 1

  def __add__(self, other: 'Funnel') -> 'Funnel':
    return Funnel(self.read + other.read, self.kept + other.kept, self.drops + other.drops, self.seen + other.seen)

  def check(self) -> None:
    """Raises AssertionError if a document was lost without a count."""
    assert self.read == self.kept + sum(self.drops.values()), f'documents were lost: {self}'

  def to_json(self) -> dict[str, Any]:
    drops, seen = (dict(sorted(counter.items())) for counter in (self.drops, self.seen))
    return {'read': self.read, 'kept': self.kept, 'drops': drops, 'seen': seen}

  @classmethod
  def from_json(cls, record: dict[str, Any]) -> 'Funnel':
    return cls(record['read'], record['kept'], collections.Counter(record['drops']), collections.Counter(record['seen']))
