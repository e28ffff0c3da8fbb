"""Which pairs of a query block and a key block a kernel must visit: decided from ids alone, so keys may be in any order.

A kernel walks a compact list of the pairs in which something may be visible. The list reaches the kernel before the data,
so that blocks outside it are neither fetched nor inspected, and its length is the bound of the grid.

Legend: B batch, N most pairs.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from iquest_jax.kernels.gated_attention.reference import Ids

# How much of a pair is visible. For SOME, a kernel tests segments and positions. Skipping the test of segments where there
# is only one saved nothing on v5p under libtpu 0.0.42, and a few percent of such pairs elsewhere (experiments/LOG.md).
NOTHING, ALL, SOME = range(3)
WORK = 3
# Flags: first and last pair of an outer block, whose sums run over consecutive pairs (forward: queries, backward: keys).
FIRST, LAST = 4, 8
# First and last pair of a query block in the backward order, in which its pairs are not consecutive.
FIRST_Q, LAST_Q = 16, 32

_NEVER = jnp.iinfo(jnp.int32).max


class BlockPairs(NamedTuple):
  """The list: int32 [B, N] each. A row with fewer pairs repeats its last one, marked NOTHING.

  Attributes:
    q_block, k_block: indices of the two blocks.
    kind: NOTHING, ALL or SOME, plus flags.
    start_block, end_block: query block of the latest pair with FIRST_Q, and of the next pair with LAST_Q (backward only).
      They index what is read or written once per query block, so that it is not moved in between.
  """

  q_block: jax.Array
  k_block: jax.Array
  kind: jax.Array
  start_block: jax.Array
  end_block: jax.Array


def forward(q_ids: Ids, k_ids: Ids, block_q: int, block_k: int, window: int | None):
  """Pairs ordered by query block: (BlockPairs, int32 [] length of the longest list).

  Rows are in whole blocks. Every query block has at least one pair, so that its output is written.
  """
  work = _work(_summary(q_ids, block_q), _summary(k_ids, block_k), window)
  listed = _listed(work, 2)
  return _compact(work + _edges(listed, 2, FIRST, LAST), listed)


def backward(q_ids: Ids, k_ids: Ids, block_q: int, block_k: int, window: int | None):
  """Pairs ordered by key block, as in `forward`; every query block and every key block has at least one pair."""
  work = _work(_summary(q_ids, block_q), _summary(k_ids, block_k), window)
  listed = _listed(work, 1, 2)
  kind = work + _edges(listed, 1, FIRST, LAST) + _edges(listed, 2, FIRST_Q, LAST_Q)
  return _compact(jnp.swapaxes(kind, 1, 2), jnp.swapaxes(listed, 1, 2), transposed=True)


class _Summary(NamedTuple):
  """Per block, [B, blocks]: its first and last (segment, position) in sorted order, and whether it is a single segment."""

  first_segment: jax.Array
  first_position: jax.Array
  last_segment: jax.Array
  last_position: jax.Array
  uniform: jax.Array


def _summary(ids: Ids, block: int) -> _Summary:
  segments, positions = (x.reshape(x.shape[0], -1, block) for x in ids)
  real = segments != 0
  first = jnp.min(jnp.where(real, segments, _NEVER), axis=-1)
  last = jnp.max(segments, axis=-1)
  first_position = jnp.min(jnp.where(segments == first[..., None], positions, _NEVER), axis=-1)
  last_position = jnp.max(jnp.where(real & (segments == last[..., None]), positions, -1), axis=-1)
  return _Summary(first, first_position, last, last_position, (first == last) & jnp.all(real, axis=-1))


def _work(q: _Summary, k: _Summary, window: int | None):
  """NOTHING, ALL or SOME for each pair of blocks, int32 [B, query blocks, key blocks].

  A query sees keys of its segment that are not later. So if a pair is visible, the first key of the block sorts no later
  than its last query by (segment, position). This holds for rows in any order; it skips most if segment ids grow along the
  row, as they do in packed rows.
  """
  q, k = _Summary(*(x[:, :, None] for x in q)), _Summary(*(x[:, None, :] for x in k))
  earlier = (k.first_segment < q.last_segment) | (
      (k.first_segment == q.last_segment) & (k.first_position <= q.last_position)
  )
  needed = earlier & (k.last_segment >= q.first_segment)
  same = q.uniform & k.uniform & (q.first_segment == k.first_segment)
  full = same & (k.last_position <= q.first_position)
  if window is not None:
    # If the last key and the first query are of one segment, no other pair is nearer.
    needed &= (k.last_segment != q.first_segment) | (q.first_position - k.last_position < window)
    full &= q.last_position - k.first_position < window
  return jnp.where(needed, jnp.where(full, ALL, SOME), NOTHING)


def _listed(work, *axes):
  """The pairs with work; a block that has none along one of `axes` is listed with the first block of the other kind."""
  listed = work > 0
  for axis in axes:
    first = jax.lax.broadcasted_iota(jnp.int32, work.shape, axis) == 0
    listed |= ~jnp.any(listed, axis=axis, keepdims=True) & first
  return listed


def _edges(listed, axis, first, last):
  """The flags `first` and `last` for the first and last listed pair along an axis."""
  count = lambda reverse: jax.lax.cumsum(listed.astype(jnp.int32), axis=axis, reverse=reverse)
  return jnp.where(listed & (count(False) == 1), first, 0) + jnp.where(listed & (count(True) == 1), last, 0)


def _compact(kind, listed, transposed=False):
  """Lists the pairs of [B, outer, inner] in order: (BlockPairs, length of the longest list)."""
  B, _, inner = kind.shape
  kind, listed = kind.reshape(B, -1), listed.reshape(B, -1)
  counts = jnp.sum(listed, axis=1, dtype=jnp.int32)[:, None]
  n = jax.lax.broadcasted_iota(jnp.int32, kind.shape, 1)
  # A stable sort moves listed pairs to the front and keeps their order.
  order = jnp.take_along_axis(jnp.argsort(~listed, axis=1, stable=True), jnp.minimum(n, counts - 1), axis=1)
  outer_block, inner_block = (order // inner).astype(jnp.int32), (order % inner).astype(jnp.int32)
  kind = jnp.where(n < counts, jnp.take_along_axis(kind, order, axis=1), NOTHING).astype(jnp.int32)
  q_block, k_block = (inner_block, outer_block) if transposed else (outer_block, inner_block)
  # Only the backward order sets these flags; the forward kernel does not use the indices below.
  latest = jax.lax.cummax(jnp.where(kind & FIRST_Q > 0, n, 0), axis=1)
  following = jax.lax.cummin(jnp.where(kind & LAST_Q > 0, n, counts - 1), axis=1, reverse=True)
  at = lambda index: jnp.take_along_axis(q_block, index, axis=1)
  return BlockPairs(q_block, k_block, kind, at(latest), at(following)), jnp.max(counts)
