"""Sandboxes have a fixed hash seed, and a pool lends others for a second run."""

import pytest

from iquest_jax.sandbox.pool import Pool
from iquest_jax.sandbox.runner import Step

from tests.sandbox.conftest import backends


def _order(pool):
  with pool.runner() as runner:
    job = [Step(service={'python': 'main', 'file': 'main.py'})] * 2
    first, second = runner.run(job, {'main.py': 'import sys\nprint(*set("abcdefghij"), sys.path[0])\n'})
  assert first.exit == 0 and first.stdout.split()[:10] == second.stdout.split()[:10]
  return first.stdout.split()[:10]


@pytest.mark.parametrize('backend', backends())
def test_sets_have_the_same_order_in_every_pool_and_another_one_when_reseeded(backend):
  orders = []
  for _ in range(2):
    with Pool(1, backend) as pool:
      orders.append((_order(pool), _order(pool.reseeded), _order(pool)))
  assert orders[0] == orders[1]
  first, reseeded, again = orders[0]
  assert first == again != reseeded and sorted(first) == sorted(reseeded) == list('abcdefghij')
