"""The keys that decoding keeps of its slots: those of the first pass in full, those of later passes as far as the window.

Legend: L layers, B slots, S tokens that a slot has room for, W window, T new tokens, G key/value heads, K head size.
"""

from collections.abc import Sequence

import flax.struct
import jax
import jax.numpy as jnp

from iquest_jax import sharding
from iquest_jax.kernels.gated_attention import Ids
from iquest_jax.model.sizes import ModelConfig

# Logical names of the axes of a cache's keys and values.
KEY_AXES = ('layers', 'batch', None, 'kv_heads', 'head_dim')


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
  shape = lambda length: (model.layers, slots, length, model.kv_heads, model.head_dim)
  zeros = lambda length: sharding.constrain(jnp.zeros(shape(length), dtype), *KEY_AXES)
  kv = lambda length: (zeros(length), zeros(length))  # two arrays, since a donated one must not occur twice
  lengths_B = sharding.constrain(jnp.zeros(slots, jnp.int32), 'batch')
  return Cache(kv(size), tuple(kv(model.loop_window) for _ in range(model.loops - 1)), lengths_B)


def write(cache: Cache, passes: Sequence[tuple[jax.Array, jax.Array]], count_B) -> Cache:
  """Appends new tokens to their slots.

  Args:
    passes: (k, v) [L, B, T, G, K] per pass, of T tokens that follow those of each slot.
    count_B: how many of the T belong to the slot; the others are not written.
  """

  def local(cache, passes, count_B):
    def put(old, new):
      places_BT = _places(cache.length_B, count_B, new.shape[2], old.shape[2])
      if new.shape[2] == 1:
        return _put_one(old, new, places_BT[:, 0])
      slots_B1 = jnp.arange(len(count_B))[:, None]
      return old.at[:, slots_B1, places_BT].set(new, mode='drop', unique_indices=True)

    far, *near = jax.tree.map(put, [cache.far, *cache.near], passes)
    return Cache(far, tuple(near), cache.length_B + count_B)

  return _on_each_device(local, cache, [tuple(kv) for kv in passes], count_B)


def take(cache: Cache, slots_N) -> Cache:
  """A cache with one slot of each of N equal parts of another, where N is the ways the mesh splits the slots.

  Args:
    slots_N: int32, the slot's index within its part.
  """

  def local(cache, slots_1):
    one = lambda x: jax.lax.dynamic_slice_in_dim(x, slots_1[0], 1, _slot_axis(x))
    return jax.tree.map(one, cache)

  return _on_each_device(local, cache, slots_N)


def replace(cache: Cache, slots_N, chosen: Cache) -> Cache:
  """The cache with the slots that `take` takes replaced by those of another cache."""

  def local(cache, slots_1, chosen):
    put = lambda x, new: jax.lax.dynamic_update_slice_in_dim(x, new, slots_1[0], _slot_axis(x))
    return jax.tree.map(put, cache, chosen)

  return _on_each_device(local, cache, slots_N, chosen)


def _on_each_device(function, cache: Cache, *arguments) -> Cache:
  """function(cache, *arguments), on each device its own slots and heads.

  The partitioner would gather whole caches, since it does not know where a slot lies.
  """
  if jax.sharding.get_abstract_mesh().empty:
    return function(cache, *arguments)
  spec = lambda x: sharding.spec(*(KEY_AXES if x.ndim == len(KEY_AXES) else ('batch',)))
  specs = jax.tree.map(spec, (cache, *arguments))
  return jax.shard_map(function, in_specs=specs, out_specs=specs[0], check_vma=False)(cache, *arguments)


def _slot_axis(x) -> int:
  return KEY_AXES.index('batch') if x.ndim == len(KEY_AXES) else 0


def _put_one(old, new, places_B):
  """Writes one token per slot, slot after slot: for a scatter, libtpu copies the whole cache into another order and back.

  Args:
    old: [L, B, S, G, K].
    new: [L, B, 1, G, K].
    places_B: int32; S is not written.
  """
  room = old.shape[2]

  def one(slot, old):
    at = 0, slot, jnp.minimum(places_B[slot], room - 1), 0, 0
    token = jax.lax.dynamic_slice_in_dim(new, slot, 1, axis=1)
    token = jnp.where(places_B[slot] < room, token, jax.lax.dynamic_slice(old, at, token.shape))
    return jax.lax.dynamic_update_slice(old, token, at)

  return jax.lax.fori_loop(0, old.shape[1], one, old)


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
