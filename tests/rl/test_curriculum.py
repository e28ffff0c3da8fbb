"""Which prompts a step takes follows from the seed, the step and earlier measurements; every prompt has its turn."""

import collections
import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iquest_jax.errors import UserError
from iquest_jax.rl.curriculum import Measurement, Window, order

IDS = [f'p{n}' for n in range(10)]


def first(count, step=0, measured=(), seed=0, ids=IDS, **window):
  return list(itertools.islice(order(ids, seed, step, measured, Window(**window)), count))


def simulated(steps, taken_by_step, rate=0.5, **window):
  """Measurements of a run whose step s takes the first taken_by_step(s) prompts."""
  measured = []
  for step in range(steps):
    taken = first(taken_by_step(step), step, measured, **window)
    measured += [Measurement(step, id, rate) for id in taken]
  return measured


def test_every_epoch_is_another_permutation_also_when_dynamic_sampling_reads_further():
  measured = simulated(10, lambda step: 3 + step % 3)  # 3 to 5 of 10 prompts a step
  ids = [one.prompt_id for one in measured]
  epochs = [ids[at : at + 10] for at in range(0, len(ids) - 9, 10)]
  assert len(epochs) == 3 and all(sorted(epoch) == IDS for epoch in epochs)
  assert len(set(map(tuple, epochs))) == 3


def test_the_order_of_a_step_is_endless_and_takes_all_before_any_again():
  ids = first(35)
  assert all(sorted(ids[at : at + 10]) == IDS for at in (0, 10, 20))


def test_the_order_depends_on_the_seed_and_not_on_the_order_of_files_or_of_finishing():
  measured = simulated(4, lambda step: 4)
  assert first(10, 4, measured) == first(10, 4, measured[::-1], ids=IDS[::-1]) == first(10, 4, iter(measured))
  assert first(10, seed=1) != first(10, seed=2) != first(10, seed=3)


@given(st.permutations([0.1, 0.2, 0.3, 0.7, 1 / 3]))
def test_several_measurements_of_one_step_are_averaged_whatever_their_order(rates):
  """A sum of floats depends on their order."""
  measured, mean = [Measurement(0, 'p0', rate) for rate in rates], math.fsum([0.1, 0.2, 0.3, 0.7, 1 / 3]) / 5
  assert 'p0' in first(60, 1, measured, low=mean, high=mean)
  assert 'p0' not in first(60, 1, measured, low=math.nextafter(mean, 1))


def test_a_resumed_step_ignores_what_it_had_finished_before_it_was_killed():
  measured = simulated(3, lambda step: 3)
  partial = [Measurement(3, id, 0.0) for id in first(2, 3, measured)]
  assert first(10, 3, measured + partial, low=0.2) == first(10, 3, measured, low=0.2)
  later = [Measurement(9, id, 1.0) for id in IDS]
  assert first(10, 3, measured + later) == first(10, 3, measured)


def test_only_prompts_of_the_window_and_unmeasured_ones_are_taken():
  measured = [Measurement(0, f'p{n}', n / 4) for n in range(5)]  # p0 0.0 ... p4 1.0
  taken = first(60, 1, measured, low=0.25, high=0.75)
  assert set(taken) == {'p1', 'p2', 'p3', *IDS[5:]}
  counts = collections.Counter(taken)
  assert max(counts.values()) - min(counts.values()) <= 2
  assert set(taken[:5]) == set(IDS[5:])  # what was never taken comes first


def test_the_last_measurement_counts_until_it_is_forgotten():
  measured = [Measurement(0, 'p0', 0.5), Measurement(5, 'p0', 0.0)]
  assert 'p0' not in first(40, 6, measured, low=0.1, forget_after=4)
  assert 'p0' not in first(40, 9, measured, low=0.1, forget_after=4)
  assert 'p0' in first(40, 10, measured, low=0.1, forget_after=4)
  assert 'p0' in first(40, 5, measured, low=0.1, forget_after=9)


def test_a_prompt_that_comes_back_to_the_window_takes_its_turn_and_no_more():
  """p0 fails in step 0 and is left out for 40 steps of two prompts, in which every other has nearly nine turns."""
  measured = []
  for step in range(80):
    taken = first(2, step, measured, low=0.1, forget_after=40)
    measured += [Measurement(step, id, 0.0 if id == 'p0' and step < 10 else 0.5) for id in taken]
  counts = lambda low, high: collections.Counter(one.prompt_id for one in measured if low <= one.step < high)
  since = next(one.step for one in measured if one.prompt_id == 'p0')
  assert counts(since + 1, since + 41)['p0'] == 0
  late = counts(since + 41, 80)
  assert max(late.values()) - min(late.values()) <= 2 and late['p0'] >= 1


def test_no_prompt_in_the_window_is_refused_with_the_way_out():
  measured = [Measurement(0, id, 1.0) for id in IDS]
  with pytest.raises(UserError, match=r'none of 10 prompts has a pass rate in \[0.0, 0.9\] at step 1; widen'):
    first(1, 1, measured, high=0.9)


@pytest.mark.parametrize('window', [dict(low=0.5, high=0.4), dict(low=-0.1), dict(high=1.1), dict(low=float('nan'))])
def test_an_empty_window_is_refused(window):
  with pytest.raises(UserError, match='0 <= low <= high <= 1'):
    Window(**window)
  with pytest.raises(UserError, match='at least 1 step, got 0'):
    Window(forget_after=0)
