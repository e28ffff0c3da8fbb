"""What tests of reinforcement learning share: one pool of sandboxes."""

import pytest

from iquest_jax.errors import UserError
from iquest_jax.sandbox.pool import Pool


@pytest.fixture(scope='session')
def pool():
  """One pool for all of these tests."""
  try:
    pool = Pool(1)
  except UserError as error:
    pytest.skip(str(error))
  yield pool
  pool.close()
