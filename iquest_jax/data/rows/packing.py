"""Packs examples into rows of exactly T tokens: best fit, and no document cut that fits in a row.

A longer document is cut at multiples of T, or dropped where a cut would ruin it; each piece is a segment of its own
whose positions restart. Rows are then filled best fit: a piece goes where the least room is left over. Against joining
everything and cutting every T tokens this leaves a little padding and cuts far fewer documents (Ding et al. 2024,
arXiv 2404.10830).
"""

import bisect
import collections
import dataclasses
import math
from collections.abc import Iterable, Iterator

import numpy as np

from iquest_jax.text.example import Example

# Rows being filled at a time. More would pad less and, when a stage has rows enough, waste more.
OPEN_ROWS = 32
EMPTY, TOO_LONG = 'empty', 'longer than a row'
# Fields of a row in the order of WORKSPACE.md, with their types.
FIELDS = {'tokens': np.int32, 'segment_ids': np.int32, 'positions': np.int32, 'loss_weights': np.float32}

Row = dict[str, np.ndarray]


@dataclasses.dataclass
class Counts:
  """What happened to the documents: how many were packed, how many dropped, by reason."""

  documents: int = 0
  drops: collections.Counter = dataclasses.field(default_factory=collections.Counter)


def pack(
    examples: Iterable[Example], context: int, whole: bool, counts: Counts, patience: float = math.inf
) -> Iterator[Row]:
  """Packs examples into rows.

  Args:
    examples: read only as far as rows are taken.
    context: T, tokens in a row.
    whole: drop an example longer than a row instead of cutting it.
    counts: written to as examples are read.
    patience: ends after so many examples in a row that were dropped, as if they were the last.

  Yields:
    Rows {tokens, segment_ids, positions int32 [T], loss_weights float32 [T]}; segments count from 1, 0 is padding.
  """
  # Open rows as (room, age, pieces), least room first; age is unique, so that pieces are never compared.
  opened: list[tuple[int, int, list[Example]]] = []
  ages = 0
  for piece in _pieces(examples, context, whole, counts, patience):
    place = bisect.bisect_left(opened, (len(piece.tokens),))
    if place < len(opened):
      room, age, pieces = opened.pop(place)
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


def _pieces(
    examples: Iterable[Example], context: int, whole: bool, counts: Counts, patience: float
) -> Iterator[Example]:
  dropped = 0
  for example in examples:
    length = len(example.tokens)
    if not length or (whole and length > context):
      counts.drops[TOO_LONG if length else EMPTY] += 1
      dropped += 1
      if dropped >= patience:
        return
    else:
      counts.documents += 1
      dropped = 0
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
