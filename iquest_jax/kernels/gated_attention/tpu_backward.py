"""Attention on TPUs, backward: one launch for one stream, or for two that are mixed by a gate.

Grid (B, G, N, R): the pairs of one key block follow each other, and in each pair the R heads that share its keys. Gradients
of queries stay in vector memory as float32 from their first pair to their last, so that there are no partial sums in HBM
and no order of additions that could change. Scores lie keys x queries: statistics of queries then are rows of lanes.

With g the gate, p the softmax of either stream, dP = d_out . v and a = d_out . out:
  b = d_out . local output = sum_k p_l dP_l,  D_l = (1 - g) b,  D_g = a - D_l,  d_logit = (1 - g) D_g - g D_l,
  dS_l = (1 - g) p_l (dP_l - b),  dS_g = (g p_g) (dP_g - D_g / g), and g p_g is a softmax whose log-sum is log g less.
Neither stream's output is saved for this. The price: D_g carries the rounding of `out` even where g is small.

Legend: tpu_common.py.
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
from iquest_jax.kernels.gated_attention.tpu_forward import around

# Vector memory for the gradients of one key/value head's queries; its caller splits longer rows.
RESIDENT_BYTES = 40 * 2**20
# Below this a gate weighs nothing in float32, and what is divided by it is multiplied by zero afterwards.
_TINY = 1e-30


def most_rows(H: int, G: int, K: int, options: Options) -> int:
  """Query rows that one launch can take."""
  return RESIDENT_BYTES // (H // G * K * 4) // options.block_q * options.block_q


def backward(q, k, v, d_out, lse, delta, q_ids, k_ids, listed, count, local, window, dtypes, options: Options):
  """One launch; rows in whole blocks, heads before rows.

  Args:
    q, d_out: [B, H, T, K]. k, v: [B, G, S, K]. lse, delta: float32 [B, H, 1, T], of the whole softmax of the first stream,
      and d_out . out.
    q_ids, k_ids, window: as forward.
    listed, count: block_pairs.backward.
    local: None, or (gate logits, lse of the local stream, float32 [B, H, 1, T]; k2, v2, halo k, v, ids as forward).
    dtypes: of dq and of dk, dv.

  Returns:
    [dq, dk, dv] and, with two streams, [d logits, dk2, dv2, d halo k, d halo v] in the dtype of k2.
  """
  B, H, T, K = q.shape
  G, S = k.shape[1:3]
  R, block_q, block_k = H // G, options.block_q, options.block_k
  blocks = T // block_q

  def spec(shape, index):
    return pl.BlockSpec(shape, lambda b, g, n, r, *lists: index(b, g, r, *(x[b, n] for x in lists)))

  # What is used at the first pair of a query block only is not fetched again before the next such pair.
  once = lambda g, r, kind: g * R + jnp.where(kind & block_pairs.FIRST_Q != 0, r, R - 1)
  row_spec = spec((None, None, block_q, K), lambda b, g, r, q, k, kind, start, end: (b, g * R + r, q, 0))
  key_spec = spec((None, None, block_k, K), lambda b, g, r, q, k, kind, start, end: (b, g, k, 0))
  lane_spec = spec((None, None, 1, block_q), lambda b, g, r, q, k, kind, start, end: (b, once(g, r, kind), 0, start))
  dq_spec = spec((None, R, block_q, K), lambda b, g, r, q, k, kind, start, end: (b, g, end, 0))
  own_spec, halo_spec = (
      spec((None, None, length, K), lambda b, g, r, q, k, kind, start, end: (b, g, start, 0)) for length in (block_q, HALO)
  )
  in_specs = [
      row_spec,
      key_spec,
      key_spec,
      row_spec,
      lane_spec,
      lane_spec,
      spec((None, 2, block_q), lambda b, g, r, q, k, kind, start, end: (b, 0, q)),
      spec((None, 2, block_k), lambda b, g, r, q, k, kind, start, end: (b, 0, k)),
  ]
  out_specs = [dq_spec, key_spec, key_spec]
  dq_dtype, dk_dtype = dtypes
  out_shape = [jax.ShapeDtypeStruct(x.shape, dtype) for x, dtype in ((q, dq_dtype), (k, dk_dtype), (v, dk_dtype))]
  scratch_shapes = [
      pltpu.VMEM((R * blocks, block_q, K), jnp.float32),
      pltpu.VMEM((R * blocks, 2, block_q), jnp.float32),
      pltpu.VMEM((block_k, K), jnp.float32),
      pltpu.VMEM((block_k, K), jnp.float32),
      pltpu.VMEM((2, block_k, LANES), jnp.int32),
  ]
  if local is not None:
    ids_spec = spec((None, None, 2, HALO + block_q), lambda b, g, r, q, k, kind, start, end: (b, start, 0, 0))
    in_specs += [lane_spec, lane_spec, own_spec, own_spec, halo_spec, halo_spec, ids_spec]
    out_specs += [lane_spec, own_spec, own_spec, halo_spec, halo_spec]
    logits, _, *keys, _ = local
    out_shape += [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (logits, *keys)]
    scratch_shapes += [
        pltpu.VMEM((HALO + block_q, K), jnp.float32),
        pltpu.VMEM((HALO + block_q, K), jnp.float32),
        pltpu.VMEM((2, HALO + block_q, LANES), jnp.int32),
    ]

  def kernel(q_block, k_block, kind, start, end, *refs):
    ins, outs, scratch = (
        refs[: len(in_specs)],
        refs[len(in_specs) : -len(scratch_shapes)],
        refs[-len(scratch_shapes) :],
    )
    q, k, v, d_out, lse, delta, q_ids, k_ids, *given = ins
    dq_out, dk_out, dv_out, *local_outs = outs
    dq_acc, stats, dk, dv, columns, *local_scratch = scratch
    b, n, r = pl.program_id(0), pl.program_id(2), pl.program_id(3)
    step, slot = kind[b, n], r * blocks + q_block[b, n]

    @pl.when((step & block_pairs.FIRST != 0) & (r == 0))
    def _():
      dk[...], dv[...] = jnp.zeros_like(dk), jnp.zeros_like(dv)
      columns[0], columns[1] = column(k_ids[0:1, :]), column(k_ids[1:2, :])

    @pl.when(step & block_pairs.FIRST_Q != 0)
    def _():
      # A query that sees nothing gets a sum so large that its weights are zero.
      stats[slot, 0:1, :] = jnp.where(lse[...] > MASKED / 2, lse[...], -MASKED) * LOG2_E
      stats[slot, 1:2, :] = delta[...]
      if local is None:
        dq_acc[slot] = jnp.zeros(dq_acc.shape[1:], dq_acc.dtype)
      else:
        _local(q, d_out, q_ids, given, local_outs, local_scratch, dq_acc.at[slot], stats.at[slot], r, R, window)

    for work in (block_pairs.ALL, block_pairs.SOME):
      # With a mask, the schedule of the whole block comes out shorter (v5p: 4471 for 4761 bundles).
      chunk = options.chunk if work == block_pairs.ALL else block_k

      @pl.when(step & block_pairs.WORK == work)
      def _(work=work, chunk=chunk):
        here, far_window = (stats.at[slot], dq_acc.at[slot], dk, dv), window if local is None else None
        _pair(work, q, k, v, d_out, q_ids, columns, *here, far_window, chunk)

    @pl.when(step & block_pairs.LAST_Q != 0)
    def _():
      dq_out[r] = (dq_acc[slot] / math.sqrt(K)).astype(dq_out.dtype)

    @pl.when((step & block_pairs.LAST != 0) & (r == R - 1))
    def _():
      dk_out[...] = (dk[...] / math.sqrt(K)).astype(dk_out.dtype)
      dv_out[...] = dv[...].astype(dv_out.dtype)

  pairs = int(T * S * options.seen) + (T * 2 * LANES if local is not None else 0)
  item = q.dtype.itemsize
  return pl.pallas_call(
      kernel,
      out_shape=out_shape,
      grid_spec=pltpu.PrefetchScalarGridSpec(
          num_scalar_prefetch=5,
          grid=(B, G, count, R),
          in_specs=in_specs,
          out_specs=out_specs,
          scratch_shapes=scratch_shapes,
      ),
      compiler_params=compiler_params('parallel', 'parallel', 'arbitrary', 'arbitrary'),
      cost_estimate=pl.CostEstimate(
          flops=10 * B * H * pairs * K,
          transcendentals=B * H * pairs,
          bytes_accessed=item * B * K * (H * T + 4 * G * S + 2 * H * (pairs // block_k)),
      ),
      interpret=options.interpret,
      name='attention_backward' if local is None else 'gated_attention_backward',
  )(*listed, q, k, v, d_out, lse, delta, q_ids, k_ids, *(local or ()))


def _pair(work, q, k, v, d_out, q_ids, columns, stats, dq, dk, dv, window, chunk):
  """Adds what one block of keys and one of queries give; scores here are before scaling, so are dq and dk."""
  block_k, K = k.shape
  block_q = q.shape[0]
  scale = LOG2_E / math.sqrt(K)
  for start in range(0, block_k, chunk):
    here = pl.ds(start, chunk)
    scores = dot(k[here, :], q[...], (1, 1))
    seen = visible(
        work, q_ids[0:1, :], q_ids[1:2, :], widen(columns[0, here, :], block_q), widen(columns[1, here, :], block_q), window
    )
    p = jnp.exp2(hide(scores * scale - stats[0:1, :], seen))
    dv[here, :] += dot(p.astype(d_out.dtype), d_out[...], (1, 0))
    ds = (p * (dot(v[here, :], d_out[...], (1, 1)) - stats[1:2, :])).astype(q.dtype)
    dk[here, :] += dot(ds, q[...], (1, 0))
    dq[...] += dot(ds, k[here, :], (0, 0))


def _local(q, d_out, q_ids, given, outs, scratch, dq, stats, r, R, window):
  """The local stream of one query block: its own gradients, and what the gate does to the other stream's statistics."""
  logits, lse, k2, v2, halo_k, halo_v, ids = given
  d_logits, *d_keys = outs
  dk2, dv2, columns = scratch
  block_q, K = q.shape
  scale = LOG2_E / math.sqrt(K)

  @pl.when(r == 0)
  def _():
    dk2[...], dv2[...] = jnp.zeros_like(dk2), jnp.zeros_like(dv2)
    columns[0], columns[1] = column(ids[0:1, :]), column(ids[1:2, :])

  x = logits[...]
  g = jnp.maximum(jax.nn.sigmoid(x), _TINY)
  log_g = jnp.minimum(x, 0) - jnp.log(1 + jnp.exp(-jnp.abs(x)))
  stats[0:1, :] -= log_g * LOG2_E
  shift = jnp.where(lse[...] > MASKED / 2, lse[...], -MASKED) * LOG2_E
  for start in range(0, block_q, LANES):
    here, near = pl.ds(start, LANES), pl.ds(start, HALO + LANES)
    keys, values = (around(halo, own, start) for halo, own in ((halo_k, k2), (halo_v, v2)))
    seen = visible(
        block_pairs.SOME, q_ids[0:1, here], q_ids[1:2, here], columns[0, near, :], columns[1, near, :], window
    )
    gate = g[:, start : start + LANES]
    p = jnp.exp2(hide(dot(keys, q[here, :], (1, 1)) * scale - shift[:, start : start + LANES], seen))
    dp = dot(values, d_out[here, :], (1, 1))
    b = jnp.sum(p * dp, axis=0, keepdims=True)
    far = stats[1:2, here] - (1 - gate) * b
    d_logits[0:1, here] = (1 - gate) * far - gate * (1 - gate) * b
    stats[1:2, here] = far / gate
    p = (1 - gate) * p
    dv2[near, :] += dot(p.astype(d_out.dtype), d_out[here, :], (1, 0))
    ds = (p * (dp - b)).astype(q.dtype)
    dk2[near, :] += dot(ds, q[here, :], (1, 0))
    dq[here, :] = dot(ds, keys, (0, 0))

  @pl.when(r == R - 1)
  def _():
    dk2_out, dv2_out, d_halo_k, d_halo_v = d_keys
    for total, own, halo, factor in ((dk2, dk2_out, d_halo_k, 1 / math.sqrt(K)), (dv2, dv2_out, d_halo_v, 1)):
      own[...] = (total[HALO:, :] * factor).astype(own.dtype)
      halo[...] = (total[:HALO, :] * factor).astype(halo.dtype)
