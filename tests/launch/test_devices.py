"""Which processes look for others: those of a pod or cluster do, a laptop does not."""

import jax
import pytest

from iquest_jax.errors import UserError
from launch import devices

_NAMES = ('SLURM_NTASKS', 'OMPI_COMM_WORLD_SIZE', 'MEGASCALE_NUM_SLICES', 'TPU_WORKER_HOSTNAMES')


@pytest.fixture
def joined(monkeypatch):
  """`joined(chips, platforms, **environment)`: whether jax.distributed was asked to find the other hosts."""

  def start(chips=False, platforms='', **environment):
    asked = []
    for name in _NAMES:
      monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
      monkeypatch.setenv(name, value)
    monkeypatch.setattr(devices.glob, 'glob', lambda pattern: ['/dev/accel0'] if chips and 'accel' in pattern else [])
    monkeypatch.setenv('JAX_PLATFORMS', platforms)
    monkeypatch.setattr(jax.distributed, 'initialize', lambda **_: asked.append(True))
    devices.start('tiny')
    return bool(asked)

  return start


def test_a_laptop_joins_nobody(joined):
  assert not joined() and not joined(SLURM_NTASKS='1') and not joined(chips=True, platforms='cpu')


def test_hosts_of_pods_and_clusters_find_each_other(joined):
  assert joined(chips=True)  # a Cloud TPU VM: no variable says that it is one of many
  assert joined(TPU_WORKER_HOSTNAMES='a,b') and joined(SLURM_NTASKS='4') and joined(OMPI_COMM_WORLD_SIZE='2')
  assert joined(TPU_WORKER_HOSTNAMES='a', MEGASCALE_NUM_SLICES='2')
  assert not joined(chips=True, TPU_WORKER_HOSTNAMES='localhost')


def test_a_count_that_is_no_number_is_named(joined):
  with pytest.raises(UserError, match='SLURM_NTASKS is "foo" in the environment'):
    joined(SLURM_NTASKS='foo')
