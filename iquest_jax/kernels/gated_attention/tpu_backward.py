"""Attention on TPUs, backward: one launch for one stream, or for two that are mixed by a gate.

The grid is (B, G, N, R). Pairs of one key block are consecutive, and each pair runs over the R heads that share its keys.
Gradients of queries stay in vector memory as float32 from their first pair to their last, so HBM holds no partial sums and
the order of additions is fixed. Scores are laid out keys x queries, which makes statistics of queries rows of lanes.

With g the gate, p the softmax of either stream, dP = d_out . v and a = d_out . out:
  b = d_out . local output = sum_k p_l dP_l,  D_l = (1 - g) b,  D_g = a - D_l,  d_logit = (1 - g) D_g - g D_l,
  dS_l = (1 - g) p_l (dP_l - b),  dS_g = (g p_g) (dP_g - D_g / g), and g p_g is the softmax with log g subtracted from its
  log-sum.
So neither stream's output has to be saved. The price: D_g carries the rounding of `out` even where g is small.

Legend: tpu_common.py.
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
from iquest_jax.kernels.gated_attention.tpu_forward import around

# A gate below this has no weight in float32, and what is divided by it is later multiplied by zero.
_TINY = 1e-30


def backward(
    q, k, v, d_out, lse, delta, q_ids, k_ids, pairs, count, near: tpu_common.Near | None, window, dtypes, scores, options
):
  """One launch; rows in whole blocks, heads before rows.

  Args:
    q, d_out: [B, H, T, K].
    k, v: [B, G, S, K].
    lse, delta: float32 [B, H, 1, T]; log of the whole softmax sum of the global (or only) stream, and d_out . out.
    q_ids, k_ids, window: as in tpu_forward.forward.
    pairs, count: from block_pairs.backward.
    near: the local stream with its lse; None if there is only one stream.
    dtypes: of dq, and of dk and dv.
    scores: as in tpu_forward.forward.
    options: tpu_common.Options, fitted to the rows.

  Returns:
    [dq, dk, dv] and, with two streams, [d logits, dk2, dv2, d halo k, d halo v] in the dtypes of `near`.
  """
  B, H, T, K = q.shape
  G, S = k.shape[1:3]
  R, block_q, block_k = H // G, options.block_q, options.block_k
  blocks = T // block_q
  in_specs, out_specs = _specs(R, K, near is not None, options)
  dq_dtype, dk_dtype = dtypes
  out_shape = [jax.ShapeDtypeStruct(x.shape, dtype) for x, dtype in ((q, dq_dtype), (k, dk_dtype), (v, dk_dtype))]
  scratch_shapes = [
      pltpu.VMEM((R * blocks, block_q, K), jnp.float32),
      pltpu.VMEM((R * blocks, 2, block_q), jnp.float32),
      pltpu.VMEM((block_k, K), jnp.float32),
      pltpu.VMEM((block_k, K), jnp.float32),
      pltpu.VMEM((2, block_k, LANES), jnp.int32),
  ]
  if near is not None:
    out_shape += [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (near.logits, near.k, near.v, near.halo_k, near.halo_v)]
    scratch_shapes += [
        pltpu.VMEM((HALO + block_q, K), jnp.float32),
        pltpu.VMEM((HALO + block_q, K), jnp.float32),
        pltpu.VMEM((2, HALO + block_q, LANES), jnp.int32),
    ]
  return pl.pallas_call(
      functools.partial(
          _kernel, window=window, chunk=options.chunk, ends=(len(in_specs), len(in_specs) + len(out_specs))
      ),
      out_shape=out_shape,
      grid_spec=pltpu.PrefetchScalarGridSpec(
          num_scalar_prefetch=5,
          grid=(B, G, count, R),
          in_specs=in_specs,
          out_specs=out_specs,
          scratch_shapes=scratch_shapes,
      ),
      compiler_params=tpu_common.compiler_params('parallel', 'parallel', 'arbitrary', 'arbitrary'),
      cost_estimate=pl.CostEstimate(
          flops=10 * B * H * scores * K,
          transcendentals=B * H * scores,
          bytes_accessed=q.dtype.itemsize * B * K * (H * T + 4 * G * S + 2 * H * (scores // block_k)),
      ),
      interpret=options.interpret,
      name='attention_backward' if near is None else 'gated_attention_backward',
  )(*pairs, q, k, v, d_out, lse, delta, q_ids, k_ids, *jax.tree.leaves(near))


def _specs(R, K, gated, options):
  """(in_specs, out_specs): the blocks of every array at a point of the grid."""
  block_q, block_k = options.block_q, options.block_k

  def spec(shape, index):
    return pl.BlockSpec(shape, lambda b, g, n, r, *pairs: index(b, g, r, *(x[b, n] for x in pairs)))

  # What only the first pair of a query block uses is not fetched again before the next such pair.
  once = lambda g, r, kind: g * R + jnp.where(kind & block_pairs.FIRST_Q != 0, r, R - 1)
  row_spec = spec((None, None, block_q, K), lambda b, g, r, q, k, kind, start, end: (b, g * R + r, q, 0))
  key_spec = spec((None, None, block_k, K), lambda b, g, r, q, k, kind, start, end: (b, g, k, 0))
  lane_spec = spec((None, None, 1, block_q), lambda b, g, r, q, k, kind, start, end: (b, once(g, r, kind), 0, start))
  dq_spec = spec((None, R, block_q, K), lambda b, g, r, q, k, kind, start, end: (b, g, end, 0))
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
  if gated:
    own_keys = lambda b, g, r, q, k, kind, start, end: (b, g, start, 0)
    own_spec, halo_spec = (spec((None, None, length, K), own_keys) for length in (block_q, HALO))
    ids_spec = spec((None, None, 2, HALO + block_q), lambda b, g, r, q, k, kind, start, end: (b, start, 0, 0))
    in_specs += [lane_spec, lane_spec, own_spec, own_spec, halo_spec, halo_spec, ids_spec]
    out_specs += [lane_spec, own_spec, own_spec, halo_spec, halo_spec]
  return in_specs, out_specs


def _kernel(q_block, k_block, kind, start, end, *refs, window, chunk, ends):
  """`ends`: where the inputs and the outputs among `refs` end; scratch follows."""
  q, k, v, d_out, lse, delta, q_ids, k_ids, *near = refs[: ends[0]]
  dq_out, dk_out, dv_out, *near_outs = refs[ends[0] : ends[1]]
  dq_acc, stats, dk, dv, columns, *near_scratch = refs[ends[1] :]
  R, (block_k, K) = dq_out.shape[0], k.shape
  b, n, r = pl.program_id(0), pl.program_id(2), pl.program_id(3)
  step, slot = kind[b, n], r * (dq_acc.shape[0] // R) + q_block[b, n]

  @pl.when((step & block_pairs.FIRST != 0) & (r == 0))
  def _():
    dk[...], dv[...] = jnp.zeros_like(dk), jnp.zeros_like(dv)
    columns[0], columns[1] = column(k_ids[0:1, :]), column(k_ids[1:2, :])

  @pl.when(step & block_pairs.FIRST_Q != 0)
  def _():
    # The log-sum of a query that sees nothing becomes so large that its weights are zero.
    stats[slot, 0:1, :] = jnp.where(lse[...] > MASKED / 2, lse[...], -MASKED) * LOG2_E
    stats[slot, 1:2, :] = delta[...]
    if near:
      _local(q, d_out, q_ids, near, near_outs, near_scratch, dq_acc.at[slot], stats.at[slot], r, R, window)
    else:
      dq_acc[slot] = jnp.zeros(dq_acc.shape[1:], dq_acc.dtype)

  for work in (block_pairs.ALL, block_pairs.SOME):

    @pl.when(step & block_pairs.WORK == work)
    def _(work=work):
      # With a mask, the compiler schedules the whole block better (v5p: 4471 bundles instead of 4761).
      keys_at_once = chunk if work == block_pairs.ALL else block_k
      sums, far_window = (stats.at[slot], dq_acc.at[slot], dk, dv), None if near else window
      _pair(work, q, k, v, d_out, q_ids, columns, *sums, far_window, keys_at_once)

  @pl.when(step & block_pairs.LAST_Q != 0)
  def _():
    dq_out[r] = (dq_acc[slot] / math.sqrt(K)).astype(dq_out.dtype)

  @pl.when((step & block_pairs.LAST != 0) & (r == R - 1))
  def _():
    dk_out[...] = (dk[...] / math.sqrt(K)).astype(dk_out.dtype)
    dv_out[...] = dv[...].astype(dv_out.dtype)


def _pair(work, q, k, v, d_out, q_ids, columns, stats, dq, dk, dv, window, chunk):
  """Adds the gradients of one block of keys and one of queries; scores, dq and dk are unscaled here."""
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


def _local(q, d_out, q_ids, near_refs, outs, scratch, dq, stats, r, R, window):
  """The local stream of one query block: its gradients, and the effect of the gate on the other stream's statistics."""
  logits, lse, k2, v2, halo_k, halo_v, ids = near_refs
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
