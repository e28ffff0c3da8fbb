"""What tests of synthesis share: sandboxes, and tools whose model says what a test scripts."""

import random

import pytest

from iquest_jax.data.synthesis.domain import Tools
from iquest_jax.errors import UserError
from iquest_jax.sandbox.pool import Pool


@pytest.fixture(scope='session')
def pool():
  try:
    pool = Pool()
  except UserError as error:
    pytest.skip(str(error))
  yield pool
  pool.close()


@pytest.fixture
def tools(pool):
  """tools(answer, ...): a model that gives these answers in turn; one more request fails the test."""

  def make(*answers: str) -> Tools:
    left = list(answers)

    async def ask(messages, **settings):
      assert left, f'no answer is left for {messages}'
      return left.pop(0)

    return Tools(ask, random.Random(0), pool)

  return make
