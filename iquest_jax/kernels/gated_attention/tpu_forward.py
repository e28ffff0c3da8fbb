"""Attention on TPUs, forward: one launch for one stream, or for two that are mixed by a gate.

The grid is (B, H, N). Pairs of one query block are consecutive, and an online softmax runs over their keys; the last pair
adds the local stream, whose softmax needs no second step. Scores are laid out queries x keys. Legend: tpu_common.py.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from iquest_jax.kernels.gated_attention import block_pairs, tpu_common
from iquest_jax.kernels.gated_attention.reference import MASKED
from iquest_jax.kernels.gated_attention.tpu_common import HALO, LANES, LOG2_E, column, dot, hide, visible, widen


def forward(q, k, v, q_ids, k_ids, pairs, count, near: tpu_common.Near | None, window, scores, options):
  """One launch; rows in whole blocks, heads before rows.

  Args:
    q: [B, H, T, K].
    k, v: [B, G, S, K].
    q_ids, k_ids: segments and positions, int32 [B, 2, T] and [B, 2, S]; padding has segment -1 in q_ids, 0 in k_ids.
    pairs, count: from block_pairs.forward.
    near: the local stream; None if there is only one stream.
    window: of the local stream if there is one, else of the only stream.
    scores: computed per head, for the cost that the kernel declares.
    options: tpu_common.Options, fitted to the rows.

  Returns:
    (out [B, H, T, K], lse float32 [B, H, 1, T] of each stream)
  """
  B, H, T, K = q.shape
  streams = 1 if near is None else 2
  in_specs, out_specs = _specs(H // k.shape[1], K, near is not None, options)
  return pl.pallas_call(
      functools.partial(_kernel, window=window, chunk=options.chunk, streams=streams),
      out_shape=[jax.ShapeDtypeStruct(q.shape, q.dtype)]
      + [jax.ShapeDtypeStruct((B, H, 1, T), jnp.float32)] * streams,
      grid_spec=pltpu.PrefetchScalarGridSpec(
          num_scalar_prefetch=3,
          grid=(B, H, count),
          in_specs=in_specs,
          out_specs=out_specs,
          scratch_shapes=[
              pltpu.VMEM((options.block_q, LANES), jnp.float32),
              pltpu.VMEM((options.block_q, LANES), jnp.float32),
              pltpu.VMEM((options.block_q, K), jnp.float32),
              pltpu.VMEM((2, options.block_q, LANES), jnp.int32),
          ],
      ),
      compiler_params=tpu_common.compiler_params('parallel', 'parallel', 'arbitrary'),
      cost_estimate=pl.CostEstimate(
          flops=4 * B * H * scores * K,
          transcendentals=B * H * scores,
          bytes_accessed=q.dtype.itemsize * B * H * 2 * K * (T * (1 + streams) + scores // options.block_q),
      ),
      interpret=options.interpret,
      name='attention_forward' if near is None else 'gated_attention_forward',
  )(pairs.q_block, pairs.k_block, pairs.kind, q, k, v, q_ids, k_ids, *jax.tree.leaves(near))


def _specs(R, K, gated, options):
  """(in_specs, out_specs): the blocks of every array at a point of the grid."""
  block_q, block_k = options.block_q, options.block_k
  # Plain //, which rounds down for signed numbers, does not lower for a TPU that is only a compile target.
  group = lambda h: jax.lax.div(h, jnp.int32(R))

  def spec(shape, index):
    return pl.BlockSpec(shape, lambda b, h, n, q_block, k_block, kind: index(b, h, q_block[b, n], k_block[b, n]))

  row_spec = spec((None, None, block_q, K), lambda b, h, q, k: (b, h, q, 0))
  key_spec = spec((None, None, block_k, K), lambda b, h, q, k: (b, group(h), k, 0))
  lane_spec = spec((None, None, 1, block_q), lambda b, h, q, k: (b, h, 0, q))
  in_specs = [
      row_spec,
      key_spec,
      key_spec,
      spec((None, 2, block_q), lambda b, h, q, k: (b, 0, q)),
      spec((None, 2, block_k), lambda b, h, q, k: (b, 0, k)),
  ]
  out_specs = [row_spec, lane_spec]
  if gated:
    own_keys = lambda b, h, q, k: (b, group(h), q, 0)
    own_spec, halo_spec = (spec((None, None, length, K), own_keys) for length in (block_q, HALO))
    ids_spec = spec((None, None, 2, HALO + block_q), lambda b, h, q, k: (b, q, 0, 0))
    in_specs += [lane_spec, own_spec, own_spec, halo_spec, halo_spec, ids_spec]
    out_specs += [lane_spec]
  return in_specs, out_specs


def _kernel(q_block, k_block, kind, q, k, v, q_ids, k_ids, *refs, window, chunk, streams):
  near, (out, *lses), (top, total, acc, columns) = refs[: -5 - streams], refs[-5 - streams : -4], refs[-4:]
  K = q.shape[1]
  step = kind[pl.program_id(0), pl.program_id(2)]

  @pl.when(step & block_pairs.FIRST != 0)
  def _():
    top[...] = jnp.full_like(top, MASKED)
    total[...] = jnp.zeros_like(total)
    acc[...] = jnp.zeros_like(acc)
    columns[0], columns[1] = column(q_ids[0:1, :]), column(q_ids[1:2, :])

  for work in (block_pairs.ALL, block_pairs.SOME):

    @pl.when(step & block_pairs.WORK == work)
    def _(work=work):
      far_window = None if near else window
      _fold(work, q, k, v, columns, k_ids, top, total, acc, far_window, chunk)

  @pl.when(step & block_pairs.LAST != 0)
  def _():
    sums = jnp.broadcast_to(jnp.sum(total[...], axis=1, keepdims=True), total.shape)
    seen = top[...] > MASKED / 2
    inverse = jnp.where(seen, 1 / sums, 0)
    lse = jnp.where(seen, top[...] / math.sqrt(K) + jnp.log(sums), MASKED)
    lses[0][...] = jnp.transpose(lse)[0:1]
    if near:
      _mix_in_local(q, acc, inverse, columns, *near, out, lses[1], window)
    else:
      out[...] = (acc[...] * widen(inverse, K)).astype(out.dtype)


def _fold(work, q, k, v, columns, k_ids, top, total, acc, window, chunk):
  """Adds one block of keys to the online softmax, whose statistics are those of unscaled scores."""
  block_k, K = k.shape
  scale = LOG2_E / math.sqrt(K)
  for start in range(0, block_k, chunk):
    here = pl.ds(start, chunk)
    scores = dot(q[...], k[here, :], (1, 1))
    seen = visible(
        work, widen(columns[0], chunk), widen(columns[1], chunk), k_ids[0:1, here], k_ids[1:2, here], window
    )
    scores = hide(scores, seen)
    tpu_common.add_to_softmax(scores, v[here, :], scale, top, total, acc)


def _mix_in_local(q, acc, inverse, columns, logits, k2, v2, halo_k, halo_v, ids, out, lse_out, window):
  """Writes g * global + (1 - g) * local, 128 queries at a time: they see the 128 keys before them and their own 128."""
  block_q, K = q.shape
  scale = LOG2_E / math.sqrt(K)
  gate = column(jax.nn.sigmoid(logits[...]))
  for start in range(0, block_q, LANES):
    here = pl.ds(start, LANES)
    keys, values = (around(halo, own, start) for halo, own in ((halo_k, k2), (halo_v, v2)))
    scores = dot(q[here, :], keys, (1, 1))
    near = pl.ds(start, HALO + LANES)
    seen = visible(
        block_pairs.SOME,
        widen(columns[0, here, :], HALO + LANES),
        widen(columns[1, here, :], HALO + LANES),
        ids[0:1, near],
        ids[1:2, near],
        window,
    )
    scores = hide(scores, seen)
    top = jnp.broadcast_to(jnp.max(scores, axis=1, keepdims=True), (LANES, LANES))
    p = jnp.exp2((scores - widen(top, HALO + LANES)) * scale)
    sums = jnp.broadcast_to(jnp.sum(p, axis=1, keepdims=True), (LANES, LANES))
    some = top > MASKED / 2
    lse = jnp.where(some, top / math.sqrt(K) + jnp.log(sums), MASKED)
    lse_out[0:1, here] = jnp.transpose(lse)[0:1]
    g = gate[start : start + LANES]
    near_out = dot(p.astype(values.dtype), values, (1, 0)) * widen(jnp.where(some, (1 - g) / sums, 0), K)
    far_out = acc[here, :] * widen(g * inverse[start : start + LANES], K)
    out[here, :] = (far_out + near_out).astype(out.dtype)


def around(halo, own, start):
  """The rows that 128 queries from row `start` of a block see, [HALO + 128, K]."""
  if start == 0:
    return jnp.concatenate([halo[...], own[:LANES, :]], axis=0)
  return own[start - HALO : start + LANES, :]
