"""Attention of new tokens over a cache and over themselves, in plain JAX.

The cache is read where it lies: results over cached and over new keys are merged, so that no array holds both.

Legend: B slots, T new tokens of a slot, S cached keys, H query heads, K head size.
"""

import jax
import jax.numpy as jnp

from iquest_jax.kernels.gated_attention import Keys, attention_with_lse, join
from iquest_jax.kernels.gated_attention.reference import merge, mix


def attention(q_BTHK, own: Keys, past: Keys, layer):
  """Causal attention within a slot.

  Args:
    q_BTHK: rotated queries.
    own: Keys [B, T] of the same tokens.
    past: Keys of earlier tokens, in any order, with k and v [L, B, S, G, K] of all layers and ids [B, S]; empty slots have
      segment id 0. A kernel reads a layer where it lies, while a slice of the cache would be a copy of all its places.
    layer: int32, which of them.

  Returns:
    [B, T, H, K] in the dtype of q; zero where the segment id is 0.
  """
  parts = [attention_with_lse(q_BTHK, own.ids, keys) for keys in (_of_layer(past, layer), own)]
  out_BTHK, _ = merge(*((out_BTHK.astype(jnp.float32), lse_BTH) for out_BTHK, lse_BTH in parts))
  return out_BTHK.astype(q_BTHK.dtype)


def gated_attention(
    q_BTHK, far: Keys, near: Keys, past_far: Keys, past_near: Keys, layer, gate_logits_BTH, window: int
):
  """Later passes of the loop, as `kernels.gated_attention`; each stream has new keys and cached ones.

  `past_near` need not hold more than the last `window` tokens.
  """
  local_BTHK, _ = attention_with_lse(q_BTHK, near.ids, join(_of_layer(past_near, layer), near), window)
  return mix(attention(q_BTHK, far, past_far, layer), local_BTHK, gate_logits_BTH)


def _of_layer(keys: Keys, layer) -> Keys:
  k, v = (jax.lax.dynamic_index_in_dim(x, layer, keepdims=False) for x in keys[:2])
  return Keys(k, v, keys.ids)
