"""Commands say what they run on, are silent about hardware that is absent, and find the other hosts of a pod."""

import importlib.util
import os
import re

import jax
import pytest

from iquest_jax.errors import UserError
from launch import devices

from tests import processes

_NAMES = ('SLURM_NTASKS', 'OMPI_COMM_WORLD_SIZE', 'MEGASCALE_NUM_SLICES', 'TPU_WORKER_HOSTNAMES')
RUNNING = r'\d\d:\d\d:\d\d running on [1-9]\d* \w.* devices? \(jax [\d.]+\)'


@pytest.fixture
def machine(monkeypatch):
  """`machine(files, packages, platforms)` pretends to be a host with these device files, packages and JAX_PLATFORMS."""

  def pretend(files=(), packages=(), platforms=''):
    glob = lambda pattern: [file for file in files if file.startswith(pattern.partition('[')[0])]
    monkeypatch.setattr(devices.glob, 'glob', glob)
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: name in packages or None)
    monkeypatch.setenv('JAX_PLATFORMS', platforms)

  return pretend


@pytest.fixture
def joined(machine, monkeypatch):
  """`joined(chips, platforms, **environment)`: whether jax.distributed was asked to find the other hosts."""
  before = jax.config.jax_enable_compilation_cache

  def start(chips=False, platforms='', **environment):
    calls = []
    for name in _NAMES:
      monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
      monkeypatch.setenv(name, value)
    machine(['/dev/accel0'] if chips else [], platforms=platforms)
    monkeypatch.setattr(jax.distributed, 'initialize', lambda **_: calls.append(True))
    jax.config.update('jax_enable_compilation_cache', True)
    devices.start('tiny')
    return bool(calls)

  yield start
  jax.config.update('jax_enable_compilation_cache', before)


def test_a_laptop_joins_no_other_host(joined):
  assert not joined() and not joined(SLURM_NTASKS='1') and not joined(chips=True, platforms='cpu')


def test_hosts_of_pods_and_clusters_find_each_other(joined):
  assert joined(chips=True)  # a Cloud TPU VM: no variable says that it is one of many
  assert joined(TPU_WORKER_HOSTNAMES='a,b') and joined(SLURM_NTASKS='4') and joined(OMPI_COMM_WORLD_SIZE='2')
  assert joined(TPU_WORKER_HOSTNAMES='a', MEGASCALE_NUM_SLICES='2')
  assert not joined(chips=True, TPU_WORKER_HOSTNAMES='localhost')


def test_processes_that_share_cpus_read_no_compiled_programs(joined, monkeypatch):
  def cached(platforms, **environment):
    monkeypatch.setattr(type(jax.config), 'jax_platforms', property(lambda _: platforms), raising=False)
    joined(**environment)
    return jax.config.jax_enable_compilation_cache

  assert not cached('cpu', SLURM_NTASKS='4')
  assert cached('cpu') and cached('tpu,cpu', SLURM_NTASKS='4')


def test_a_number_of_hosts_that_is_not_a_number_is_refused(joined):
  with pytest.raises(UserError, match='SLURM_NTASKS must be a number where hosts join a run, got "foo"'):
    joined(SLURM_NTASKS='foo')


@pytest.mark.parametrize(
    ('files', 'packages', 'platforms', 'chosen'),
    [
        ((), ('libtpu',), '', 'cpu'),
        ((), (), '', 'cpu'),
        (('/dev/accel0',), ('libtpu',), '', ''),
        (('/dev/vfio/0',), ('libtpu',), '', ''),
        (('/dev/nvidia0',), ('libtpu', 'jax_cuda13_plugin'), '', 'cuda,cpu'),
        (('/dev/nvidia0',), ('libtpu',), '', 'cpu'),
        ((), ('libtpu', 'jax_cuda13_plugin'), '', 'cpu'),
        (('/dev/nvidia0',), ('jax_cuda13_plugin',), '', 'cuda,cpu'),
        (('/dev/accel0',), (), '', ''),
        ((), ('libtpu',), 'tpu', 'tpu'),
    ],
)
def test_jax_looks_for_a_tpu_only_where_there_is_one(machine, files, packages, platforms, chosen):
  machine(files, packages, platforms)
  devices.ignore_absent_tpu()
  assert os.environ['JAX_PLATFORMS'] == chosen


def test_a_command_prints_its_devices_and_nothing_about_absent_ones(commands, tmp_path):
  """With the platform left to jax, as a user has it; `make test-tpu` installs libtpu, and `make demo` does not."""
  done = commands.run(['-m', 'launch.tpu', '--exp=pretrain:tiny', f'--workdir={tmp_path}'], status=2, JAX_PLATFORMS='')
  running, error = done.stderr.splitlines()
  assert re.fullmatch(RUNNING, running) and error.startswith('error: rows: ')


def test_a_platform_that_does_not_start_is_refused_in_one_line(commands, tmp_path):
  done = commands.run(['-m', 'launch.tpu', '--exp=pretrain:tiny', f'--workdir={tmp_path}'], status=2, JAX_PLATFORMS='foo')
  assert processes.refusal(done).startswith("JAX_PLATFORMS=foo: Unable to initialize backend 'foo': ")


def test_the_bench_prints_its_measurements_and_no_greetings(commands):
  done = commands.run(['-m', 'launch.bench', '--what=loader'], JAX_PLATFORMS='')
  assert done.stdout.count('"case": "loader"') == 2
  assert all(re.fullmatch(RUNNING, line) for line in done.stderr.splitlines())
