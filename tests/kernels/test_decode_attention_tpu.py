"""What the TPU kernel of decode attention promises besides correct numbers: what it reads, refuses, and no data race."""

import functools
import importlib
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu

from iquest_jax.kernels import decode_attention
from iquest_jax.kernels.decode_attention import reference, tpu
from iquest_jax.kernels.gated_attention import Ids, Keys, kernels_for
from iquest_jax.parallel import context

from tests.kernels import decode_slots
from tests.kernels.decode_slots import slots
from tests.parallel import split_rows

INTERPRETED = tpu.Options(block=512, chunk=256, interpret=True)
jitted_plan = jax.jit(tpu.plan, static_argnums=(2, 3))


def planned(lengths, active, block=256, blocks=4):
  """(slot, block) of the steps of each part."""
  plan = jax.tree.map(np.asarray, jitted_plan(jnp.int32(lengths), jnp.array(active), block, blocks, 0))
  steps = [list(zip(*(x[part, :count].tolist() for x in plan[:2]))) for part, count in enumerate(plan.steps)]
  return plan, steps


def test_every_block_with_tokens_of_a_slot_with_a_query_is_one_step():
  generator = np.random.default_rng(0)
  for _ in range(50):
    lengths, active = generator.integers(0, 1025, 7), generator.random(7) < 0.8
    plan, parts = planned(lengths, active)
    wanted = [(slot, i) for slot in np.flatnonzero(active) for i in range(max(1, -(-lengths[slot] // 256)))]
    assert sum(parts, []) == wanted
    # No slot is shared, and the parts differ by no more than the longest slot.
    assert not {slot for slot, _ in parts[0]} & {slot for slot, _ in parts[1]}
    assert abs(len(parts[0]) - len(parts[1])) <= 4


def test_a_part_that_has_done_its_steps_moves_no_block():
  plan, parts = planned([1024, 256, 100], [True] * 3)
  assert [len(part) for part in parts] == [4, 2]
  assert plan.slot[1, 2:].tolist() == [2] * 10 and plan.block[1, 2:].tolist() == [0] * 10
  # A part without slots has a row of the output for itself.
  plan, parts = planned([300, 256, 100], [True, False, False])
  assert [len(part) for part in parts] == [2, 0] and set(plan.slot[1].tolist()) == {3}


def test_bytes_read_are_within_five_percent_of_what_the_cached_tokens_weigh(monkeypatch):
  """Slots of 4096 tokens and more in a room of 16384, in the blocks of 1024 tokens that eight local heads have."""
  copied, make = [], pltpu.make_async_copy

  class Counted:
    def __init__(self, source, target, arrived):
      self._copy, self._rows = make(source, target, arrived), source.shape[0]

    def start(self):
      jax.debug.callback(lambda: copied.append(self._rows))
      self._copy.start()

    def wait(self):
      self._copy.wait()

  monkeypatch.setattr(pltpu, 'make_async_copy', Counted)
  attend = jax.jit(functools.partial(tpu.attention, options=INTERPRETED._replace(block=1024, chunk=256)))
  for lengths in ([4096, 4097, 4223], [5000, 9999, 16384]):
    copied.clear()
    jax.block_until_ready(attend(*slots(lengths, heads=(1, 1), K=8, S=16384).plain))
    jax.effects_barrier()
    # A row of keys and one of values per token.
    assert 2 * sum(lengths) <= sum(copied) <= 1.05 * 2 * sum(lengths)


def test_what_moves_besides_the_caches_weighs_under_one_percent():
  """Of what 4096 cached tokens weigh, at the shapes of 40b in a room of 98304."""
  L, B, H, G, K, S, W = 3, 2, 40, 8, 128, 98304, 64
  array = lambda *shape, dtype=jnp.bfloat16: jax.ShapeDtypeStruct((B, *shape), dtype)
  ids = lambda length: Ids(*[array(length, dtype=jnp.int32)] * 2)
  new = Keys(*[array(1, G, K)] * 2, ids(1))
  cached = lambda length: Keys(*[jax.ShapeDtypeStruct((L, B, length, G, K), jnp.bfloat16)] * 2, ids(length))
  layer = jax.ShapeDtypeStruct((), jnp.int32)
  arrays = array(1, H, K), new, new, cached(S), cached(W), layer, array(1, H, dtype=jnp.float32)
  program = jax.make_jaxpr(functools.partial(tpu.gated_attention, window=W))(*arrays)
  (launch,) = [eqn for eqn in program.eqns if eqn.primitive.name == 'pallas_call']
  weigh = lambda variables: sum(x.aval.size * x.aval.dtype.itemsize for x in variables)
  caches = [x for x in launch.invars if x.aval.shape in ((L * B, S * G, K), (L * B, W * G, K))]
  assert len(caches) == 4
  assert weigh(launch.invars) - weigh(caches) + weigh(launch.outvars) < 0.01 * B * 4096 * 2 * G * K * 2


def test_no_race_and_no_read_of_unwritten_memory():
  # Here memory is NaN until it is written, and two cores run the two parts of the grid.
  interpret = pltpu.InterpretParams(detect_races=True, uninitialized_memory='nan', num_cores_or_threads=2)
  example = slots((300, 0, 512, 17, 129), heads=(2, 1), idle=(3,))
  interpreter = importlib.import_module('jax._src.pallas.mosaic.interpret.interpret_pallas_call')
  out = jax.block_until_ready(tpu.gated_attention(*example.gated, options=INTERPRETED._replace(interpret=interpret)))
  assert not interpreter.races.races_found
  np.testing.assert_allclose(out, decode_slots.expected(example, gated=True), rtol=0, atol=1e-5)


def test_slots_and_heads_split_over_devices_equal_the_whole(monkeypatch):
  example = slots((300, 0, 512, 17), idle=(3,))
  functions = {name: functools.partial(getattr(tpu, name), options=INTERPRETED) for name in decode_attention.__all__}
  monkeypatch.setattr(decode_attention, '_implementation', lambda: types.SimpleNamespace(**functions))
  with jax.set_mesh(split_rows.mesh_of(data=2, tensor=2)):
    out = jax.jit(functools.partial(context.cached_gated_attention, window=example.window))(*example.gated[:-1])
  np.testing.assert_allclose(out, decode_slots.expected(example, gated=True), rtol=0, atol=1e-5)


def test_the_kernel_is_that_of_the_platform_compiled_for():
  program = lambda: str(jax.make_jaxpr(lambda q: decode_attention.attention(q, *example.plain[1:]))(example.q))
  example = slots((3,), S=128)
  assert 'pallas_call' not in program()
  with kernels_for('tpu'):
    assert 'name=decode_attention' in program()


def test_several_new_tokens_or_other_rooms_run_as_the_reference():
  example = slots((3,), S=128)
  odd = slots((3,), S=130)
  two = [jax.tree.map(lambda x: np.repeat(x, 2, axis=1), x) for x in example.plain[:2]]
  for arrays in (odd.plain, (*two, *example.plain[2:])):
    np.testing.assert_array_equal(tpu.attention(*arrays), reference.attention(*arrays))


def test_a_ring_beyond_one_piece_is_refused():
  with pytest.raises(ValueError, match='past_near must have at most 128 places on a TPU, got 129'):
    tpu.gated_attention(*slots((3,), S=128, W=129).gated)
