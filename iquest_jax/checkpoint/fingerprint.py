"""Fingerprints of parameters and optimizer state: 64 bits per leaf, the same under any sharding.

`Checkpoints.save` takes them on the device, before the arrays are copied to the host, and a restore takes them again.
Whatever changes a value in between is found: the copy, host memory, the writer, the disk, the reader. What was wrong before
is saved as it is; train/health looks for that.

A file's SHA-256 (seal.py) proves that its bytes are the ones written; a leaf's fingerprint proves that the values read
from them are the ones trained. Neither implies the other: a reader may repair or misread the bytes.
"""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from jax import lax

_ROUNDS, _LAST_SHIFT = ((16, 0x85EBCA6B), (13, 0xC2B2AE35)), 16  # of _mix
_SEEDS = (0x3C6EF372, 0xA54FF53A)  # two independent sums of 32 bits make one fingerprint
_BLOCK = 1 << 15  # elements of a leaf on the host that are hashed at once: they stay in the processor's cache


def fingerprints(tree: Any) -> dict[str, str]:
  """One fingerprint per leaf: {'layers/attention/query': 16 hex digits}; only these digits leave the device.

  Every element contributes a hash of its float32 bits and its global coordinates; contributions are added modulo 2^32.
  Integer addition has no order, so the sum is the same on any devices, mesh or sharding. Coordinates are hashed axis by
  axis, never as one linear index, so a leaf may hold more than 2^32 elements.

  Args:
    tree: arrays of any shape, jax (global arrays of several processes too) or numpy; float32, bfloat16, float16,
      integers of at most 32 bits, bool. 0.0 and -0.0 differ, as do two NaNs of different bits.

  Raises:
    TypeError: a leaf has elements of 64 bits.
  """
  leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
  for path, leaf in leaves:
    if leaf.dtype.itemsize > 4:  # checked here, since jit would silently narrow a numpy array
      raise TypeError(f'{leaf_path(path)}: a fingerprint takes elements of at most 32 bits, got {leaf.dtype}')
  sums = [host_sums(leaf) if isinstance(leaf, np.ndarray) else _sums(leaf) for _, leaf in leaves]
  sums = map(np.asarray, sums)  # fetched after all have been dispatched
  return {leaf_path(path): of_sums([leaf]) for (path, _), leaf in zip(leaves, sums, strict=True)}


def combine(fingerprints_by_leaf: dict[str, str]) -> str:
  """One fingerprint (16 hex digits) of a whole tree from those of its leaves; their order does not matter."""
  return hashlib.sha256(json.dumps(fingerprints_by_leaf, sort_keys=True).encode()).hexdigest()[:16]


def leaf_path(path: tuple[Any, ...]) -> str:
  """'layers/attention/query' for a key path of jax.tree_util."""
  return jax.tree_util.keystr(path, simple=True, separator='/')


def host_sums(piece: np.ndarray, start: Sequence[int] = ()) -> np.ndarray:
  """uint32 [2]: what a piece of a leaf, on the host, adds to the two sums; `of_sums` takes those of all pieces.

  In numpy: jax on a CPU copies its input three times and takes longer. Another thread can run meanwhile.

  Args:
    start: coordinates of the piece's first element in the leaf, zeros by default.
  """
  if not piece.size:
    return np.zeros(2, np.uint32)
  start = start or (0,) * piece.ndim
  rows = piece.reshape(-1, piece.shape[-1] if piece.ndim else 1)
  step = max(1, _BLOCK // rows.shape[1])
  # Written again and again, so that they stay in the processor's cache.
  hashed, scratch = np.empty((2, step, rows.shape[1]), np.uint32)
  sums = []
  for seed in _SEEDS:
    indices = [np.arange(first, first + length, dtype=np.uint32) for first, length in zip(start, piece.shape)]
    coordinates = [_mix(index ^ _mix(np.array([seed + axis], np.uint32))) for axis, index in enumerate(indices)]
    last, position = coordinates.pop() if coordinates else np.uint32(0), np.array([seed], np.uint32)
    for coordinate in coordinates:
      position = (position[:, None] + coordinate).ravel()
    parts = []
    for row in range(0, len(rows), step):
      bits = _host_bits(rows[row : row + step])
      block, spare = hashed[: len(bits)], scratch[: len(bits)]
      np.add(position[row : row + step, None], last, out=block)
      _mix_in_place(block, spare)
      np.bitwise_xor(block, bits, out=block)
      _mix_in_place(block, spare)
      parts.append(np.sum(block, dtype=np.uint32))
    sums.append(np.sum(parts, dtype=np.uint32))
  return np.array(sums)


def of_sums(sums: Sequence[np.ndarray]) -> str:
  """The fingerprint (16 hex digits) of a leaf from the sums of its pieces, in any order."""
  first, second = np.sum(sums, axis=0, dtype=np.uint32)
  return f'{first:08x}{second:08x}'


def device_sum(piece: jax.Array) -> jax.Array:
  """uint32: one of the two sums, of a piece of a leaf as it lies on a device; one element that differs changes it."""
  return _sum(_bits(piece), _SEEDS[0])


def _host_bits(block: np.ndarray) -> np.ndarray:
  """`_bits` on the host."""
  if block.dtype == ml_dtypes.bfloat16:
    return block.view(np.uint16).astype(np.uint32) << 16
  if block.dtype.kind == 'f':
    return block.astype(np.float32, copy=False).view(np.uint32)
  return block.astype(np.uint32)


@jax.jit
def _sums(leaf: jax.Array) -> jax.Array:
  """uint32 [2], one sum per seed."""
  return jnp.stack([_sum(_bits(leaf), seed) for seed in _SEEDS])


def _sum(bits: jax.Array, seed: int) -> jax.Array:
  """Sum of hash(bits, coordinates) over all elements, modulo 2^32."""
  position = jnp.full(bits.shape, seed, jnp.uint32)
  for axis, length in enumerate(bits.shape):
    # Hashed as a vector first, so that an element costs one addition per axis.
    coordinate = _mix(lax.iota(jnp.uint32, length) ^ _mix(jnp.uint32(seed + axis)))
    position += lax.broadcast_in_dim(coordinate, bits.shape, (axis,))
  return jnp.sum(_mix(bits ^ _mix(position)), dtype=jnp.uint32)


def _bits(leaf: jax.Array) -> jax.Array:
  """uint32 in the shape of `leaf`: the bits of its float32 values, or its integers."""
  if leaf.dtype == jnp.bfloat16:
    # Widened as bits, because a conversion may flush subnormal numbers to zero.
    return lax.bitcast_convert_type(leaf, jnp.uint16).astype(jnp.uint32) << 16
  if jnp.issubdtype(leaf.dtype, jnp.floating):
    return lax.bitcast_convert_type(leaf.astype(jnp.float32), jnp.uint32)
  return leaf.astype(jnp.uint32)


def _mix(x: Any) -> Any:
  """A bijection of uint32 in which every bit of x affects every bit of the result (finaliser of MurmurHash3)."""
  for shift, factor in _ROUNDS:
    x = (x ^ (x >> shift)) * np.uint32(factor)
  return x ^ (x >> _LAST_SHIFT)


def _mix_in_place(x: np.ndarray, spare: np.ndarray) -> None:
  """`_mix` of an array on the host, which allocates nothing and so takes two thirds of the time."""
  for shift, factor in _ROUNDS:
    np.right_shift(x, shift, out=spare)
    np.bitwise_xor(x, spare, out=x)
    np.multiply(x, np.uint32(factor), out=x)
  np.right_shift(x, _LAST_SHIFT, out=spare)
  np.bitwise_xor(x, spare, out=x)
