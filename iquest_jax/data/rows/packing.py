"""Packs examples into rows of exactly T tokens: best fit, and a document that fits into a row is never cut.

A longer document is cut at multiples of T, or dropped if a cut would ruin it; each piece is a segment of its own whose
positions restart. Each piece goes into the row with the least room that still holds it. Compared with joining everything
and cutting every T tokens, this leaves a little padding and cuts far fewer documents (Ding et al. 2024, arXiv 2404.10830).
"""

import bisect
import collections
import dataclasses
from collections.abc import Iterable, Iterator

import numpy as np

from iquest_jax.text.example import Example

# Rows being filled at a time. More would pad less, and waste more when a stage stops at enough rows.
OPEN_ROWS = 32
EMPTY, TOO_LONG = 'empty', 'longer than a row'
# Fields of a row and their types.
FIELDS = {'tokens': np.int32, 'segment_ids': np.int32, 'positions': np.int32, 'loss_weights': np.float32}

Row = dict[str, np.ndarray]


@dataclasses.dataclass
class Counts:
  """What became of the examples of a split: how many were packed, and how many were dropped, by reason."""

  examples: int = 0
  drops: collections.Counter = dataclasses.field(default_factory=collections.Counter)


def pack(examples: Iterable[Example], context: int, whole: bool, counts: Counts) -> Iterator[Row]:
  """Packs examples into rows.

  Args:
    examples: read only as far as rows are taken.
    context: T, tokens in a row.
    whole: drop an example longer than a row instead of cutting it.
    counts: examples and drops are updated as examples are read.

  Yields:
    Rows {tokens, segment_ids, positions int32 [T], loss_weights float32 [T]}; segments are numbered from 1, 0 is padding.
  """
  # Open rows as (room, age, pieces), least room first; ages are unique, so pieces are never compared.
  opened: list[tuple[int, int, list[Example]]] = []
  ages = 0
  for piece in _pieces(examples, context, whole, counts):
    best = bisect.bisect_left(opened, (len(piece.tokens),))
    if best < len(opened):
      room, age, pieces = opened.pop(best)
    else:
      if len(opened) == OPEN_ROWS:
        yield _row(opened.pop(0)[2], context)
      room, age, pieces = context, ages, []
      ages += 1
    pieces.append(piece)
    room -= len(piece.tokens)
    if room:
      bisect.insort(opened, (room, age, pieces))
    else:
      yield _row(pieces, context)
  for _, _, pieces in sorted(opened, key=lambda row: row[1]):
    yield _row(pieces, context)


def _pieces(examples: Iterable[Example], context: int, whole: bool, counts: Counts) -> Iterator[Example]:
  for example in examples:
    length = len(example.tokens)
    if not length or (whole and length > context):
      counts.drops[TOO_LONG if length else EMPTY] += 1
    else:
      counts.examples += 1
      for start in range(0, length, context):
        end = start + context
        yield Example(example.tokens[start:end], example.loss_weights[start:end])


def _row(pieces: list[Example], context: int) -> Row:
  lengths = np.asarray([len(piece.tokens) for piece in pieces])
  used = lengths.sum()
  row = {name: np.zeros(context, dtype) for name, dtype in FIELDS.items()}
  row['tokens'][:used] = np.concatenate([piece.tokens for piece in pieces])
  row['loss_weights'][:used] = np.concatenate([piece.loss_weights for piece in pieces])
  row['segment_ids'][:used] = np.repeat(np.arange(1, len(pieces) + 1), lengths)
  row['positions'][:used] = np.arange(used) - np.repeat(np.cumsum(lengths) - lengths, lengths)
  return row
