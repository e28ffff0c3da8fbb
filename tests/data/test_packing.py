"""Packing: every token once and in order, positions restart, no row crosses documents."""

import collections

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from iquest_jax.data.rows import packing
from iquest_jax.text.example import Example

LENGTHS = st.lists(st.integers(0, 40), max_size=120)


def _examples(lengths):
  """Example d holds the tokens 1000 d + 0, 1, 2, ...; so a token identifies its document. Weights are never 0."""
  return [
      Example(1000 * d + np.arange(n, dtype=np.int32), (1 + np.arange(n) % 3).astype(np.float32))
      for d, n in enumerate(lengths, start=1)
  ]


def _segments(rows):
  """(tokens, weights, positions) of each segment of each row, in order."""
  for row in rows:
    for segment in range(1, row['segment_ids'].max(initial=0) + 1):
      inside = row['segment_ids'] == segment
      yield row['tokens'][inside], row['loss_weights'][inside], row['positions'][inside]


@given(LENGTHS, st.integers(1, 24), st.booleans())
def test_every_token_of_every_document_occurs_once_and_in_order(lengths, context, whole):
  examples, counts = _examples(lengths), packing.Counts()
  rows = list(packing.pack(examples, context, whole, counts))
  pieces_of = collections.defaultdict(list)
  for tokens, weights, positions in _segments(rows):
    document = tokens[0] // 1000
    assert (tokens // 1000 == document).all()  # no segment holds two documents
    assert (positions == np.arange(len(tokens))).all()  # positions restart
    assert (weights == 1 + tokens % 1000 % 3).all()
    pieces_of[document].append(tokens)
  kept = {d: n for d, n in enumerate(lengths, start=1) if n and not (whole and n > context)}
  assert counts.examples == len(kept) and pieces_of.keys() == kept.keys()
  for document, pieces in pieces_of.items():
    tokens = np.concatenate(sorted(pieces, key=lambda piece: piece[0]))
    assert np.array_equal(tokens, 1000 * document + np.arange(kept[document]))
    assert len(pieces) == -(-kept[document] // context)  # cut only if it is longer than a row
  dropped = {packing.EMPTY: lengths.count(0), packing.TOO_LONG: sum(n > context for n in lengths) if whole else 0}
  assert counts.drops == collections.Counter({reason: n for reason, n in dropped.items() if n})


@given(LENGTHS, st.integers(1, 24))
def test_a_row_has_every_field_and_padding_is_zero(lengths, context):
  for row in packing.pack(_examples(lengths), context, False, packing.Counts()):
    assert {name: (array.shape, array.dtype.type) for name, array in row.items()} == {
        name: ((context,), dtype) for name, dtype in packing.FIELDS.items()
    }
    used = int((row['segment_ids'] > 0).sum())
    assert used and (np.diff(row['segment_ids'][:used]) >= 0).all() and row['segment_ids'][0] == 1
    assert set(np.diff(row['segment_ids'][:used])) <= {0, 1}
    assert all((row[name][used:] == 0).all() for name in packing.FIELDS)


def test_long_mixed_documents_leave_little_padding():
  lengths = np.random.default_rng(0).integers(1, 1000, 3000)
  rows = list(packing.pack(_examples(lengths), 512, False, packing.Counts()))
  assert lengths.sum() / (512 * len(rows)) > 0.97


def test_only_as_many_documents_are_read_as_rows_are_taken():
  read = []

  def endless():
    while True:
      read.append(1)
      yield _examples([10])[0]

  rows = packing.pack(endless(), 10, True, packing.Counts())
  assert next(rows)['tokens'].tolist() == list(range(1000, 1010)) and len(read) == 1
