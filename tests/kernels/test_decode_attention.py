"""Every implementation of decode attention equals its definition in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iquest_jax.kernels.decode_attention import reference, tpu
from iquest_jax.kernels.gated_attention import Ids

from tests.kernels import decode_slots
from tests.kernels.decode_slots import slots

# Slots of 512 places are two blocks, which are two chunks each.
INTERPRETED = tpu.Options(block=512, chunk=256, interpret=True)
both_kinds = pytest.mark.parametrize('gated', [False, True], ids=['plain', 'gated'])
every_implementation = pytest.mark.parametrize('name', ['reference', 'tpu'])


@functools.lru_cache
def compiled(name, gated, window, options):
  module, options = (reference, {}) if name == 'reference' else (tpu, {'options': options})
  if gated:
    return jax.jit(lambda arrays: module.gated_attention(*arrays, window=window, **options))
  return jax.jit(lambda arrays: module.attention(*arrays, **options))


def run(name, example, gated, options=INTERPRETED):
  """float64 [B, 1, H, K]."""
  arrays = example.gated[:-1] if gated else example.plain
  return np.asarray(compiled(name, gated, example.window, options)(arrays), np.float64)


def assert_defined(name, example, gated, atol=1e-5):
  np.testing.assert_allclose(run(name, example, gated), decode_slots.expected(example, gated), rtol=0, atol=atol)


@both_kinds
@every_implementation
def test_slots_of_every_length_give_the_definition(name, gated):
  assert_defined(name, slots(), gated)


@every_implementation
@pytest.mark.parametrize(
    'heads', [(5, 1), pytest.param((4, 4), marks=pytest.mark.long), pytest.param((9, 3), marks=pytest.mark.long)]
)
def test_any_number_of_local_heads_gives_the_definition(name, heads):
  assert_defined(name, slots((0, 130, 512), heads), gated=True)


@both_kinds
@every_implementation
def test_bfloat16_caches_give_the_definition_up_to_their_rounding(name, gated):
  example = slots((3, 300, 512), (8, 2), dtype=jnp.bfloat16)
  assert_defined(name, example, gated, atol=0.01)


@every_implementation
@pytest.mark.parametrize('window', [1, pytest.param(9, marks=pytest.mark.long), 16])
def test_the_ring_is_seen_as_far_as_the_window(name, window):
  """It has 16 places, so a window of 16 sees all but the oldest; a slot of four tokens has places without one."""
  assert_defined(name, slots((4, 16, 200), window=window), gated=True)


@both_kinds
@every_implementation
@pytest.mark.parametrize('idle', [(0, 2), (0, 1, 2, 3)])
def test_slots_without_a_query_give_zeros_and_leave_the_others(name, gated, idle):
  lengths = (300, 0, 512, 17)
  out = run(name, slots(lengths, idle=idle), gated)
  assert not out[list(idle)].any()
  np.testing.assert_allclose(out, decode_slots.expected(slots(lengths, idle=idle), gated), rtol=0, atol=1e-5)


@both_kinds
def test_what_lies_in_other_layers_or_beyond_a_slots_tokens_changes_nothing(gated):
  example = slots()
  clean = run('tpu', example, gated)
  for poison in (np.nan, np.inf, -np.inf):
    poisoned = example.map_past(lambda x, used: np.where(used, x, x.dtype.type(poison)))
    assert not any(np.isfinite(x[-1]).all() or np.isfinite(x[0]).any() for x in poisoned.past_far[:2])
    np.testing.assert_array_equal(run('tpu', poisoned, gated), clean)


@both_kinds
def test_neighbours_change_no_bit(gated):
  example = slots((129, 512, 300, 1))
  alone = example._replace(far=example.far._replace(ids=Ids(np.int32([[0], [0], [1], [0]]), example.far.ids.positions)))
  alone = alone._replace(near=alone.near._replace(ids=alone.far.ids))
  np.testing.assert_array_equal(run('tpu', alone, gated)[2], run('tpu', example, gated)[2])


@pytest.mark.parametrize(
    'options',
    [INTERPRETED._replace(block=256), pytest.param(INTERPRETED._replace(block=1024, chunk=1024), marks=pytest.mark.long)],
)
def test_blocks_and_chunks_of_any_size_give_the_definition(options):
  example = slots((0, 100, 300, 512))
  actual = run('tpu', example, gated=True, options=options)
  np.testing.assert_allclose(actual, decode_slots.expected(example, gated=True), rtol=0, atol=1e-5)
