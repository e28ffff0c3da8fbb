"""The preference loss against its float64 formula, over packed pairs, micro-batches and meshes."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iquest_jax.errors import UserError
from iquest_jax.rl.dpo import Pair, PreferenceBatch, preference_rows, preference_sums
from iquest_jax.rl.losses import batch_logps
from iquest_jax.train import step

from tests.rl import policy_oracle as oracle

BETA = 0.3
PAIRS = (
    Pair('long and short', (1, 2, 3), (4, 5, 6, 7, 8), (9,)),
    Pair('same prompt', (1, 2, 3), (10, 11), (12, 13, 14)),
    Pair('no system turn', (15,), (16, 1), (2, 2)),
    Pair('shared beginning', (3, 4), (5, 6), (5, 7)),
)
ODD = PAIRS[1:]


def sum_logps(params, prompt, answer):
  """float64 log-probability of an answer."""
  ids = [*prompt, *answer]
  return sum(oracle.logp(params, ids[at - 1], ids[at]) for at in range(len(prompt), len(ids)))


def margins(params, reference, pairs):
  """float64 (reward of the chosen, reward of the rejected) per pair."""
  reward = lambda pair, answer: BETA * (
      sum_logps(params, pair.prompt, answer) - sum_logps(reference, pair.prompt, answer)
  )
  return [(reward(pair, pair.chosen), reward(pair, pair.rejected)) for pair in pairs]


def dpo_loss(params, reference, pairs):
  losses = [-math.log(1 / (1 + math.exp(rejected - chosen))) for chosen, rejected in margins(params, reference, pairs)]
  return sum(losses) / len(losses)


def batch_of(pairs, reference, context=24, unit=1):
  batch = PreferenceBatch(**preference_rows(pairs, context=context, unit=unit))
  logps = jax.jit(functools.partial(batch_logps, oracle.TABLE, micro_rows=1, chunk=4))(reference, batch)
  # The prompt, the end of a sequence and padding do not count, whatever is said there.
  return batch.replace(reference_logps=jnp.where(batch.loss_weights > 0, logps, jnp.nan))


def run(params, batch, accumulation=1):
  objective = functools.partial(preference_sums, beta=BETA)
  gradients = functools.partial(
      step.gradients, oracle.TABLE, num_sources=1, accumulation=accumulation, chunk=4, z_loss=0.0, objective=objective
  )
  grads, sums, _ = jax.device_get(jax.jit(gradients)(params, batch))
  return grads, sums


@pytest.fixture(scope='module')
def models():
  params, reference = oracle.make_params(0), oracle.make_params(0)
  reference['head'] = reference['head'] + 0.5 * oracle.make_params(1)['head']
  return params, reference


@pytest.mark.parametrize(
    ('pairs', 'context', 'unit', 'accumulation'),
    [(PAIRS, 48, 1, 1), (ODD, 24, 3, 1), (PAIRS, 24, 6, 3)],
    ids=['in one row', 'padded rows', 'in micro-batches'],
)
def test_loss_gradient_and_measures_equal_the_float64_formula(models, pairs, context, unit, accumulation):
  params, reference = models
  grads, sums = run(params, batch_of(pairs, reference, context, unit), accumulation)
  loss = lambda params: dpo_loss(params, reference, pairs)
  np.testing.assert_allclose(sums.mean(), loss(params), rtol=1e-5)
  for name, wanted in oracle.differences(loss, params).items():
    np.testing.assert_allclose(grads[name], wanted, rtol=0, atol=2e-5 * np.max(np.abs(wanted)))
  rewards = margins(params, reference, pairs)
  assert 0 < np.mean([chosen > rejected for chosen, rejected in rewards]) < 1
  likelier = [sum_logps(params, one.prompt, one.chosen) > sum_logps(params, one.prompt, one.rejected) for one in pairs]
  assert likelier != [chosen > rejected for chosen, rejected in rewards]
  for name, wanted in (
      ('accuracy', [chosen > rejected for chosen, rejected in rewards]),
      ('margin', [chosen - rejected for chosen, rejected in rewards]),
      ('chosen_reward', [chosen for chosen, _ in rewards]),
      ('rejected_reward', [rejected for _, rejected in rewards]),
      ('likelier', likelier),
  ):
    np.testing.assert_allclose(sums.metrics()[name], np.mean(wanted), rtol=1e-4, err_msg=name)


def test_the_reference_itself_has_the_loss_of_a_coin(models):
  params, _ = models
  grads, sums = run(params, batch_of(ODD, params))
  metrics = sums.metrics()
  np.testing.assert_allclose(sums.mean(), math.log(2), rtol=1e-6)
  assert metrics['accuracy'] == 0.5 and metrics['margin'] == 0
  assert any(np.any(leaf) for leaf in grads.values())


def test_prompts_are_not_learned(models):
  """Token 15 occurs only in a prompt, and there it is followed by another token of the prompt."""
  params, reference = models
  pairs = (Pair('p', (15, 1), (2, 3), (4,)), *PAIRS[:2])
  grads, _ = run(params, batch_of(pairs, reference, 48))
  assert np.all(grads['embedding'][15] == 0) and np.any(grads['embedding'][1])


def test_a_hopeless_pair_has_a_finite_loss_and_gradient(models):
  params, reference = models
  batch = batch_of(ODD, reference)
  batch = batch.replace(reference_logps=batch.reference_logps + jnp.where(batch.segment_ids % 2 == 1, 1e4, -1e4))
  grads, sums = run(params, batch)
  assert np.isfinite(sums.mean()) and sums.mean() > 1e3
  assert all(np.all(np.isfinite(leaf)) for leaf in grads.values())


def test_a_pair_longer_than_a_row_is_refused():
  with pytest.raises(UserError, match=r'data.context = 11 tokens together, got 12 \("long and short"\)'):
    preference_rows(PAIRS, context=11, unit=1)
