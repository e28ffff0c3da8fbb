"""Tests run on eight CPU devices in one process, chosen before jax is imported; commands run in processes of their own."""

import gc
import importlib.util
import os
import signal
import socket

import pytest
from hypothesis import settings

from tests.processes import Commands, xla_flags

# A shell's background jobs ignore Ctrl-C, and so would the commands that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ['JAX_PLATFORMS'] = 'cpu'
os.environ['EPATH_USE_TF'] = '0'
os.environ['XLA_FLAGS'] = f'{os.environ.get("XLA_FLAGS", "")} {xla_flags(devices=8)}'

# Hypothesis limits the wall time of an example by default, which fails by chance on a busy machine.
settings.register_profile('without deadline', deadline=None)
settings.load_profile('without deadline')


def pytest_collection_modifyitems(items):
  """Skips what compiles for TPUs where the compiler is not installed."""
  if importlib.util.find_spec('libtpu') is None:
    for item in items:
      if item.get_closest_marker('tpu'):
        item.add_marker(pytest.mark.skip(reason='libtpu is not installed (pip install -e .[tpu])'))


def pytest_collection_finish():
  """Exempts what the imports left from garbage collection, which otherwise looks through all of it again and again."""
  gc.collect()
  gc.freeze()


@pytest.fixture(scope='session')
def session_folder(tmp_path_factory):
  """A folder that all test processes of this session share."""
  base = tmp_path_factory.getbasetemp()
  return base.parent if os.environ.get('PYTEST_XDIST_WORKER') else base


@pytest.fixture(scope='session')
def commands(session_folder):
  """Runs commands as a user would; see processes.Commands."""
  commands = Commands(session_folder / 'compilation_cache')
  yield commands
  commands.close()


@pytest.fixture
def unused_port():
  """A port of this machine on which nothing listens."""
  with socket.socket() as listener:
    listener.bind(('localhost', 0))
    return listener.getsockname()[1]


@pytest.fixture(scope='module')
def _served():
  """The bucket that this process and commands see; few tries, so that what fails does so soon."""
  import fsspec
  from etils import epath

  from iquest_jax import bucket

  from tests.emulator import Emulator

  emulator = Emulator()
  with pytest.MonkeyPatch.context() as patch:
    for name, value in emulator.environment.items():
      patch.setenv(name, value)
    patch.setitem(fsspec.config.conf, 'gcs', {'token': 'anon'})  # the variable is read when fsspec is imported
    patch.setattr(bucket, 'TRIES', 2)
    bucket.connect.cache_clear()
    epath.backend.fsspec_backend._get_filesystem.cache_clear()
    bucket.connect()
    yield emulator
  emulator.close()


@pytest.fixture
def emulator(_served):
  """The bucket gs://bucket, which serves everything and is empty."""
  from etils import epath

  _served.fault, _served.before, _served.refused = None, lambda line: None, 0
  for entry in epath.Path('gs://bucket').iterdir():
    entry.rmtree()
  return _served
