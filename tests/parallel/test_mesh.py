"""Where the axes of a mesh lie on slices and hosts of TPUs, with objects in place of chips."""

import dataclasses
import itertools

import numpy as np
import pytest

from iquest_jax import sharding
from iquest_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Chip:
  """What make_mesh reads of a TPU."""

  id: int
  process_index: int
  coords: tuple[int, int, int]
  slice_index: int
  platform: str = 'tpu'
  device_kind: str = 'TPU v5'
  core_on_chip: int = 0


def chips(shape, slices=1):
  """The chips of v5p slices of x, y, z chips, in hosts of 2 x 2."""
  x, y, z = shape
  hosts = x * y * z // 4
  host = lambda i, j, k: (k * (y // 2) + j // 2) * (x // 2) + i // 2
  return [
      Chip(1000 * s + n, s * hosts + host(i, j, k), (i, j, k), s)
      for s in range(slices)
      for n, (k, j, i) in enumerate(itertools.product(range(z), range(y), range(x)))
  ]


def mesh(devices, data, fsdp, context=1, tensor=1):
  return sharding.make_mesh(dict(data=data, fsdp=fsdp, context=context, tensor=tensor), devices).devices


@pytest.mark.parametrize(('slices', 'data', 'fsdp'), [(2, 2, 32), (2, 8, 8), (4, 4, 32), (4, -1, 32)])
def test_data_alone_leads_from_slice_to_slice_and_consecutive_replicas_share_one(slices, data, fsdp):
  devices = chips((4, 4, 4), slices)
  grid = mesh(devices, data, fsdp, context=2)
  of_replica = [{chip.slice_index for chip in replica.flat} for replica in grid]
  assert of_replica == [{index} for index in range(slices) for _ in range(len(grid) // slices)]
  assert {chip.id for chip in grid.flat} == {chip.id for chip in devices}


@pytest.mark.parametrize(
    ('devices', 'axes', 'says'),
    [
        (chips((4, 4, 4), 2), (1, 128), 'data must be a multiple of the 2 slices, .* got data 1; set --exp.mesh.data=2'),
        (chips((4, 4, 4), 4), (2, 128), 'multiple of the 4 slices, .* divide the 64 chips of a slice'),
        (chips((4, 4, 4), 2), (2, 128), 'must multiply to 128 devices'),
        (chips((4, 4, 4), 2)[:-4], (2, 62), 'equally many chips, got 60 and 64; use equal slices'),
    ],
)
def test_axes_that_slices_cannot_have_are_refused_in_one_line(devices, axes, says):
  with pytest.raises(UserError, match=says) as error:
    mesh(devices, *axes)
  assert '\n' not in str(error.value)


def test_hosts_of_other_devices_are_no_slices():
  """jax calls every host of GPUs a slice; parameters may well be split over hosts."""
  devices = [dataclasses.replace(chip, platform='gpu', device_kind='NVIDIA H100') for chip in chips((2, 2, 1), 2)]
  assert mesh(devices, 1, 8).size == 8


@pytest.mark.parametrize('slices', [1, 2])
def test_what_a_process_splits_lies_whole_on_it(slices):
  """A tensor axis that follows the torus of 8 x 8 x 4 would put its four chips on four hosts."""
  devices, one = chips((8, 8, 4), slices), dict(data=-1, fsdp=1, context=1, tensor=4)
  grid = sharding.make_mesh_by_process(one, devices).devices.reshape(-1, 4)
  assert [{chip.process_index for chip in group} for group in grid] == [{host} for host in range(64 * slices)]
  torus = mesh(devices, 64 * slices, 1, tensor=4).reshape(-1, 4)
  assert all(len({chip.process_index for chip in group}) == 4 for group in torus)
  mine = [chip for chip in devices if chip.process_index == 5]
  np.testing.assert_array_equal(sharding.make_mesh(one, mine).devices.reshape(-1), grid[5])
