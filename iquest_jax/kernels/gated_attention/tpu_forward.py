"""Attention on TPUs, forward: one launch for one stream, or for two that are mixed by a gate.

Grid (B, H, N): the pairs of one query block follow each other, an online softmax runs over their keys; the last of them
adds the local stream, whose softmax fits in one piece. Scores lie queries x keys. Legend: tpu_common.py.
"""

import math

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from iquest_jax.kernels.gated_attention import block_pairs
from iquest_jax.kernels.gated_attention.reference import MASKED
from iquest_jax.kernels.gated_attention.tpu_common import (
    HALO,
    LANES,
    LOG2_E,
    Options,
    column,
    compiler_params,
    dot,
    hide,
    visible,
    widen,
)


def forward(q, k, v, q_ids, k_ids, listed, count, local, window, options: Options):
  """One launch; rows in whole blocks, heads before rows.

  Args:
    q: [B, H, T, K]. k, v: [B, G, S, K].
    q_ids, k_ids: int32 [B, 2, T], [B, 2, S], segments and positions; padding is -1 among queries, 0 among keys.
    listed, count: block_pairs.forward.
    local: None, or (gate logits float32 [B, H, 1, T], k2, v2 [B, G, T, K], halo k, v [B, G, T / block_q * HALO, K],
      ids int32 [B, T / block_q, 2, HALO + block_q] of a query block's halo and own rows).
    window: of the local stream if there is one, else of the only one.

  Returns:
    (out [B, H, T, K], lse float32 [B, H, 1, T] of every stream)
  """
  B, H, T, K = q.shape
  G, S = k.shape[1:3]
  R, block_q, block_k = H // G, options.block_q, options.block_k
  rows = lambda b, h, n, q_block, k_block, kind: (b, h, q_block[b, n], 0)
  # Plain //, which rounds down for signed numbers, does not lower for a TPU that is only a compile target.
  group = lambda h: jax.lax.div(h, jnp.int32(R))
  keys = lambda b, h, n, q_block, k_block, kind: (b, group(h), k_block[b, n], 0)
  own_keys = lambda b, h, n, q_block, k_block, kind: (b, group(h), q_block[b, n], 0)
  lanes = lambda b, h, n, q_block, k_block, kind: (b, h, 0, q_block[b, n])
  lane_spec = pl.BlockSpec((None, None, 1, block_q), lanes)
  in_specs = [
      pl.BlockSpec((None, None, block_q, K), rows),
      pl.BlockSpec((None, None, block_k, K), keys),
      pl.BlockSpec((None, None, block_k, K), keys),
      pl.BlockSpec((None, 2, block_q), lambda b, h, n, q_block, k_block, kind: (b, 0, q_block[b, n])),
      pl.BlockSpec((None, 2, block_k), lambda b, h, n, q_block, k_block, kind: (b, 0, k_block[b, n])),
  ]
  streams = 1
  if local is not None:
    streams = 2
    own_spec, halo_spec = (pl.BlockSpec((None, None, length, K), own_keys) for length in (block_q, HALO))
    ids_spec = pl.BlockSpec(
        (None, None, 2, HALO + block_q), lambda b, h, n, q_block, k_block, kind: (b, q_block[b, n], 0, 0)
    )
    in_specs += [lane_spec, own_spec, own_spec, halo_spec, halo_spec, ids_spec]

  def kernel(q_block, k_block, kind, q, k, v, q_ids, k_ids, *refs):
    given, (out, *lses), (top, total, acc, columns) = refs[: len(in_specs) - 5], refs[-5 - streams : -4], refs[-4:]
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
        far_window = window if local is None else None
        _fold(work, q, k, v, columns, k_ids, top, total, acc, far_window, options.chunk)

    @pl.when(step & block_pairs.LAST != 0)
    def _():
      sums = jnp.broadcast_to(jnp.sum(total[...], axis=1, keepdims=True), total.shape)
      seen = top[...] > MASKED / 2
      inverse = jnp.where(seen, 1 / sums, 0)
      lse = jnp.where(seen, top[...] / math.sqrt(K) + jnp.log(sums), MASKED)
      lses[0][...] = jnp.transpose(lse)[0:1]
      if local is None:
        out[...] = (acc[...] * widen(inverse, K)).astype(out.dtype)
      else:
        _mix_in_local(q, acc, inverse, columns, *given, out, lses[1], window)

  pairs = int(T * S * options.seen) + (T * 2 * LANES if local is not None else 0)
  item = q.dtype.itemsize
  return pl.pallas_call(
      kernel,
      out_shape=[jax.ShapeDtypeStruct(q.shape, q.dtype)]
      + [jax.ShapeDtypeStruct((B, H, 1, T), jnp.float32)] * streams,
      grid_spec=pltpu.PrefetchScalarGridSpec(
          num_scalar_prefetch=3,
          grid=(B, H, count),
          in_specs=in_specs,
          out_specs=[pl.BlockSpec((None, None, block_q, K), rows)] + [lane_spec] * streams,
          scratch_shapes=[
              pltpu.VMEM((block_q, LANES), jnp.float32),
              pltpu.VMEM((block_q, LANES), jnp.float32),
              pltpu.VMEM((block_q, K), jnp.float32),
              pltpu.VMEM((2, block_q, LANES), jnp.int32),
          ],
      ),
      compiler_params=compiler_params('parallel', 'parallel', 'arbitrary'),
      cost_estimate=pl.CostEstimate(
          flops=4 * B * H * pairs * K,
          transcendentals=B * H * pairs,
          bytes_accessed=item * B * H * (2 * T * K * (1 + streams) + 2 * K * (pairs // block_q)),
      ),
      interpret=options.interpret,
      name='gated_attention_forward' if streams == 2 else 'attention_forward',
  )(listed.q_block, listed.k_block, listed.kind, q, k, v, q_ids, k_ids, *(local or ()))


def _fold(work, q, k, v, columns, k_ids, top, total, acc, window, chunk):
  """Takes one block of keys into the online softmax; its statistics are of scores before they are scaled."""
  block_k, K = k.shape
  # Scaling the difference from the maximum costs what exp2 would cost anyway, and rounds nothing that is in bfloat16.
  scale = LOG2_E / math.sqrt(K)
  for start in range(0, block_k, chunk):
    here = pl.ds(start, chunk)
    scores = dot(q[...], k[here, :], (1, 1))
    seen = visible(
        work, widen(columns[0], chunk), widen(columns[1], chunk), k_ids[0:1, here], k_ids[1:2, here], window
    )
    scores = hide(scores, seen)
    before = top[...]
    now = jnp.maximum(before, jnp.max(scores, axis=1, keepdims=True))
    p = jnp.exp2((scores - widen(now, chunk)) * scale)
    shrink = jnp.exp2((before - now) * scale)
    top[...] = now
    # Sums stay apart per lane until the end: adding across lanes is dear.
    total[...] = total[...] * shrink + sum(p[:, lane : lane + LANES] for lane in range(0, chunk, LANES))
    acc[...] = acc[...] * widen(shrink, acc.shape[1]) + dot(p.astype(v.dtype), v[here, :], (1, 0))


def _mix_in_local(q, acc, inverse, columns, logits, k2, v2, halo_k, halo_v, ids, out, lse_out, window):
  """Writes g * global + (1 - g) * local: 128 queries at a time see the 128 keys before them and their own 128."""
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
  """[HALO + 128, K]: the rows that 128 queries from row `start` of a block see."""
  if start == 0:
    return jnp.concatenate([halo[...], own[:LANES, :]], axis=0)
  return own[start - HALO : start + LANES, :]
