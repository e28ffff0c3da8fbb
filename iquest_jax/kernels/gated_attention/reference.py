"""Attention in plain JAX: the meaning every other implementation is tested against.

Legend: B batch, T query positions, S key positions, H query heads, G key/value heads, R = H / G, K head size.
Visibility comes from segment ids and positions only (batch.py), so rows may come in any order of positions.
"""

import functools
import math

import jax
import jax.numpy as jnp

# Queries of one block see all keys at once: memory is block x S instead of T x S. On a CPU a block's scores then stay in
# the cache, which makes forward and backward four times faster at T 512 than one block of everything.
QUERY_BLOCK = 128
# Finite, so that a row with no visible key stays free of NaN; its output is zeroed by its segment id.
MASKED = -1e30


def _visible(q_ids, k_ids, window):
  """bool [B, 1, 1, T, S]. ids are (segment_ids, positions)."""
  (q_segments, q_positions), (k_segments, k_positions) = q_ids, k_ids
  age = q_positions[:, :, None] - k_positions[:, None, :]
  visible = (q_segments[:, :, None] == k_segments[:, None, :]) & (q_segments[:, :, None] != 0) & (age >= 0)
  if window is not None:
    visible &= age < window
  return visible[:, None, None]


def _attend(q_BGRTK, k_BGSK, v_BGSK, visible):
  """One block of queries; scores, statistics and sums in float32."""
  scores = jnp.einsum('bgrtk,bgsk->bgrts', q_BGRTK, k_BGSK, preferred_element_type=jnp.float32)
  scores = jnp.where(visible, scores / math.sqrt(q_BGRTK.shape[-1]), MASKED)
  # The maximum cancels out of the result, so its gradient is not worth the pass over the scores.
  weights = jnp.exp(scores - jax.lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True)))
  out = jnp.einsum('bgrts,bgsk->bgrtk', weights.astype(v_BGSK.dtype), v_BGSK, preferred_element_type=jnp.float32)
  return out / jnp.sum(weights, axis=-1)[..., None]


def attention(q_BTHK, k_BSGK, v_BSGK, segment_ids, positions, window=None):
  """Causal attention within documents.

  Args:
    q_BTHK: rotated queries. k_BSGK, v_BSGK: rotated keys, and values, of the same row (S = T).
    segment_ids, positions: int32 [B, T].
    window: keys a query sees, itself included; None sees all earlier ones.

  Returns:
    [B, T, H, K] in the dtype of q; zero where segment_ids is 0.
  """
  B, T, H, K = q_BTHK.shape
  G = k_BSGK.shape[2]
  k_BGSK, v_BGSK = jnp.swapaxes(k_BSGK, 1, 2), jnp.swapaxes(v_BSGK, 1, 2)
  ids = (segment_ids, positions)

  def block(args):
    q_BCHK, q_ids = args
    q_BGRCK = jnp.moveaxis(q_BCHK.reshape(B, -1, G, H // G, K), 1, 3)
    out_BGRCK = _attend(q_BGRCK, k_BGSK, v_BGSK, _visible(q_ids, ids, window))
    return jnp.moveaxis(out_BGRCK, 3, 1).reshape(B, -1, H, K).astype(q_BTHK.dtype)

  if T <= QUERY_BLOCK:
    out_BTHK = block((q_BTHK, ids))
  else:
    padding = -T % QUERY_BLOCK
    pad = lambda x: jnp.pad(x, [(0, 0), (0, padding)] + [(0, 0)] * (x.ndim - 2))
    split = lambda x: jnp.moveaxis(pad(x).reshape(B, -1, QUERY_BLOCK, *x.shape[2:]), 1, 0)
    # Recomputing a block's scores in the backward pass keeps memory at one block.
    blocks = jax.lax.map(jax.checkpoint(block), (split(q_BTHK), jax.tree.map(split, ids)))
    out_BTHK = jnp.moveaxis(blocks, 0, 1).reshape(B, T + padding, H, K)[:, :T]
  return jnp.where(segment_ids[:, :, None, None] != 0, out_BTHK, 0)


def gated_attention(q_BTHK, k1_BSGK, v1_BSGK, k2_BSGK, v2_BSGK, gate_logits_BTH, segment_ids, positions, window):
  """Later passes of the loop: g * attention(q, K1, V1) + (1 - g) * attention(q, K2, V2; window), g = sigmoid(logits).

  Args:
    k1_BSGK, v1_BSGK: keys and values of the first pass, seen causally in full (global stream).
    k2_BSGK, v2_BSGK: keys and values of this pass, seen through the window (local stream).
    gate_logits_BTH: float32, one per token and head.
    window: keys of the local stream, the token itself included.

  Source: LoopCoder paper equations 2 to 5 as the released weights mean them.
  """
  heads = functools.partial(attention, q_BTHK, segment_ids=segment_ids, positions=positions)
  global_BTHK = heads(k1_BSGK, v1_BSGK).astype(jnp.float32)
  local_BTHK = heads(k2_BSGK, v2_BSGK, window=window).astype(jnp.float32)
  gate_BTH1 = jax.nn.sigmoid(gate_logits_BTH)[..., None]
  return (gate_BTH1 * global_BTHK + (1 - gate_BTH1) * local_BTHK).astype(q_BTHK.dtype)
