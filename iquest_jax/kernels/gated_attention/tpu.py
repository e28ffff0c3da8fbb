"""Attention on TPUs: the functions of reference.py, each with one kernel launch forward and one backward.

This file pads rows to whole blocks and moves heads before rows; the kernels are in tpu_forward.py and tpu_backward.py. The
backward pass keeps the inputs, the output and one float32 [B, H, 1, T] of statistics per stream, named 'attention_output'
and 'attention_lse' for remat policies: with those saved, the forward kernel need not run again.

Legend: tpu_common.py; T' is T in whole blocks.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from iquest_jax.kernels.gated_attention import block_pairs, tpu_backward, tpu_forward
from iquest_jax.kernels.gated_attention.reference import Ids, Keys, inner, save
from iquest_jax.kernels.gated_attention.tpu_common import DEFAULT, HALO, Near, Options, scores_of_a_document

# A device holds an early and a late chunk of a split row (batch.zigzag), and a halo has a part for each.
CHUNKS = 2


def attention(q_BTHK, q_ids: Ids, keys: Keys, window: int | None = None, options: Options = DEFAULT):
  """reference.attention."""
  return _attention(q_BTHK, q_ids, keys, None, None, None, window, options)


def attention_with_lse(q_BTHK, q_ids: Ids, keys: Keys, window: int | None = None, options: Options = DEFAULT):
  """reference.attention_with_lse, not differentiable; its gradient is `attention_backward`."""
  rows = _Rows.of(q_BTHK, keys, None, _of_part(options, q_ids, keys))
  out, lse = rows.forward(q_BTHK, q_ids, keys, None, window)
  return rows.unpad(out), rows.from_lanes(lse)


def attention_backward(
    q_BTHK,
    q_ids: Ids,
    keys: Keys,
    d_out_BTHK,
    lse_BTH,
    delta_BTH,
    window: int | None = None,
    options: Options = DEFAULT,
):
  """reference.attention_backward."""
  rows = _Rows.of(q_BTHK, keys, None, _of_part(options, q_ids, keys))
  statistics, dtypes = (rows.to_lanes(lse_BTH), rows.to_lanes(delta_BTH)), (jnp.float32, jnp.float32)
  return rows.backward(q_BTHK, q_ids, keys, d_out_BTHK, *statistics, None, window, dtypes)


def gated_attention(
    q_BTHK,
    q_ids: Ids,
    far: Keys,
    near: Keys,
    gate_logits_BTH,
    window: int,
    before: Keys | None = None,
    options: Options = DEFAULT,
):
  """reference.gated_attention where `near` are the queries' own rows, and the rows before a query precede it in its chunk.

  There are CHUNKS chunks with `before`, else one. The first queries of a chunk look back into `before`, or into the chunk
  in front of theirs where the segment id of the row in `before` is 0.

  Raises:
    ValueError: the window reaches further back than the halo of a kernel, or `near` are other rows.
  """
  if not 1 <= window <= HALO:
    raise ValueError(f'gated_attention: window must be in [1, {HALO}] on a TPU, got {window}')
  if near.ids is not q_ids:
    raise ValueError("gated_attention: near keys must be the queries' own rows on a TPU; pass q_ids as near.ids")
  return _attention(q_BTHK, q_ids, far, near, gate_logits_BTH, before, window, options)


@functools.partial(jax.custom_vjp, nondiff_argnums=(6, 7))
def _attention(q_BTHK, q_ids, far, near, gate_logits_BTH, before, window, options):
  """Both kinds of attention; `near`, the logits and `before` are None if there is only one stream."""
  return _attention_forward(q_BTHK, q_ids, far, near, gate_logits_BTH, before, window, options)[0]


def _attention_forward(q_BTHK, q_ids, far, near, gate_logits_BTH, before, window, options):
  rows = _Rows.of(q_BTHK, far, before, options)
  out, *lses = rows.forward(q_BTHK, q_ids, far, _near_stream(rows, gate_logits_BTH, near, before), window)
  out_BTHK, *lses = save(rows.unpad(out), *lses)
  return out_BTHK, (q_BTHK, q_ids, far, near, gate_logits_BTH, before, out_BTHK, lses)


def _attention_backward(window, options, saved, d_out_BTHK):
  q_BTHK, q_ids, far, near, gate_logits_BTH, before, out_BTHK, (lse, *near_lse) = saved
  rows = _Rows.of(q_BTHK, far, before, options)
  stream, pull = jax.vjp(functools.partial(_near_stream, rows), gate_logits_BTH, near, before)
  delta, dtypes = rows.to_lanes(inner(d_out_BTHK, out_BTHK)), (q_BTHK.dtype, far.k.dtype)
  dq, dk, dv, *d_stream = rows.backward(
      q_BTHK, q_ids, far, d_out_BTHK, lse, delta, stream and stream._replace(lse=near_lse[0]), window, dtypes
  )
  if near is None:
    return dq, None, Keys(dk, dv, None), None, None, None
  no_tangent = np.zeros(stream.ids.shape, jax.dtypes.float0)
  d_logits, d_near, d_before = pull(Near(d_stream[0], None, *d_stream[1:], no_tangent))
  return dq, None, Keys(dk, dv, None), d_near, d_logits, d_before


_attention.defvjp(_attention_forward, _attention_backward)


def _of_part(options: Options, q_ids, keys) -> Options:
  """A ring sees every part of the row in full, except the queries' own."""
  return options._replace(part=q_ids is not keys.ids)


class _Rows(NamedTuple):
  """How rows of T queries, in `chunks` chunks, and S keys become whole blocks: each chunk is padded with segment 0."""

  T: int
  S: int
  chunks: int
  options: Options

  @classmethod
  def of(cls, q_BTHK, keys: Keys, before: Keys | None, options: Options):
    T, S, chunks = q_BTHK.shape[1], keys.k.shape[1], 1 if before is None else CHUNKS
    return cls(T, S, chunks, options.fitted(T // chunks, S))

  def pad(self, x_BT):
    """[B, T', ...] of [B, T, ...]: zeros after each chunk of queries."""
    x = x_BT.reshape(x_BT.shape[0], self.chunks, -1, *x_BT.shape[2:])
    x = jnp.pad(x, [(0, 0), (0, 0), (0, -x.shape[2] % self.options.block_q)] + [(0, 0)] * (x.ndim - 3))
    return x.reshape(x_BT.shape[0], -1, *x_BT.shape[2:])

  def unpad(self, x_BHTK):
    """[B, T, H, K] of [B, H, T', K]."""
    B, H, _, K = x_BHTK.shape
    x = x_BHTK.reshape(B, H, self.chunks, -1, K)[:, :, :, : self.T // self.chunks]
    return jnp.swapaxes(x.reshape(B, H, self.T, K), 1, 2)

  def pad_keys(self, x_BS):
    return jnp.pad(x_BS, [(0, 0), (0, -self.S % self.options.block_k)] + [(0, 0)] * (x_BS.ndim - 2))

  def to_lanes(self, x_BTH):
    """float32 [B, H, 1, T']."""
    return jnp.swapaxes(self.pad(x_BTH), 1, 2)[:, :, None]

  def from_lanes(self, x_BH1T):
    """[B, T, H]."""
    return self.unpad(jnp.swapaxes(x_BH1T, 2, 3))[..., 0]

  def _ids(self, q_ids, k_ids):
    """Ids in whole blocks, and the arrays that kernels take."""
    q_ids, k_ids = jax.tree.map(self.pad, q_ids), jax.tree.map(self.pad_keys, k_ids)
    # -1 for padding among the queries: it equals the segment of no key, not even of padding.
    q_array = jnp.stack([jnp.where(q_ids.segment_ids == 0, -1, q_ids.segment_ids), q_ids.positions], axis=1)
    return q_ids, k_ids, q_array, jnp.stack(k_ids, axis=1)

  def _scores(self, near: Near | None, window) -> int:
    """Scores per head that a launch declares as its cost; those of the local stream are 256 per query."""
    if near is None:
      return scores_of_a_document(self.T, self.S, self.chunks, window, self.options)
    return scores_of_a_document(self.T, self.S, self.chunks, None, self.options) + self.T * 2 * HALO

  def forward(self, q_BTHK, q_ids, keys: Keys, near: Near | None, window):
    """tpu_forward.forward of unpadded rows; results are padded."""
    o = self.options
    q_ids, k_ids, *arrays = self._ids(q_ids, keys.ids)
    q, k, v = _heads_first(self.pad(q_BTHK), self.pad_keys(keys.k), self.pad_keys(keys.v))
    pairs, count = block_pairs.forward(q_ids, k_ids, o.block_q, o.block_k, window if near is None else None)
    return tpu_forward.forward(q, k, v, *arrays, pairs, count, near, window, self._scores(near, window), o)

  def backward(self, q_BTHK, q_ids, keys: Keys, d_out_BTHK, lse, delta, near: Near | None, window, dtypes):
    """tpu_backward.backward of unpadded rows: (dq, dk, dv) unpadded, then the gradients of `near` in its layout."""
    o = self.options
    q_ids, k_ids, q_array, k_array = self._ids(q_ids, keys.ids)
    # The ring passes a gradient that may be more exact than what it is multiplied with.
    d_out_BTHK = d_out_BTHK.astype(keys.v.dtype)
    q, k, v, d_out = _heads_first(self.pad(q_BTHK), self.pad_keys(keys.k), self.pad_keys(keys.v), self.pad(d_out_BTHK))
    H, T, K = q.shape[1:]
    most = o.resident_bytes // (H // k.shape[1] * K * 4) // o.block_q * o.block_q

    def launch(start, dk_dtype):
      """On the rows from `start` to `start + most`."""
      rows, blocks = slice(start, start + most), slice(start // o.block_q, (start + most) // o.block_q)
      part = lambda x: x[:, :, rows]
      lanes = lambda x: x[..., rows]
      halos = lambda x: x[:, :, blocks.start * HALO : blocks.stop * HALO]
      cuts = Near(lanes, lanes, part, part, halos, halos, lambda x: x[:, blocks])
      near_part = near and Near(*(cut(x) for cut, x in zip(cuts, near)))
      ids = jax.tree.map(lambda x: x[:, rows], q_ids)
      pairs, count = block_pairs.backward(ids, k_ids, o.block_q, o.block_k, window if near is None else None)
      arrays = (part(q), k, v, part(d_out), lanes(lse), lanes(delta), lanes(q_array), k_array)
      scores = self._scores(near, window) * arrays[0].shape[2] // T
      return tpu_backward.backward(*arrays, pairs, count, near_part, window, (dtypes[0], dk_dtype), scores, o)

    if most >= T:
      dq, dk, dv, *d_near = launch(0, dtypes[1])
    else:
      parts = [launch(start, jnp.float32) for start in range(0, T, most)]
      dqs, dks, dvs, *d_nears = zip(*parts)
      dq, dk, dv = jnp.concatenate(dqs, axis=2), sum(dks).astype(dtypes[1]), sum(dvs).astype(dtypes[1])
      d_near = [jnp.concatenate(x, axis=axis) for x, axis in zip(d_nears, (3, 2, 2, 2, 2))]
    unpad_keys = lambda x: jnp.swapaxes(x, 1, 2)[:, : self.S]
    return self.unpad(dq), unpad_keys(dk), unpad_keys(dv), *d_near


def _near_stream(rows: _Rows, gate_logits_BTH, near: Keys | None, before: Keys | None) -> Near | None:
  if near is None:
    return None
  blocks = lambda x: x.reshape(x.shape[0], -1, rows.options.block_q, *x.shape[2:])
  halo = _before_blocks(rows, near, before)
  flat = lambda x: x.reshape(x.shape[0], -1, *x.shape[3:])
  ids = jax.tree.map(lambda x, own: jnp.concatenate([x, blocks(rows.pad(own))], axis=2), halo.ids, near.ids)
  keys = _heads_first(rows.pad(near.k), rows.pad(near.v), flat(halo.k), flat(halo.v))
  return Near(rows.to_lanes(gate_logits_BTH), None, *keys, jnp.stack(ids, axis=2))


def _before_blocks(rows: _Rows, near: Keys, before: Keys | None) -> Keys:
  """The HALO rows before each block of queries, each array [B, blocks, HALO, ...]."""

  def preceding(x):
    """Before each chunk, zeros before the first."""
    x = jnp.pad(x, [(0, 0), (HALO, 0)] + [(0, 0)] * (x.ndim - 2))
    length = rows.T // rows.chunks
    return jnp.stack([x[:, start : start + HALO] for start in range(0, rows.T, length)], axis=1)

  def given(x):
    """`before` with HALO rows per chunk."""
    x = x.reshape(x.shape[0], rows.chunks, -1, *x.shape[2:])[:, :, -HALO:]
    return jnp.pad(x, [(0, 0), (0, 0), (HALO - x.shape[2], 0)] + [(0, 0)] * (x.ndim - 3))

  first = jax.tree.map(preceding, near)
  if before is not None:
    real = given(before.ids.segment_ids) != 0
    pick = lambda x, other: jnp.where(real.reshape(real.shape + (1,) * (x.ndim - 2)), given(x), other)
    first = jax.tree.map(pick, before, first)

  def before_each(first, x):
    x = rows.pad(x)
    x = x.reshape(x.shape[0], rows.chunks, -1, rows.options.block_q, *x.shape[2:])
    x = jnp.concatenate([first[:, :, None], x[:, :, :-1, -HALO:]], axis=2)
    return x.reshape(x.shape[0], -1, *x.shape[3:])

  return jax.tree.map(before_each, first, near)


def _heads_first(*arrays):
  return tuple(jnp.swapaxes(x, 1, 2) for x in arrays)
