"""What tests of reinforcement learning share: one pool of sandboxes, and a small stage."""

import shutil

import pytest

from iquest_jax.errors import UserError
from iquest_jax.sandbox.pool import Pool

from tests.rl import small_stage
from tests.run import helpers as run_helpers


@pytest.fixture(scope='session')
def pool():
  """One pool for all of these tests."""
  try:
    pool = Pool(1)
  except UserError as error:
    pytest.skip(str(error))
  yield pool
  pool.close()


@pytest.fixture(scope='session')
def straight(session_folder, commands):
  """A run folder with a finished stage that nothing interrupted, all its checkpoints, and a trace of its second step."""
  folder = session_folder / 'small_rl'
  folder.parent.mkdir(exist_ok=True)
  with run_helpers.locked(session_folder / 'small_rl.lock'):
    if not (folder / 'made').exists():
      folder.mkdir()
      small_stage.write(folder)
      commands.run(small_stage.train(folder, **{'checkpoint.every': 1, 'checkpoint.keep': 9, 'log.profile': (2, 2)}))
      (folder / 'made').touch()
  return folder


@pytest.fixture
def workdir(straight, tmp_path):
  """The same before the stage began."""
  return shutil.copytree(straight, tmp_path / 'run', ignore=shutil.ignore_patterns(small_stage.STAGE))
