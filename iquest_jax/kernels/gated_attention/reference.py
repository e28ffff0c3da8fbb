"""Attention in plain JAX: the meaning every other implementation is tested against.

Legend: B batch, T query positions, S key positions, H query heads, G key/value heads, R = H / G, K head size.
Visibility comes from segment ids and positions only (batch.py), so rows may come in any order of positions, and the keys
may be any part of the row.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

# Queries of one block see all keys at once: memory is block x S instead of T x S. On a CPU a block's scores then stay in
# the cache, which makes forward and backward four times faster at T 512 than one block of everything.
QUERY_BLOCK = 128
# Finite, so that a row with no visible key stays free of NaN; its output is zeroed by its segment id.
MASKED = -1e30


class Ids(NamedTuple):
  """Where tokens stand: int32 [B, T] each; see batch.Batch."""

  segment_ids: jax.Array
  positions: jax.Array


class Halo(NamedTuple):
  """Keys and values [B, 2 W, G, K] and their ids: the rows just before each of the two chunks of queries at hand.

  A row that is split over devices lies on each in an early and a late chunk (batch.zigzag); the local stream of a chunk's
  first tokens looks into the chunk before, which another device holds. W is at least window - 1; kernels use the last 128.
  """

  k: jax.Array
  v: jax.Array
  ids: Ids


def _visible(q_ids, k_ids, window):
  """bool [B, 1, 1, T, S]."""
  age = q_ids.positions[:, :, None] - k_ids.positions[:, None, :]
  q_segments = q_ids.segment_ids[:, :, None]
  visible = (q_segments == k_ids.segment_ids[:, None, :]) & (q_segments != 0) & (age >= 0)
  if window is not None:
    visible &= age < window
  return visible[:, None, None]


def _attend(q_BGRTK, k_BGSK, v_BGSK, visible):
  """One block of queries: (out, log of the softmax sum); scores, statistics and sums in float32."""
  scores = jnp.einsum('bgrtk,bgsk->bgrts', q_BGRTK, k_BGSK, preferred_element_type=jnp.float32)
  scores = jnp.where(visible, scores / math.sqrt(q_BGRTK.shape[-1]), MASKED)
  # The maximum cancels out of the result, so its gradient is not worth the pass over the scores.
  top = jax.lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True))
  weights = jnp.exp(scores - top)
  total = jnp.sum(weights, axis=-1)
  # Weights are not rounded to the dtype of the values: their gradient would be, too, and then what it is subtracted from.
  out = jnp.einsum('bgrts,bgsk->bgrtk', weights, v_BGSK.astype(jnp.float32))
  return out / total[..., None], top[..., 0] + jnp.log(total)


def attention_with_lse(q_BTHK, k_BSGK, v_BSGK, q_ids: Ids, k_ids: Ids, window: int | None = None):
  """`attention` and the log of its softmax sum, from which parts over different keys can be put together.

  Returns:
    (out [B, T, H, K] in the dtype of q, lse float32 [B, T, H]); a query that sees none of these keys has out 0 and lse
    MASKED, so that it weighs nothing beside a part that it does see.
  """
  B, T, H, K = q_BTHK.shape
  G = k_BSGK.shape[2]
  k_BGSK, v_BGSK = jnp.swapaxes(k_BSGK, 1, 2), jnp.swapaxes(v_BSGK, 1, 2)

  def block(args):
    q_BCHK, block_ids = args
    visible = _visible(block_ids, k_ids, window)
    q_BGRCK = jnp.moveaxis(q_BCHK.reshape(B, -1, G, H // G, K), 1, 3)
    out_BGRCK, lse_BGRC = _attend(q_BGRCK, k_BGSK, v_BGSK, visible)
    seen = jnp.any(visible, axis=-1)
    out_BGRCK, lse_BGRC = jnp.where(seen[..., None], out_BGRCK, 0), jnp.where(seen, lse_BGRC, MASKED)
    out_BCHK = jnp.moveaxis(out_BGRCK, 3, 1).reshape(B, -1, H, K).astype(q_BTHK.dtype)
    return out_BCHK, jnp.moveaxis(lse_BGRC, 3, 1).reshape(B, -1, H)

  if T <= QUERY_BLOCK:
    return block((q_BTHK, q_ids))
  padding = -T % QUERY_BLOCK
  pad = lambda x: jnp.pad(x, [(0, 0), (0, padding)] + [(0, 0)] * (x.ndim - 2))
  split = lambda x: jnp.moveaxis(pad(x).reshape(B, -1, QUERY_BLOCK, *x.shape[2:]), 1, 0)
  join = lambda x: jnp.moveaxis(x, 0, 1).reshape(B, T + padding, *x.shape[3:])[:, :T]
  # Recomputing a block's scores in the backward pass keeps memory at one block.
  return jax.tree.map(join, jax.lax.map(jax.checkpoint(block), (split(q_BTHK), jax.tree.map(split, q_ids))))


def attention(q_BTHK, k_BSGK, v_BSGK, q_ids: Ids, k_ids: Ids, window: int | None = None):
  """Causal attention within documents.

  Args:
    q_BTHK: rotated queries. k_BSGK, v_BSGK: rotated keys, and values.
    q_ids, k_ids: where queries and keys stand.
    window: keys a query sees, itself included; None sees all earlier ones.

  Returns:
    [B, T, H, K] in the dtype of q; zero where the segment id is 0.
  """
  return checkpoint_name(attention_with_lse(q_BTHK, k_BSGK, v_BSGK, q_ids, k_ids, window)[0], 'attention_output')


def attention_backward(
    q_BTHK, k_BSGK, v_BSGK, d_out_BTHK, lse_BTH, delta_BTH, q_ids: Ids, k_ids: Ids, window: int | None = None
):
  """Gradients through the part of one softmax that falls on these keys.

  A softmax whose keys come in parts (a ring over devices) is differentiated part by part with the statistics of the whole:
  p = exp(s - lse), ds = p * (d_out . v - delta). Statistics of the part alone would give wrong gradients.

  Args:
    d_out_BTHK: gradient of the whole output. lse_BTH: float32, log of the whole softmax sum.
    delta_BTH: float32, the sum over K of d_out * out of the whole.

  Returns:
    (dq [B, T, H, K], dk, dv [B, S, G, K]), float32, so that parts can be summed before they are rounded.
  """
  B, T, H, K = q_BTHK.shape
  S, G = k_BSGK.shape[1:3]
  k_BGSK, v_BGSK = jnp.swapaxes(k_BSGK, 1, 2), jnp.swapaxes(v_BSGK, 1, 2)
  einsum = lambda *args: jnp.einsum(*args, preferred_element_type=jnp.float32)

  def block(sums, args):
    dk_BGSK, dv_BGSK = sums
    q_BCHK, d_out_BCHK, lse_BCH, delta_BCH, block_ids = args
    group = lambda x: jnp.moveaxis(x.reshape(B, -1, G, H // G, *x.shape[3:]), 1, 3)
    q, d_out, lse, delta = map(group, (q_BCHK, d_out_BCHK, lse_BCH[..., None], delta_BCH[..., None]))
    scores = einsum('bgrtk,bgsk->bgrts', q, k_BGSK) / math.sqrt(K)
    p = jnp.where(_visible(block_ids, k_ids, window), jnp.exp(jnp.minimum(scores - lse, 0)), 0)
    ds = p * (einsum('bgrtk,bgsk->bgrts', d_out, v_BGSK) - delta) / math.sqrt(K)
    p, ds = p.astype(v_BSGK.dtype), ds.astype(q_BTHK.dtype)
    dq = einsum('bgrts,bgsk->bgrtk', ds, k_BGSK)
    sums = dk_BGSK + einsum('bgrts,bgrtk->bgsk', ds, q), dv_BGSK + einsum('bgrts,bgrtk->bgsk', p, d_out)
    return sums, jnp.moveaxis(dq, 3, 1).reshape(B, -1, H, K)

  padding = -T % QUERY_BLOCK
  pad = lambda x: jnp.pad(x, [(0, 0), (0, padding)] + [(0, 0)] * (x.ndim - 2))
  split = lambda x: jnp.moveaxis(pad(x).reshape(B, -1, QUERY_BLOCK, *x.shape[2:]), 1, 0)
  zeros = jnp.zeros((B, G, S, K), jnp.float32)
  rows = (q_BTHK, d_out_BTHK, lse_BTH, delta_BTH, q_ids)
  (dk_BGSK, dv_BGSK), dq = jax.lax.scan(block, (zeros, zeros), jax.tree.map(split, rows))
  dq_BTHK = jnp.moveaxis(dq, 0, 1).reshape(B, T + padding, H, K)[:, :T]
  return dq_BTHK, jnp.swapaxes(dk_BGSK, 1, 2), jnp.swapaxes(dv_BGSK, 1, 2)


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
):
  """Later passes of the loop: g * attention(q, K1, V1) + (1 - g) * attention(q, K2, V2; window), g = sigmoid(logits).

  Args:
    k1_BSGK, v1_BSGK, k1_ids: the first pass's keys and values, seen causally in full (global stream).
    k2_BTGK, v2_BTGK: this pass's, of the same tokens as the queries, seen through the window (local stream).
    gate_logits_BTH: float32, one per token and head.
    window: keys of the local stream, the token itself included.
    halo: rows before the queries' chunks that the local stream sees as well.

  Source: LoopCoder paper equations 2 to 5 as the released weights mean them.
  """
  k2_ids = q_ids
  if halo is not None:
    join = lambda before, own: jnp.concatenate([before, own], axis=1)
    k2_BTGK, v2_BTGK, k2_ids = join(halo.k, k2_BTGK), join(halo.v, v2_BTGK), jax.tree.map(join, halo.ids, q_ids)
  global_BTHK = attention_with_lse(q_BTHK, k1_BSGK, v1_BSGK, q_ids, k1_ids)[0].astype(jnp.float32)
  local_BTHK = attention_with_lse(q_BTHK, k2_BTGK, v2_BTGK, q_ids, k2_ids, window)[0].astype(jnp.float32)
  gate_BTH1 = jax.nn.sigmoid(gate_logits_BTH)[..., None]
  out_BTHK = (gate_BTH1 * global_BTHK + (1 - gate_BTH1) * local_BTHK).astype(q_BTHK.dtype)
  return checkpoint_name(out_BTHK, 'attention_output')
