"""Attention in plain JAX: the meaning every other implementation is tested against.

Legend: B batch, T query positions, S key positions, H query heads, G key/value heads, R = H / G, K head size.
Visibility comes from segment ids and positions only (batch.py), so rows may come in any order of positions.
"""

import functools
import math

import jax
import jax.numpy as jnp

# Queries of one block see all keys at once: memory is block x S instead of T x S.
QUERY_BLOCK = 512
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


def _attend(q_BTGRK, k_BSGK, v_BSGK, visible):
  """One block of queries, softmax statistics in float32."""
  scores = jnp.einsum('btgrk,bsgk->bgrts', q_BTGRK, k_BSGK, preferred_element_type=jnp.float32)
  scores = jnp.where(visible, scores / math.sqrt(q_BTGRK.shape[-1]), MASKED)
  weights = jnp.exp(scores - jnp.max(scores, axis=-1, keepdims=True))
  total = jnp.sum(weights, axis=-1)
  out = jnp.einsum('bgrts,bsgk->btgrk', weights.astype(v_BSGK.dtype), v_BSGK, preferred_element_type=jnp.float32)
  return out / jnp.moveaxis(total, 3, 1)[..., None]


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
  q_BTGRK = q_BTHK.reshape(B, T, G, H // G, K)
  ids = (segment_ids, positions)

  def block(q_block, q_ids):
    return _attend(q_block, k_BSGK, v_BSGK, _visible(q_ids, ids, window))

  if T <= QUERY_BLOCK or T % QUERY_BLOCK:
    out = block(q_BTGRK, ids)
  else:
    split = lambda x: jnp.moveaxis(x.reshape(B, T // QUERY_BLOCK, QUERY_BLOCK, *x.shape[2:]), 1, 0)
    # Recomputing a block's scores in the backward pass keeps memory at one block.
    blocks = jax.lax.map(jax.checkpoint(lambda args: block(*args)), (split(q_BTGRK), jax.tree.map(split, ids)))
    out = jnp.moveaxis(blocks, 0, 1)
  out = out.reshape(B, T, H, K).astype(q_BTHK.dtype)
  return jnp.where(segment_ids[:, :, None, None] != 0, out, 0)


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
