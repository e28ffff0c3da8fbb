"""Rows computed again on other devices come out in the same bits, and a device that computes wrongly is named."""

import jax
import numpy as np
import pytest

from iquest_jax.train.health import recompute

from tests.train import faulty

MESHES = {
    'fsdp 8': ((1, 8, 1, 1), {}),
    'data 2 fsdp 2 context 2': ((2, 2, 2, 1), {}),
    'ring': ((1, 2, 4, 1), {'context_transport': 'ring'}),
    'fsdp 4 tensor 2': ((1, 4, 1, 2), {}),
}


def recomputed(mesh, rows=16, **how):
  run = faulty.Run(mesh, rows=rows, **how)
  return run, recompute.Recompute(run.config, run.stage.model, run.mesh)


def differences(run, again, params=None, step=0):
  with jax.set_mesh(run.mesh):
    return again.differences(run.state.params if params is None else params, step)


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
@pytest.mark.parametrize('name', ['fsdp 8', *(pytest.param(name, marks=pytest.mark.long) for name in list(MESHES)[1:])])
def test_moved_rows_come_out_in_the_same_bits(name, dtype):
  mesh, train = MESHES[name]
  run, again = recomputed(mesh, dtype=dtype, **train)
  with jax.set_mesh(run.mesh):
    tables = [again._of_rows(run.state.params, step, moved) for step in (0, 1) for moved in range(min(4, again.places))]
  half = len(tables) // 2
  for of_step in (tables[:half], tables[half:]):
    assert all(np.array_equal(of_step[0], table) for table in of_step)
  # Every row has bits of its own, at every step: an equality that says something.
  values = np.stack([tables[0], tables[half]])[..., 1]
  assert len(np.unique(values)) == values.size // (mesh[3] if mesh[3] > 1 else 1)


def test_a_device_that_computes_wrongly_is_named():
  # Replicas without fsdp: a parameter that is wrong on one device is wrong in that device's products alone.
  run, again = recomputed((8, 1, 1, 1), rows=8)
  assert differences(run, again) == []
  for place in (0, 3, 7):
    device = run.mesh.devices[place, 0, 0, 0]
    up = run.state.params['layers']['mlp']['up']
    params = jax.tree.map(lambda each: faulty.flipped(each, device, 40, 29) if each is up else each, run.state.params)
    (found,) = differences(run, again, params)
    assert found.suspects == (device,) and found.outvoted
    assert found.what == 'recomputed rows (losses, gradient of the embedded tokens)'


class Once:
  """Wrong in one row, once: the table of one call has another hash there."""

  def __init__(self, again, call, home):
    self.inner, self.calls, self.wrong = again._of_rows, 0, (call, home)

  def __call__(self, params, step, moved):
    table, call = self.inner(params, step, moved).copy(), self.calls
    self.calls += 1
    if call == self.wrong[0]:
      table[self.wrong[1], 0, 0, 1] ^= 4
    return table


@pytest.mark.parametrize(('call', 'places'), [(0, (5,)), (1, (6,)), (1, (0,))])
def test_a_passing_error_is_named_by_a_third_place(call, places, monkeypatch):
  run, again = recomputed((8, 1, 1, 1), rows=8)
  home = (places[0] - call) % 8
  monkeypatch.setattr(again, '_of_rows', Once(again, call, home))
  (found,) = differences(run, again)
  assert found.suspects == tuple(run.mesh.devices.ravel()[list(places)]) and found.outvoted
  assert found.what == 'recomputed rows (gradient of the embedded tokens)'


def test_a_place_of_several_devices_is_named_whole():
  run, again = recomputed((4, 1, 2, 1), rows=4)
  scale = run.state.params['final_norm']['scale']
  device = run.mesh.devices[2, 0, 1, 0]
  params = run.state.params | {'final_norm': {'scale': faulty.flipped(scale, device, 3, 28)}}
  (found,) = differences(run, again, params)
  assert found.suspects == tuple(run.mesh.devices[2].ravel())


def test_one_place_has_nothing_to_compare_with():
  run, again = recomputed((1, 1, 8, 1), rows=2)
  assert again.places == 1 and differences(run, again) == []
