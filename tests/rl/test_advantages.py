"""Advantages of a group against their formulas in plain Python; groups that teach nothing, and rewards that are broken."""

import math
import statistics

import numpy as np
import pytest

from iquest_jax.errors import UserError
from iquest_jax.rl.advantages import TOLERANCE, advantages, all_equal

REWARDS = [0.0, 0.05, 0.4, 1.0, 1.0, 0.35]


@pytest.mark.parametrize('baseline', ['mean', 'leave_one_out'])
@pytest.mark.parametrize('norm', [False, True])
def test_advantages_are_rewards_above_the_baseline(baseline, norm):
  wanted = []
  for sample, reward in enumerate(REWARDS):
    others = REWARDS[:sample] + REWARDS[sample + 1 :]
    above = reward - statistics.fmean(REWARDS if baseline == 'mean' else others)
    wanted.append(above / statistics.stdev(REWARDS) if norm else above)
  actual = advantages(np.array(REWARDS), baseline=baseline, norm_adv_by_std=norm)
  assert actual.dtype == np.float64
  np.testing.assert_allclose(actual, wanted, rtol=1e-12)


@pytest.mark.parametrize('baseline', ['mean', 'leave_one_out'])
@pytest.mark.parametrize('norm', [False, True])
def test_advantages_of_equal_groups_are_zero(baseline, norm):
  """Also where rounding makes the rewards differ: three ways to compute 0.3, none of them far from the others."""
  rounded = np.array([0.1 + 0.2, 0.3, 6 * 0.05])
  assert len(set(rounded.tolist())) > 1
  for rewards in (rounded, np.full(4, 0.7), np.array([0.5, 0.5 + TOLERANCE / 2])):
    assert all_equal(rewards)
    assert advantages(rewards, baseline=baseline, norm_adv_by_std=norm).tolist() == [0] * len(rewards)


def test_one_test_more_out_of_a_thousand_is_a_difference():
  rewards = np.array([0.5, 0.501])
  assert not all_equal(rewards) and advantages(rewards, norm_adv_by_std=True)[1] > 0


@pytest.mark.parametrize('bad', [math.nan, math.inf, -math.inf])
def test_a_reward_that_is_not_finite_is_refused(bad):
  with pytest.raises(UserError, match=f'rewards must be finite, got {bad} of sample 1'):
    advantages(np.array([0.0, bad, 1.0]), norm_adv_by_std=False)


def test_a_group_of_one_and_an_unknown_baseline_are_refused():
  with pytest.raises(UserError, match='group_size must be at least 2, got 1'):
    advantages(np.array([1.0]), norm_adv_by_std=False)
  with pytest.raises(UserError, match='did you mean "leave_one_out"'):
    advantages(np.array(REWARDS), baseline='leave_one', norm_adv_by_std=False)
