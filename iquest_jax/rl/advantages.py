"""Advantages of a group: what each roll-out's reward is above that of the others."""

import numpy as np

from iquest_jax.errors import UserError, check_name

BASELINES = ('mean', 'leave_one_out')
# ours: rewards are fractions of tests, so two that mean the same may differ in their last bits.
TOLERANCE = 1e-6


def all_equal(rewards: np.ndarray) -> bool:
  """Whether a group teaches nothing: its rewards [group_size] differ by at most TOLERANCE."""
  return bool(np.ptp(rewards) <= TOLERANCE)


def advantages(rewards: np.ndarray, *, baseline: str = 'mean', norm_adv_by_std: bool) -> np.ndarray:
  """Rewards minus a baseline from the same group; float64 [group_size], zero if all rewards are equal.

  Sources: GRPO (arXiv 2402.03300, equation 3 and section 4.1.2) is the mean with the standard deviation, Dr. GRPO
  (arXiv 2503.20783) the mean without it, RLOO (arXiv 2402.14740, equation 4) 'leave_one_out' without it.

  Args:
    rewards: [group_size].
    baseline: 'mean' of the group, or 'leave_one_out': the mean of the others.
    norm_adv_by_std: divide by the standard deviation of the group, with group_size - 1 in its denominator.

  Raises:
    UserError: the baseline does not exist, the group has fewer than two rewards, or one is not finite.
  """
  check_name('rl: baseline', baseline, BASELINES)
  rewards = np.asarray(rewards, np.float64)
  size = len(rewards)
  if size < 2:
    raise UserError(f'rl: group_size must be at least 2, got {size}; one roll-out has nothing to be compared with')
  if bad := [f'{rewards[sample]} of sample {sample}' for sample in np.flatnonzero(~np.isfinite(rewards))]:
    raise UserError(f'rl: rewards must be finite, got {", ".join(bad)}; drop the group or fix the reward')
  if all_equal(rewards):
    return np.zeros(size)
  above = rewards - np.mean(rewards)
  if baseline == 'leave_one_out':
    above *= size / (size - 1)
  return above / np.std(rewards, ddof=1) if norm_adv_by_std else above
