"""Slots of a cache with random numbers, for the tests of decode attention, and what attention over them is in float64.

Legend: B slots, S places of a slot, W places of a ring, H query heads, G key/value heads, K head size, L layers.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from iquest_jax.kernels.gated_attention import Ids, Keys

from tests.kernels import attention_oracle as oracle

# Tokens of the slots in a room of 512: none, one, at the borders of copies (128) and of blocks of 256, full.
LENGTHS = (0, 1, 127, 128, 129, 255, 256, 257, 511, 512)


class Slots(NamedTuple):
  """What gated_attention takes, one new token per slot; `attention` takes some of it."""

  q: np.ndarray
  far: Keys
  past_far: Keys
  near: Keys
  past_near: Keys
  layer: np.int32
  logits: np.ndarray
  window: int

  @property
  def plain(self):
    return self.q, self.far, self.past_far, self.layer

  @property
  def gated(self):
    return self.q, self.far, self.near, self.past_far, self.past_near, self.layer, self.logits, self.window

  def map_past(self, function):
    """`function(x, used)` of all cached keys and values; used says which of [L, B, S, 1, 1] are the layer's tokens."""

    def of(keys):
      of_layer = np.arange(len(keys.k))[:, None, None] == self.layer
      return Keys(*(function(x, (of_layer & (keys.ids.segment_ids != 0))[..., None, None]) for x in keys[:2]), keys.ids)

    return self._replace(past_far=of(self.past_far), past_near=of(self.past_near))


def slots(lengths=LENGTHS, heads=(6, 2), K=16, S=512, W=16, window=16, idle=(), dtype=np.float32, seed=0) -> Slots:
  """The last of two layers, slots filled from the front, rings in any order; those in `idle` have tokens but no query."""
  H, G = heads
  L = 2
  B, generator = len(lengths), np.random.default_rng(seed)
  normal = lambda T, *shape: generator.standard_normal((B, T, *shape)).astype(jnp.dtype(dtype))
  length = np.array(lengths, np.int32)[:, None]
  active = ~np.isin(np.arange(B), idle)[:, None]
  ids = Ids(active.astype(np.int32), length)
  places = np.broadcast_to(np.arange(S, dtype=np.int32), (B, S))
  order = generator.permuted(np.broadcast_to(np.arange(1, W + 1, dtype=np.int32), (B, W)), axis=1)
  of = lambda positions, filled: Ids((filled & (positions >= 0)).astype(np.int32), np.maximum(positions, 0))
  own = lambda: Keys(normal(1, G, K), normal(1, G, K), ids)
  cached = lambda size: [np.stack([normal(size, G, K) for _ in range(L)]) for _ in 'kv']
  past_far = Keys(*cached(S), of(places, places < length))
  past_near = Keys(*cached(W), of(length - order, True))
  logits = 2 * generator.standard_normal((B, 1, H)).astype(np.float32)
  return Slots(normal(1, H, K), own(), past_far, own(), past_near, np.int32(L - 1), logits, window)


def expected(example: Slots, gated: bool):
  """float64 [B, 1, H, K]."""
  join = lambda *parts: jax.tree.map(lambda *x: np.concatenate(x, axis=1), *parts)
  past = lambda keys: Keys(*(x[example.layer] for x in keys[:2]), keys.ids)
  far = join(past(example.past_far), example.far)
  if not gated:
    return oracle.stream(example.q, example.far.ids, far).out
  near = join(past(example.past_near), example.near)
  row = oracle.Row(example.q, example.far.ids, far, near, example.logits, example.window)
  return oracle.gated(row, np.zeros(example.q.shape))[0]
