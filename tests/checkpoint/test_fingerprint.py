"""A fingerprint depends on values and coordinates, and on nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from iquest_jax.checkpoint import fingerprint


def _leaf(shape=(16, 24), seed=0):
  return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def _of(leaf):
  return fingerprint.fingerprints({'leaf': leaf})['leaf']


def test_any_single_flipped_bit_changes_the_fingerprint():
  leaf = _leaf((3, 4))
  seen = {_of(leaf)}
  for element in range(leaf.size):
    for bit in range(32):
      bits = leaf.copy().view(np.uint32)
      bits.flat[element] ^= np.uint32(1 << bit)
      seen.add(_of(bits.view(np.float32)))
  assert len(seen) == 1 + 32 * leaf.size


def test_two_swapped_elements_change_the_fingerprint():
  leaf = _leaf((4, 5))
  seen = {_of(leaf)}
  for a in range(leaf.size):
    for b in range(a):
      swapped = leaf.copy()
      swapped.flat[a], swapped.flat[b] = leaf.flat[b], leaf.flat[a]
      seen.add(_of(swapped))
  assert len(seen) == 1 + leaf.size * (leaf.size - 1) // 2


def test_a_transposed_or_reshaped_leaf_changes_the_fingerprint():
  square = _leaf((8, 8))
  assert len({_of(square), _of(square.T.copy()), _of(square.reshape(4, 16)), _of(square.reshape(1, 8, 8))}) == 4


def test_signed_zeros_and_nans_count_as_bits():
  nans = np.array([0x7FC00000, 0x7FC00001], np.uint32).view(np.float32)
  values = [np.float32(0.0), np.float32(-0.0), *nans, np.float32(1e-40)]
  assert len({_of(np.full((2,), value, np.float32)) for value in values}) == len(values)


def test_a_bfloat16_leaf_has_the_fingerprint_of_its_exact_float32_values():
  bits = np.arange(2**16, dtype=np.uint16)  # all of them, subnormal numbers and NaNs included
  narrow, wide = bits.view(jnp.bfloat16), (bits.astype(np.uint32) << 16).view(np.float32)
  assert _of(narrow) == _of(wide)


@pytest.mark.parametrize('shape', [(), (0,), (1,), (7,), (7, 3), (16, 24), (3, 4, 5)])
def test_a_leaf_on_the_host_is_hashed_in_blocks_to_the_same_sum(shape, monkeypatch):
  leaf = np.asarray(_leaf(shape))
  monkeypatch.setattr(fingerprint, '_BLOCK', 10)
  assert _of(leaf) == _of(jnp.asarray(leaf))


@pytest.mark.parametrize('dtype', [np.float16, jnp.bfloat16, np.int8, np.uint16, np.int32, np.bool_])
def test_a_leaf_has_the_same_fingerprint_on_the_host_and_on_a_device(dtype):
  leaf = (10 * _leaf((5, 7))).astype(dtype)
  assert _of(leaf) == _of(jnp.asarray(leaf))


@pytest.mark.parametrize('axis', [0, 1, 2])
def test_pieces_along_any_axis_add_up_to_the_fingerprint(axis):
  leaf = _leaf((6, 5, 7))
  sums = []
  for start in range(0, leaf.shape[axis], 2):
    first = [0, 0, 0]
    first[axis] = start
    sums.append(fingerprint.host_sums(np.take(leaf, range(start, min(start + 2, leaf.shape[axis])), axis), first))
  assert fingerprint.of_sums(sums[::-1]) == _of(jnp.asarray(leaf))


@pytest.mark.parametrize('shape,spec', [((8, 1), P('fsdp')), ((8, 1), P(None, 'fsdp')), ((4, 2), P('fsdp', 'tensor')),
                                        ((2, 4), P(('fsdp', 'tensor'))), ((8, 1), P())])
def test_the_fingerprint_is_the_same_under_any_sharding(shape, spec):
  leaf = _leaf()
  mesh = Mesh(np.array(jax.devices()[:8]).reshape(shape), ('fsdp', 'tensor'))
  sharded = jax.device_put(leaf, NamedSharding(mesh, spec))
  assert len(sharded.sharding.device_set) == 8
  assert _of(sharded) == _of(leaf) == _of(jnp.asarray(leaf))


def test_the_sum_is_the_one_defined_in_the_docstring():
  """Recomputed in Python integers, because a change of the definition would orphan existing checkpoints."""
  def mix(x):
    x = (x ^ (x >> 16)) * 0x85EBCA6B % 2**32
    x = (x ^ (x >> 13)) * 0xC2B2AE35 % 2**32
    return x ^ (x >> 16)

  leaf = _leaf((2, 3, 4))
  digits = ''
  for seed in (0x3C6EF372, 0xA54FF53A):
    total = 0
    for coordinates, bits in np.ndenumerate(leaf.view(np.uint32)):
      position = seed + sum(mix(c ^ mix(seed + axis)) for axis, c in enumerate(coordinates))
      total += mix(int(bits) ^ mix(position % 2**32))
    digits += f'{total % 2**32:08x}'
  assert _of(leaf) == digits


def test_the_combined_fingerprint_depends_on_the_leaf_names():
  a, b = _leaf(seed=1), _leaf(seed=2)
  one, other = ({'a': a, 'b': b}, {'a': b, 'b': a})
  together = [fingerprint.combine(fingerprint.fingerprints(tree)) for tree in (one, other, dict(reversed(one.items())))]
  assert together[0] == together[2] != together[1]


def test_a_leaf_of_64_bits_is_refused():
  with pytest.raises(TypeError, match='layers/w: .* at most 32 bits, got float64'):
    fingerprint.fingerprints({'layers': {'w': np.zeros(3)}})
