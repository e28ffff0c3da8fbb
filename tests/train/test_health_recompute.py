"""Rows computed again on other devices come out in the same bits, and a device that computes wrongly is named."""

import functools

import jax
import numpy as np
import pytest

from iquest_jax import sharding
from iquest_jax.train.health import recompute

from tests.train import faulty

MESHES = {
    'data 8': ((8, 1, 1, 1), {}),
    'fsdp 8': ((1, 8, 1, 1), {'dtype': 'bfloat16'}),
    'data 8 bfloat16': ((8, 1, 1, 1), {'dtype': 'bfloat16'}),
    'fsdp 8 float32': ((1, 8, 1, 1), {}),
    'data 2 fsdp 2 context 2': ((2, 2, 2, 1), {'dtype': 'bfloat16'}),
    'ring': ((1, 2, 4, 1), {'context_transport': 'ring', 'dtype': 'bfloat16'}),
    'ring float32': ((1, 2, 4, 1), {'context_transport': 'ring'}),
    'fsdp 4 tensor 2': ((1, 4, 1, 2), {}),
    'remat': ((2, 4, 1, 1), {'remat': 'attention', 'dtype': 'bfloat16'}),
}
SHORT = ('data 8', 'fsdp 8')


@functools.cache
def recomputed(name):
  mesh, train = MESHES[name]
  run = faulty.Run(mesh, rows=16, **train)
  return run, recompute.Recompute(run.config, run.stage.model, run.mesh)


def differences(run, again, params):
  with jax.set_mesh(run.mesh):
    return again.differences(params, 0)


@pytest.mark.parametrize('name', [pytest.param(name, marks=[pytest.mark.long] * (name not in SHORT)) for name in MESHES])
def test_moved_rows_come_out_in_the_same_bits(name):
  run, again = recomputed(name)
  with jax.set_mesh(run.mesh):
    places = range(min(4, again.places))
    first, second = ([again._of_rows(run.state.params, step, moved) for moved in places] for step in (0, 1))
  for tables in (first, second):
    assert all(np.array_equal(tables[0], table) for table in tables)
  # Every row has bits of its own, at every step: so the equality says something. Devices of a tensor axis have the same.
  gradients = np.stack([first[0], second[0]])[..., 1]
  assert len(np.unique(gradients)) == gradients.size // run.mesh.shape['tensor']


def test_a_device_that_computes_wrongly_is_named():
  # Of replicas without fsdp, a parameter that is wrong on one device is wrong in that device's products alone.
  run, again = recomputed('data 8')
  assert differences(run, again, run.state.params) == []
  up = run.state.params['layers']['mlp']['up']
  for place in (0, 3, 7):
    device = run.mesh.devices[place, 0, 0, 0]
    params = jax.tree.map(lambda each: faulty.flipped(each, device, 40, 29) if each is up else each, run.state.params)
    (found,) = differences(run, again, params)
    assert found.suspects == (device,) and found.outvoted
    assert found.what == 'recomputed rows (losses, gradient of the embedded tokens)'


class Scripted(recompute.Recompute):
  """Its rows have given hashes; a wrong one is at [call, home of the rows, device of the place, result]."""

  def __init__(self, mesh, *wrong):
    self._mesh = sharding.make_mesh(dict(zip(sharding.AXES, mesh)))
    self.places, self.calls, self.wrong = mesh[0] * mesh[1], 0, wrong

  def _of_rows(self, params, step, moved):
    assert moved == self.calls
    table = np.zeros((self.places, 8 // self.places, 1, 2), np.uint32)
    for call, home, device, result in self.wrong:
      if call == self.calls:
        table[home, device, 0, result] = 7
    self.calls += 1
    return table


@pytest.mark.parametrize(
    ('mesh', 'wrong', 'places', 'outvoted'),
    [
        # A passing error at place 5, before and after the rows were moved, and at the end of the ring.
        ((8, 1, 1, 1), [(0, 5, 0, 1)], [5], True),
        ((8, 1, 1, 1), [(1, 4, 0, 1)], [5], True),
        ((8, 1, 1, 1), [(1, 7, 0, 0)], [0], True),
        # Place 5 always: its own rows at first, then those of its neighbours.
        ((8, 1, 1, 1), [(0, 5, 0, 0), (1, 4, 0, 0), (2, 3, 0, 0)], [5], True),
        # Two places.
        ((8, 1, 1, 1), [(0, 5, 0, 0), (0, 2, 0, 1)], [2, 5], True),
        # A place of two devices is named whole, since they compute its rows together.
        ((2, 2, 2, 1), [(0, 3, 1, 1)], [3], True),
        # With two places, a passing error contradicts itself; a lasting one leaves both suspect.
        ((1, 2, 4, 1), [(0, 1, 2, 0)], [1], True),
        ((1, 2, 4, 1), [(0, 1, 2, 0), (2, 1, 2, 0), (1, 0, 2, 0)], [0, 1], False),
    ],
)
def test_a_third_place_decides_who_is_wrong(mesh, wrong, places, outvoted):
  again = Scripted(mesh, *wrong)
  (found,) = again.differences(None, 0)
  assert again.calls == 3
  assert found.suspects == tuple(again._mesh.devices.reshape(again.places, -1)[places].ravel())
  assert found.outvoted == outvoted
  names = ['losses', 'gradient of the embedded tokens']
  assert found.what == f'recomputed rows ({", ".join(names[result] for result in sorted({each[3] for each in wrong}))})'


def test_equal_rows_need_no_third_place_and_one_place_nothing():
  again, alone = Scripted((8, 1, 1, 1)), Scripted((1, 1, 8, 1))
  assert again.differences(None, 0) == [] and again.calls == 2
  assert alone.differences(None, 0) == [] and alone.calls == 0
