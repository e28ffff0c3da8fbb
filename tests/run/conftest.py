"""Fixtures of the tests that run commands on small rows and a small model."""

import pytest

from tests.run import helpers


@pytest.fixture(scope='session')
def shared(session_folder, commands):
  """Finished small runs; see helpers.Shared."""
  return helpers.shared_folder(session_folder / 'small_runs', commands)


@pytest.fixture
def workdir(shared, tmp_path):
  """A run folder with rows and a finished pretrain that a test may change."""
  return shared.copy(tmp_path)
