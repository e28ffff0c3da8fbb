"""Attention on TPUs: the functions of reference.py by one kernel launch forward and one backward.

Here rows are padded to whole blocks and put heads first; the kernels are in tpu_forward.py, tpu_backward.py. What the
backward pass keeps: the inputs, the output and one float32 [B, H, 1, T] of statistics per stream, named for remat policies
'attention_output' and 'attention_lse' so that saving those is enough to not run the kernel again.

Legend: tpu_common.py; T' is T in whole blocks.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name

from iquest_jax.kernels.gated_attention import block_pairs, tpu_backward, tpu_forward
from iquest_jax.kernels.gated_attention.reference import Halo, Ids
from iquest_jax.kernels.gated_attention.tpu_common import DEFAULT, HALO, Options

# A device holds an early and a late chunk of a row that is split over several (batch.zigzag); a halo has a part for each.
CHUNKS = 2


@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6))
def attention(q_BTHK, k_BSGK, v_BSGK, q_ids: Ids, k_ids: Ids, window: int | None = None, options: Options = DEFAULT):
  """reference.attention."""
  return attention_with_lse(q_BTHK, k_BSGK, v_BSGK, q_ids, k_ids, window, options)[0]


def _attention_forward(q_BTHK, k_BSGK, v_BSGK, q_ids, k_ids, window, options):
  out_BTHK, lse = _one_stream(q_BTHK, k_BSGK, v_BSGK, q_ids, k_ids, window, options)
  out_BTHK, lse = _save(out_BTHK, lse)
  return out_BTHK, (q_BTHK, k_BSGK, v_BSGK, q_ids, k_ids, out_BTHK, lse)


def _attention_backward(window, options, saved, d_out_BTHK):
  q_BTHK, k_BSGK, v_BSGK, q_ids, k_ids, out_BTHK, lse = saved
  rows = _Rows.of(q_BTHK, k_BSGK, None, options)
  delta, dtypes = rows.to_lanes(_inner(d_out_BTHK, out_BTHK)), (q_BTHK.dtype, k_BSGK.dtype)
  grads = rows.backward(q_BTHK, k_BSGK, v_BSGK, d_out_BTHK, lse, delta, q_ids, k_ids, None, window, dtypes)
  return *grads, None, None


attention.defvjp(_attention_forward, _attention_backward)


def attention_with_lse(
    q_BTHK, k_BSGK, v_BSGK, q_ids: Ids, k_ids: Ids, window: int | None = None, options: Options = DEFAULT
):
  """reference.attention_with_lse; not differentiable, `attention_backward` is its other half."""
  options = _of_part(options, q_ids, k_ids)
  out_BTHK, lse = _one_stream(q_BTHK, k_BSGK, v_BSGK, q_ids, k_ids, window, options)
  return out_BTHK, _Rows.of(q_BTHK, k_BSGK, None, options).from_lanes(lse)


def attention_backward(
    q_BTHK,
    k_BSGK,
    v_BSGK,
    d_out_BTHK,
    lse_BTH,
    delta_BTH,
    q_ids: Ids,
    k_ids: Ids,
    window: int | None = None,
    options: Options = DEFAULT,
):
  """reference.attention_backward."""
  options = _of_part(options, q_ids, k_ids)
  rows = _Rows.of(q_BTHK, k_BSGK, None, options)
  statistics = (rows.to_lanes(lse_BTH), rows.to_lanes(delta_BTH))
  dtypes = (jnp.float32, jnp.float32)
  return rows.backward(q_BTHK, k_BSGK, v_BSGK, d_out_BTHK, *statistics, q_ids, k_ids, None, window, dtypes)


def gated_attention(
    q_BTHK,
    k1_BSGK,
    v1_BSGK,
    k2_BTGK,
    v2_BTGK,
    gate_logits_BTH,
    q_ids: Ids,
    k1_ids: Ids,
    window: int,
    halo: Halo | None = None,
    options: Options = DEFAULT,
):
  """reference.gated_attention, where the rows before a query lie before it in its chunk.

  With a halo there are CHUNKS of them, else one. The first queries of a chunk look back into the halo, or into k2 where
  the halo's row has segment 0.

  Raises:
    ValueError: the window reaches further back than the halo of a kernel.
  """
  if not 1 <= window <= HALO:
    raise ValueError(f'gated_attention: a window of {window} keys; the kernel looks back over 1 to {HALO}')
  return _gated(q_BTHK, k1_BSGK, v1_BSGK, k2_BTGK, v2_BTGK, gate_logits_BTH, q_ids, k1_ids, halo, window, options)


@functools.partial(jax.custom_vjp, nondiff_argnums=(9, 10))
def _gated(q_BTHK, k1_BSGK, v1_BSGK, k2_BTGK, v2_BTGK, gate_logits_BTH, q_ids, k1_ids, halo, window, options):
  return _gated_forward(
      q_BTHK, k1_BSGK, v1_BSGK, k2_BTGK, v2_BTGK, gate_logits_BTH, q_ids, k1_ids, halo, window, options
  )[0]


def _gated_forward(q_BTHK, k1_BSGK, v1_BSGK, k2_BTGK, v2_BTGK, gate_logits_BTH, q_ids, k1_ids, halo, window, options):
  inputs = (q_BTHK, k1_BSGK, v1_BSGK, k2_BTGK, v2_BTGK, gate_logits_BTH, q_ids, k1_ids, halo)
  rows = _Rows.of(q_BTHK, k1_BSGK, halo, options)
  logits, *keys, ids = _local_stream(rows, gate_logits_BTH, k2_BTGK, v2_BTGK, q_ids, halo)
  out, *lses = rows.forward(q_BTHK, k1_BSGK, v1_BSGK, q_ids, k1_ids, (logits, *keys, ids), window)
  out_BTHK, *lses = _save(rows.unpad(out), *lses)
  return out_BTHK, (inputs, out_BTHK, lses)


def _gated_backward(window, options, saved, d_out_BTHK):
  inputs, out_BTHK, (lse, local_lse) = saved
  q_BTHK, k1_BSGK, v1_BSGK, k2_BTGK, v2_BTGK, gate_logits_BTH, q_ids, k1_ids, halo = inputs
  rows = _Rows.of(q_BTHK, k1_BSGK, halo, options)
  halo_kv = None if halo is None else (halo.k, halo.v)

  def differentiable(logits, k2, v2, halo_kv):
    return _local_stream(rows, logits, k2, v2, q_ids, halo and Halo(*halo_kv, halo.ids))

  (logits, *keys, ids), pull = jax.vjp(differentiable, gate_logits_BTH, k2_BTGK, v2_BTGK, halo_kv)
  delta = rows.to_lanes(_inner(d_out_BTHK, out_BTHK))
  dtypes = (q_BTHK.dtype, k1_BSGK.dtype)
  dq, dk1, dv1, *d_local = rows.backward(
      q_BTHK, k1_BSGK, v1_BSGK, d_out_BTHK, lse, delta, q_ids, k1_ids, (logits, local_lse, *keys, ids), window, dtypes
  )
  d_logits, dk2, dv2, d_halo_kv = pull((*d_local, _no_tangent(ids)))
  d_halo = None if halo is None else Halo(*d_halo_kv, None)
  return dq, dk1, dv1, dk2, dv2, d_logits, None, None, d_halo


_gated.defvjp(_gated_forward, _gated_backward)


def _of_part(options: Options, q_ids, k_ids) -> Options:
  """A ring's parts of the row are seen in whole, but for the queries' own."""
  return options if q_ids is k_ids else options._replace(seen=1.0)


class _Rows(NamedTuple):
  """How rows of T queries, in `chunks` chunks, and S keys become whole blocks: each chunk is padded with segment 0."""

  T: int
  S: int
  chunks: int
  options: Options

  @classmethod
  def of(cls, q_BTHK, k_BSGK, halo, options):
    T, S, chunks = q_BTHK.shape[1], k_BSGK.shape[1], 1 if halo is None else CHUNKS
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
    """Ids in whole blocks, and as the kernels take them."""
    q_ids, k_ids = jax.tree.map(self.pad, q_ids), jax.tree.map(self.pad_keys, k_ids)
    # Padding among the queries equals no segment of a key, not even padding.
    q_array = jnp.stack([jnp.where(q_ids.segment_ids == 0, -1, q_ids.segment_ids), q_ids.positions], axis=1)
    return q_ids, k_ids, q_array, jnp.stack(k_ids, axis=1)

  def forward(self, q_BTHK, k_BSGK, v_BSGK, q_ids, k_ids, local, window):
    """tpu_forward.forward of unpadded rows; what it returns is padded."""
    o = self.options
    q_ids, k_ids, *arrays = self._ids(q_ids, k_ids)
    q, k, v = _heads_first(self.pad(q_BTHK), self.pad_keys(k_BSGK), self.pad_keys(v_BSGK))
    listed, count = block_pairs.forward(q_ids, k_ids, o.block_q, o.block_k, window if local is None else None)
    return tpu_forward.forward(q, k, v, *arrays, listed, count, local, window, o)

  def backward(self, q_BTHK, k_BSGK, v_BSGK, d_out_BTHK, lse, delta, q_ids, k_ids, local, window, dtypes):
    """tpu_backward.backward of unpadded rows: (dq, dk, dv) unpadded, then the gradients of `local` as it was given."""
    o = self.options
    q_ids, k_ids, q_array, k_array = self._ids(q_ids, k_ids)
    # The ring hands on a gradient that may be more exact than what it is multiplied with.
    d_out_BTHK = d_out_BTHK.astype(v_BSGK.dtype)
    q, k, v, d_out = _heads_first(self.pad(q_BTHK), self.pad_keys(k_BSGK), self.pad_keys(v_BSGK), self.pad(d_out_BTHK))
    T, most = q.shape[2], tpu_backward.most_rows(q.shape[1], k.shape[1], q.shape[3], o)

    def launch(start, dk_dtype):
      """On the rows from `start` to `start + most`."""
      rows, blocks = slice(start, start + most), slice(start // o.block_q, (start + most) // o.block_q)
      part = lambda x: x[:, :, rows]
      lanes = lambda x: x[..., rows]
      halos = lambda x: x[:, :, blocks.start * HALO : blocks.stop * HALO]
      cuts = (lanes, lanes, part, part, halos, halos, lambda x: x[:, blocks])
      near = local and tuple(cut(x) for cut, x in zip(cuts, local))
      ids = jax.tree.map(lambda x: x[:, rows], q_ids)
      listed, count = block_pairs.backward(ids, k_ids, o.block_q, o.block_k, window if local is None else None)
      statistics, types = (lanes(lse), lanes(delta)), (dtypes[0], dk_dtype)
      ids = (lanes(q_array), k_array)
      return tpu_backward.backward(
          part(q), k, v, part(d_out), *statistics, *ids, listed, count, near, window, types, o
      )

    if most >= T:
      dq, dk, dv, *d_local = launch(0, dtypes[1])
    else:
      parts = [launch(start, jnp.float32) for start in range(0, T, most)]
      dqs, dks, dvs, *d_locals = zip(*parts)
      dq, dk, dv = jnp.concatenate(dqs, axis=2), sum(dks).astype(dtypes[1]), sum(dvs).astype(dtypes[1])
      d_local = [jnp.concatenate(x, axis=axis) for x, axis in zip(d_locals, (3, 2, 2, 2, 2))]
    keys_back = lambda x: jnp.swapaxes(x, 1, 2)[:, : self.S]
    return self.unpad(dq), keys_back(dk), keys_back(dv), *d_local


def _one_stream(q_BTHK, k_BSGK, v_BSGK, q_ids, k_ids, window, options):
  """(out [B, T, H, K], lse float32 [B, H, 1, T'])."""
  rows = _Rows.of(q_BTHK, k_BSGK, None, options)
  out, lse = rows.forward(q_BTHK, k_BSGK, v_BSGK, q_ids, k_ids, None, window)
  return rows.unpad(out), lse


def _local_stream(rows: _Rows, gate_logits_BTH, k_BTGK, v_BTGK, ids: Ids, halo: Halo | None):
  """What the kernels take of the local stream: (logits, k, v, halo k, halo v, ids of halo and own rows)."""
  blocks = lambda x: x.reshape(x.shape[0], -1, rows.options.block_q, *x.shape[2:])
  before_k, before_v, before_ids = _before_blocks(rows, (k_BTGK, v_BTGK, ids), halo)
  flat = lambda x: x.reshape(x.shape[0], -1, *x.shape[3:])
  near_ids = jax.tree.map(lambda before, own: jnp.concatenate([before, blocks(rows.pad(own))], axis=2), before_ids, ids)
  keys = _heads_first(rows.pad(k_BTGK), rows.pad(v_BTGK), flat(before_k), flat(before_v))
  return (rows.to_lanes(gate_logits_BTH), *keys, jnp.stack(near_ids, axis=2))


def _before_blocks(rows: _Rows, own, halo: Halo | None):
  """The HALO rows before each block of queries, [B, blocks, HALO, ...] for each array of (k, v, ids)."""

  def inside(x):
    """Before the blocks of a chunk but its first."""
    x = rows.pad(x)
    x = x.reshape(x.shape[0], rows.chunks, -1, rows.options.block_q, *x.shape[2:])
    return x[:, :, :-1, -HALO:]

  def preceding(x):
    """Before each chunk, zeros before the first."""
    x = jnp.pad(x, [(0, 0), (HALO, 0)] + [(0, 0)] * (x.ndim - 2))
    length = rows.T // rows.chunks
    return jnp.stack([x[:, start : start + HALO] for start in range(0, rows.T, length)], axis=1)

  def given(x):
    """The halo, HALO rows a chunk."""
    x = x.reshape(x.shape[0], rows.chunks, -1, *x.shape[2:])[:, :, -HALO:]
    return jnp.pad(x, [(0, 0), (0, 0), (HALO - x.shape[2], 0)] + [(0, 0)] * (x.ndim - 3))

  before = jax.tree.map(preceding, own)
  if halo is not None:
    there = given(halo.ids.segment_ids) != 0
    pick = lambda x, other: jnp.where(there.reshape(there.shape + (1,) * (x.ndim - 2)), given(x), other)
    before = jax.tree.map(pick, tuple(halo), before)
  join = lambda first, x: jnp.concatenate([first[:, :, None], inside(x)], axis=2)
  return jax.tree.map(lambda first, x: (y := join(first, x)).reshape(y.shape[0], -1, *y.shape[3:]), before, own)


def _heads_first(*arrays):
  return tuple(jnp.swapaxes(x, 1, 2) for x in arrays)


def _inner(d_out_BTHK, out_BTHK):
  return jnp.sum(d_out_BTHK.astype(jnp.float32) * out_BTHK.astype(jnp.float32), axis=-1)


def _no_tangent(x):
  return np.zeros(x.shape, jax.dtypes.float0)


def _save(out_BTHK, *lses):
  return checkpoint_name(out_BTHK, 'attention_output'), *(checkpoint_name(lse, 'attention_lse') for lse in lses)
