"""The keys that decoding keeps of its slots: those of the first pass in full, those of later passes as far as the window.

Legend: L layers, B slots, S tokens that a slot has room for, W window, T new tokens, G key/value heads, K head size.
"""

from collections.abc import Sequence

import flax.struct
import jax
import jax.numpy as jnp

from iquest_jax.kernels.gated_attention import Ids
from iquest_jax.model.sizes import ModelConfig


@flax.struct.dataclass
class Cache:
  """Keys and values of every slot. Where a token lies follows from its position, so nothing else is stored.

  Attributes:
    far: (k, v) [L, B, S, G, K] of the first pass; position p lies at p.
    near: (k, v) [L, B, W, G, K] per later pass; position p lies at p mod W.
    length_B: tokens of each slot, int32.
  """

  far: tuple[jax.Array, jax.Array]
  near: tuple[tuple[jax.Array, jax.Array], ...]
  length_B: jax.Array

  def far_ids(self) -> Ids:
    """Ids [B, S] of `far`."""
    positions_S = jnp.arange(self.far[0].shape[2], dtype=jnp.int32)
    filled_BS = positions_S < self.length_B[:, None]
    return Ids(filled_BS.astype(jnp.int32), jnp.broadcast_to(positions_S, filled_BS.shape))

  def near_ids(self) -> Ids:
    """Ids [B, W] of each element of `near`."""
    positions_BW = _newest(self.length_B, self.near[0][0].shape[2])
    return Ids((positions_BW >= 0).astype(jnp.int32), jnp.maximum(positions_BW, 0))

  def next_ids(self, length: int, count_B) -> Ids:
    """Ids [B, T] of `length` new tokens per slot, of which the first `count_B` follow those of the slot."""
    t = jnp.arange(length, dtype=jnp.int32)
    return Ids((t < count_B[:, None]).astype(jnp.int32), self.length_B[:, None] + t)


def empty(model: ModelConfig, slots: int, size: int, dtype) -> Cache:
  """A cache for `slots` sequences of up to `size` tokens each."""
  zeros = lambda length: jnp.zeros((model.layers, slots, length, model.kv_heads, model.head_dim), dtype)
  kv = lambda length: (zeros(length), zeros(length))  # two arrays, since a donated one must not occur twice
  return Cache(kv(size), tuple(kv(model.loop_window) for _ in range(model.loops - 1)), jnp.zeros(slots, jnp.int32))


def write(cache: Cache, passes: Sequence[tuple[jax.Array, jax.Array]], count_B) -> Cache:
  """Appends new tokens to their slots.

  Args:
    passes: (k, v) [L, B, T, G, K] per pass, of T tokens that follow those of each slot.
    count_B: how many of the T belong to the slot; the others are not written.
  """
  slots_B1 = jnp.arange(len(count_B))[:, None]

  def put(old, new):
    places_BT = _places(cache.length_B, count_B, new.shape[2], old.shape[2])
    return old.at[:, slots_B1, places_BT].set(new, mode='drop', unique_indices=True)

  far, *near = jax.tree.map(put, [cache.far, *cache.near], [tuple(kv) for kv in passes])
  return Cache(far, tuple(near), cache.length_B + count_B)


def take(cache: Cache, slot) -> Cache:
  """A cache with one slot of another."""
  one = lambda x, axis: jax.lax.dynamic_slice_in_dim(x, slot, 1, axis)
  keys = jax.tree.map(lambda x: one(x, 1), (cache.far, cache.near))
  return Cache(*keys, one(cache.length_B, 0))


def replace(cache: Cache, slot, one: Cache) -> Cache:
  """The cache with a slot replaced by the only one of another cache."""
  put = lambda x, new, axis: jax.lax.dynamic_update_slice_in_dim(x, new, slot, axis)
  keys = jax.tree.map(lambda x, new: put(x, new, 1), (cache.far, cache.near), (one.far, one.near))
  return Cache(*keys, put(cache.length_B, one.length_B, 0))


def _places(length_B, count_B, T, room):
  """int32 [B, T]: where new tokens are written among `room` places, each of which occurs once.

  It is `room`, which is none of them, for padding and for tokens whose place a later one of the T takes.
  """
  t = jnp.arange(T, dtype=jnp.int32)
  written_BT = (t < count_B[:, None]) & (t >= count_B[:, None] - room)
  return jnp.where(written_BT, (length_B[:, None] + t) % room, room)


def _newest(length_B, window):
  """int32 [B, W]: the newest position p < length with p mod W = w; negative if there is none."""
  last_B1 = length_B[:, None] - 1
  return last_B1 - (last_B1 - jnp.arange(window, dtype=jnp.int32)) % window
