"""What replicas hold is compared exactly: every flipped bit is named with its leaf and its device, and nothing else is."""

import functools

import jax
import numpy as np
import pytest

from iquest_jax import sharding
from iquest_jax.train.health import replicas

from tests.train import faulty

DATA_4 = (4, 2, 1, 1)
PARTS = {'parameters': lambda state: state.params, 'moments': lambda state: state.opt_state}


@pytest.mark.parametrize('which', PARTS)
@pytest.mark.parametrize('flips', [15, pytest.param(200, marks=pytest.mark.long)])
def test_every_flipped_bit_of_one_replica_is_named_with_its_leaf_and_device(which, flips):
  run, rng = faulty.run_on(DATA_4), np.random.default_rng(flips)
  for _ in range(flips):
    part, leaf, device = faulty.flipped_somewhere(PARTS[which](run.state), rng)
    damaged = run.state.replace(**{'params' if which == 'parameters' else 'opt_state': part})
    prefix = 'params' if which == 'parameters' else 'opt_state'
    assert run.replicas.differences(damaged) == [replicas.Difference(f'{prefix}/{leaf}', (device,), True)]


@pytest.mark.long
def test_every_flipped_bit_of_one_devices_gradients_is_named_with_its_leaf_and_device():
  run, rng = faulty.run_on(DATA_4), np.random.default_rng(0)
  compare, gradients = replicas.Replicas(run.mesh, run.stage.abstract.params), run.gradients()
  assert compare.differences(gradients) == []
  for _ in range(200):
    damaged, leaf, device = faulty.flipped_somewhere(gradients, rng)
    assert compare.differences(damaged) == [replicas.Difference(leaf, (device,), True)]


@pytest.mark.parametrize('flips', [10, pytest.param(200, marks=pytest.mark.long)])
def test_a_wrong_gradient_of_one_device_is_seen_in_whatever_the_optimizer_changes_by_it(flips):
  """The device alone is named, unless its error changes the norm by which its whole replica clips. Prints how many (-s)."""
  run, rng, seen, alone = faulty.run_on(DATA_4), np.random.default_rng(0), 0, 0
  gradients = run.gradients()
  parts = lambda state: [part for leaf in jax.tree.leaves(state) for part in leaf.addressable_shards]
  words = lambda state: [np.asarray(part.data).tobytes() for part in parts(state)]
  sound = words(run.updated(gradients))
  for _ in range(flips):
    damaged, leaf, device = faulty.flipped_somewhere(gradients, rng)
    state = run.updated(damaged)
    found = run.replicas.differences(state)
    assert bool(found) == (words(state) != sound)  # low bits are rounded away, since moments are larger than gradients
    if found:
      suspects = {each.suspects for each in found}
      replica = next(set(part.flat) for part in run.mesh.devices if device in part)
      assert {device} <= set().union(*suspects) <= replica
      assert any(each.what.endswith(f'/{leaf}') and device in each.suspects for each in found)  # the parameter or a moment
      seen, alone = seen + 1, alone + (suspects == {(device,)})
  print(f'\nof {flips} flips {seen} changed the state; {alone} of them are blamed on the device alone')
  assert 0 < alone <= seen < flips


def test_two_replicas_that_differ_are_both_named():
  mesh = sharding.make_mesh(dict(zip(sharding.AXES, (2, 2, 2, 1))))
  table = np.broadcast_to(np.arange(4, dtype=np.uint32).reshape(1, 2, 2, 1), (2, 2, 2, 1)).copy()
  found = functools.partial(replicas._differences, 'leaf', split={'fsdp', 'context'}, mesh=mesh)
  assert found(table) == []
  table[1, 0, 1, 0] = 9
  assert found(table) == [replicas.Difference('leaf', tuple(mesh.devices[:, 0, 1, 0]), False)]


def test_errors_of_two_devices_in_different_parts_are_both_found():
  run = faulty.run_on(DATA_4)
  wrong = [run.mesh.devices[1, 0, 0, 0], run.mesh.devices[3, 1, 0, 0]]
  leaf = run.state.params['head']
  for device in wrong:
    leaf = faulty.flipped(leaf, device, 5, 30)
  found = run.replicas.differences(run.state.replace(params=run.state.params | {'head': leaf}))
  assert found == [replicas.Difference('params/head', (device,), True) for device in wrong]


def test_two_values_that_change_places_are_found():
  run = faulty.run_on(DATA_4)
  head, device = run.state.params['head'], run.mesh.devices[2, 0, 0, 0]
  parts = []
  for shard in head.addressable_shards:
    part = np.array(shard.data)
    if shard.device == device:
      part[0, 0], part[1, 1] = part[1, 1], part[0, 0]
    parts.append(jax.device_put(part, shard.device))
  head = jax.make_array_from_single_device_arrays(head.shape, head.sharding, parts)
  found = run.replicas.differences(run.state.replace(params=run.state.params | {'head': head}))
  assert [(each.what, each.suspects) for each in found] == [('params/head', (device,))]


def test_what_one_device_alone_holds_is_not_compared():
  # The limit of this check without replicas: a weight that is wrong where it is stored is wrong for everybody.
  run = faulty.run_on((1, 8, 1, 1))
  assert all(name.endswith(('scale', 'gate_weight', 'gate_bias', 'count', 'step', 'skipped', 'skipped_in_a_row'))
             for name in run.replicas.names)  # fmt: skip
  leaf = run.state.params['head']
  params = run.state.params | {'head': faulty.flipped(leaf, jax.devices()[3], 0, 30)}
  assert run.replicas.differences(run.state.replace(params=params)) == []
  assert replicas.Replicas(faulty.run_on(DATA_4).mesh, {}).differences({}) == []
