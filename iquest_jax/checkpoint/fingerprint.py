"""Fingerprints: of parameters, the same under any sharding, and of the files of a folder.

A file's SHA-256 says that the bytes are the ones written; a leaf's fingerprint says that the numbers read from them are
the ones trained. Neither follows from the other: a reader may mend or misread what the bytes say.
"""

import concurrent.futures
import hashlib
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax import lax

_LANES = (0x3C6EF372, 0xA54FF53A)  # seeds; two independent sums of 32 bits make one fingerprint of 64
_SLICE_BYTES = 1 << 26  # of a leaf on the host, hashed at once
_READ_BYTES = 1 << 20
_READERS = 8  # files hashed at once; hashlib lets go of the interpreter lock


def fingerprints(tree: Any) -> dict[str, str]:
  """One fingerprint per leaf: {'layers/attention/query': 16 hex digits}; only these digits leave the device.

  Every element contributes a hash of its float32 bits and its global coordinates; contributions are added modulo 2^32.
  Integer addition has no order, so the sum is the same on any devices, mesh or sharding. Coordinates are hashed axis by
  axis, never as one linear index, so a leaf may hold more than 2^32 elements.

  Args:
    tree: arrays of any shape, jax (global arrays of several processes too) or numpy; float32, bfloat16, float16,
      integers of at most 32 bits, bool. 0.0 and -0.0 differ, as do two NaNs of different bits.

  Raises:
    TypeError: a leaf of 64 bits, which float32 master values cannot hold.
  """
  leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
  for path, leaf in leaves:
    if leaf.dtype.itemsize > 4:  # asked here, since jit would narrow a numpy array without a word
      raise TypeError(f'{leaf_path(path)}: a fingerprint is of 32 bits an element, not of {leaf.dtype}')
  sums = [_host_sums(leaf) if isinstance(leaf, np.ndarray) else _sums(leaf) for _, leaf in leaves]
  sums = map(np.asarray, sums)  # asked for once all are on their way
  return {leaf_path(path): f'{first:08x}{second:08x}' for (path, _), (first, second) in zip(leaves, sums, strict=True)}


def combine(fingerprints_by_leaf: dict[str, str]) -> str:
  """One fingerprint (16 hex digits) of a whole tree from those of its leaves; their order does not matter."""
  return _sha256(json.dumps(fingerprints_by_leaf, sort_keys=True).encode())[:16]


def leaf_path(path: tuple[Any, ...]) -> str:
  """'layers/attention/query' for a key path of jax.tree_util."""
  return jax.tree_util.keystr(path, simple=True, separator='/')


def _host_sums(leaf: np.ndarray) -> np.ndarray:
  """`_sums` of a leaf on the host, in slices of its first axis: a CPU copies three times what it hashes."""
  if not leaf.ndim or not leaf.size:
    return _sums(leaf)
  rows = max(1, _SLICE_BYTES * len(leaf) // leaf.nbytes)
  parts = [np.asarray(_sums(leaf[start : start + rows], start)) for start in range(0, len(leaf), rows)]
  return np.sum(parts, axis=0, dtype=np.uint32)


@jax.jit
def _sums(leaf: jax.Array, start: int | jax.Array = 0) -> jax.Array:
  """[lanes] uint32, of a leaf whose first axis counts from `start`."""
  return jnp.stack([_sum(_bits(jnp.asarray(leaf)), seed, jnp.uint32(start)) for seed in _LANES])


def _sum(bits: jax.Array, seed: int, start: jax.Array) -> jax.Array:
  """Sum of hash(bits, coordinates) over all elements, modulo 2^32."""
  position = jnp.full(bits.shape, seed, jnp.uint32)
  for axis, length in enumerate(bits.shape):
    # Hashed as a vector first, so that the cost per element is one addition an axis.
    index = lax.iota(jnp.uint32, length) + (start if axis == 0 else jnp.uint32(0))
    coordinate = _mix(index ^ _mix(jnp.uint32(seed + axis)))
    position += lax.broadcast_in_dim(coordinate, bits.shape, (axis,))
  return jnp.sum(_mix(bits ^ _mix(position)), dtype=jnp.uint32)


def _bits(leaf: jax.Array) -> jax.Array:
  """uint32 of the shape of `leaf`: the bits of its float32 values, or its integers."""
  if leaf.dtype == jnp.bfloat16:
    # Widened as bits: a conversion may flush subnormal numbers to zero.
    return lax.bitcast_convert_type(leaf, jnp.uint16).astype(jnp.uint32) << 16
  if jnp.issubdtype(leaf.dtype, jnp.floating):
    return lax.bitcast_convert_type(leaf.astype(jnp.float32), jnp.uint32)
  return leaf.astype(jnp.uint32)


def _mix(x: jax.Array) -> jax.Array:
  """A bijection of uint32 in which every bit of x moves every bit of the result (finaliser of MurmurHash3)."""
  x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
  x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
  return x ^ (x >> 16)


def files(folder: epath.Path) -> list[str]:
  """Names of all files below `folder`, relative to it, sorted."""
  found, folders = [], [folder]
  while folders:
    for entry in folders.pop().iterdir():
      (folders if entry.is_dir() else found).append(entry)
  return sorted(str(file.relative_to(folder)) for file in found)


def file_hashes(folder: epath.Path, names: list[str]) -> dict[str, str]:
  """{name: SHA-256 in hex} of files below `folder`; memory does not grow with their size."""
  with concurrent.futures.ThreadPoolExecutor(_READERS) as readers:
    return dict(zip(names, readers.map(lambda name: _file_hash(folder / name), names), strict=True))


def _file_hash(file: epath.Path) -> str:
  digest = hashlib.sha256()
  with file.open('rb') as stream:
    while block := stream.read(_READ_BYTES):
      digest.update(block)
  return digest.hexdigest()


def seal(hashes: dict[str, str]) -> str:
  """Text of a list of file hashes that vouches for itself: any changed byte of it is seen by `unseal`."""
  return json.dumps({'files': hashes, 'sha256': _sha256(_canonical(hashes))}, indent=1, sort_keys=True)


def unseal(text: str) -> dict[str, str]:
  """The file hashes in a sealed text; raises ValueError when the text is not, byte for byte, what `seal` wrote."""
  try:
    hashes = json.loads(text)['files']
  except (json.JSONDecodeError, KeyError, TypeError) as error:
    raise ValueError('not a sealed list of files') from error
  if text != seal(hashes):
    raise ValueError('the seal does not fit the list')
  return hashes


def _canonical(hashes: dict[str, str]) -> bytes:
  return json.dumps(hashes, sort_keys=True).encode()


def _sha256(content: bytes) -> str:
  return hashlib.sha256(content).hexdigest()
