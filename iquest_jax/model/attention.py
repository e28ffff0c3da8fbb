"""Attention of one layer in both roles: in the first pass, and in later passes that also look back at the first.

Legend: B batch, T positions, D model width, H query heads, G key/value heads, K head size.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from iquest_jax import sharding
from iquest_jax.kernels.gated_attention import Ids, Keys
from iquest_jax.model.layers import linear, param, rotate
from iquest_jax.model.sizes import ModelConfig
from iquest_jax.parallel import context

# The released loop starts with the global stream at sigmoid(2) = 88 %.
GATE_BIAS = 2.0


class Past(NamedTuple):
  """The cached keys of all layers: those of the first pass and, in later passes, the last ones of the pass itself.

  Keys and values are [L, B, S, G, K]: a layer reads its own where they lie, while a slice of them would be a copy.
  """

  far: Keys
  near: Keys | None


class Attention(nn.Module):
  """Grouped-query attention; with loops > 1 it has the gate of its layer, in every pass."""

  config: ModelConfig
  dtype: jnp.dtype
  context_transport: str = 'all_gather'

  def setup(self):
    c = self.config
    init = nn.initializers.normal(c.init_std)
    self.query_DHK = param(self, 'query', (c.d_model, c.heads, c.head_dim), ('embed', 'heads', 'head_dim'), init)
    self.key_DGK = param(self, 'key', (c.d_model, c.kv_heads, c.head_dim), ('embed', 'kv_heads', 'head_dim'), init)
    self.value_DGK = param(self, 'value', (c.d_model, c.kv_heads, c.head_dim), ('embed', 'kv_heads', 'head_dim'), init)
    self.output_HKD = param(self, 'output', (c.heads, c.head_dim, c.d_model), ('heads', 'head_dim', 'embed'), init)
    if c.loops > 1:
      self.gate_weight = param(self, 'gate_weight', (c.heads, c.gate_width), ('heads', 'gate'), init)
      self.gate_bias_H = param(self, 'gate_bias', (c.heads,), ('heads',), nn.initializers.constant(GATE_BIAS))

  def __call__(self, x_BTD, ids: Ids, first: Keys | None, past: Past | None = None, layer=None):
    """Attends within documents.

    Args:
      x_BTD: normalised hidden states.
      ids: Ids [B, T].
      first: None in the first pass, its keys in later passes.
      past: None if the rows are whole, else the cached keys that precede them.
      layer: int32, which of the cached layers this is.

    Returns:
      (out_BTD, keys of this pass, mean gate over heads and tokens that are not padding or, in the first pass, None).
    """
    c = self.config
    project = lambda weight, heads: linear('btd,dhk->bthk', x_BTD, weight, ('embed', heads, 'head_dim'), self.dtype)
    q_BTHK = rotate(project(self.query_DHK, 'heads'), ids.positions, c.rope_theta)
    k_BTGK = rotate(project(self.key_DGK, 'kv_heads'), ids.positions, c.rope_theta)
    keys = Keys(k_BTGK, project(self.value_DGK, 'kv_heads'), ids)
    q_BTHK = sharding.constrain(q_BTHK, 'batch', 'sequence', 'heads', None)
    if first is None:
      gate = None
      if past is None:
        out_BTHK = context.attention(q_BTHK, keys, self.context_transport)
      else:
        out_BTHK = context.cached_attention(q_BTHK, keys, past.far, layer)
    else:
      logits_BTH = self._gate_logits(x_BTD, q_BTHK)
      if past is None:
        out_BTHK = context.gated_attention(q_BTHK, first, keys, logits_BTH, c.loop_window, self.context_transport)
      else:
        streams = first, keys, past.far, past.near, layer
        out_BTHK = context.cached_gated_attention(q_BTHK, *streams, logits_BTH, c.loop_window)
      real_BT1 = (ids.segment_ids != 0)[..., None]
      gate = jnp.sum(jnp.where(real_BT1, jax.nn.sigmoid(logits_BTH), 0)) / jnp.maximum(jnp.sum(real_BT1) * c.heads, 1)
    out_BTD = linear('bthk,hkd->btd', out_BTHK, self.output_HKD, ('heads', 'head_dim', 'embed'), self.dtype)
    return out_BTD, keys, gate

  def _gate_logits(self, x_BTD, q_BTHK):
    """float32 [B, T, H]; the released gate reads the rotated query, the rescaled variant the normalised hidden state."""
    released = self.config.loop_variant == 'released'
    subscripts, read = ('bthk,hk->bth', q_BTHK) if released else ('btd,hd->bth', x_BTD)
    return jnp.einsum(subscripts, read.astype(jnp.float32), self.gate_weight) + self.gate_bias_H
