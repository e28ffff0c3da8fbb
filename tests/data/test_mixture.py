"""The mixture: closed form equals counting, weights are kept, a source continues with its next row."""

import collections
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iquest_jax.data.rows import mixture
from iquest_jax.data.rows.mixture import BLOCK, Mixture
from iquest_jax.errors import UserError

NAMES = ('a', 'b', 'c', 'd')
WEIGHTS = (
    st.dictionaries(st.sampled_from(NAMES), st.one_of(st.just(0.0), st.floats(1e-6, 1e3)), min_size=1)
    .filter(lambda weights: any(weights.values()))
    .map(lambda weights: tuple(weights.items()))
)
SCHEDULES = st.lists(st.tuples(st.integers(1, 900), WEIGHTS), min_size=1, max_size=4).map(
    lambda phases: tuple(
        (start - phases[0][0], weights)
        for start, weights in zip(itertools.accumulate(gap for gap, _ in phases), [weights for _, weights in phases])
    )
)


@settings(max_examples=30)
@given(SCHEDULES, st.integers(1, 9))
def test_closed_form_equals_counting_and_no_draw_is_missed_or_doubled(schedule, batch_rows):
  mixed, counted = Mixture(schedule, batch_rows), collections.Counter()
  for row in range((schedule[-1][0] + 700) * batch_rows):
    if row % 997 == 0:
      assert mixed.drawn_before(row) == {name: counted[name] for name in mixed.sources}
    index, draw = mixed[row]
    name = mixed.sources[index]
    assert draw == counted[name]  # a source continues with its next row through every change of weights
    counted[name] += 1
    if row % batch_rows == 0:
      step = row // batch_rows
      weights = dict([weights for start, weights in schedule if start <= step][-1])
    assert weights.get(name, 0) > 0


@given(WEIGHTS)
def test_weights_are_exact_to_one_row_per_block_and_evenly_spread(weights):
  mixed = Mixture(((0, weights),), 1)
  total = sum(weight for _, weight in weights)
  drawn = mixed.drawn_before(BLOCK)
  positive = sum(weight > 0 for _, weight in weights)
  for name, weight in weights:
    assert abs(drawn[name] - BLOCK * weight / total) < 1 + positive
    assert (drawn[name] > 0) == (weight > 0)
    for row in (1, 7, 100, 1000, 3333):
      assert abs(mixed.drawn_before(row)[name] - row * drawn[name] / BLOCK) <= positive


def test_quotas_go_to_the_largest_remainders():
  # 4096 x (0.5, 0.3, 0.2) = 2048, 1228.8, 819.2; 4096 x (3, 3, 1) / 7 = 1755.4, 1755.4, 585.1.
  assert mixture.quantise(np.asarray([5.0, 3.0, 2.0])).tolist() == [2048, 1229, 819]
  assert mixture.quantise(np.asarray([3.0, 3.0, 1.0])).tolist() == [1756, 1755, 585]


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=50).filter(any))
def test_quotas_add_up(weights):
  quotas = mixture.quantise(np.asarray(weights))
  assert quotas.sum() == BLOCK and ((quotas > 0) == (np.asarray(weights) > 0)).all()


def test_a_far_row_needs_no_scan():
  mixed = Mixture(((0, (('a', 1.0), ('b', 3.0))), (10, (('a', 1.0),))), 32)
  row = 10**15
  index, draw = mixed[row]
  assert (mixed.sources[index], draw) == ('a', row - 320 + 80)


def test_rows_needed_are_those_drawn():
  schedule = ((0, (('a', 1.0), ('b', 1.0))), (4, (('c', 1.0),)))
  assert mixture.rows_needed(schedule, 6, 10) == {'a': 20, 'b': 20, 'c': 20}
  assert mixture.rows_needed(schedule, 0, 10) == {'a': 0, 'b': 0, 'c': 0}


FACTORS = st.lists(
    st.dictionaries(st.sampled_from(NAMES), st.floats(1.0, 4.0)), max_size=6
)  # one per decision


@settings(max_examples=30)
@given(SCHEDULES, FACTORS, st.integers(1, 300), st.integers(1, 5))
def test_factors_multiply_the_weights_from_their_step_on_and_change_no_earlier_draw(schedule, factors, every, batch_rows):
  decided = [(number * every, by_source) for number, by_source in enumerate(factors)]
  scaled = mixture.scaled(schedule, decided)
  mixture.validate(scaled)
  assert mixture.source_names(scaled) == mixture.source_names(schedule)
  at = lambda phases, step: [value for start, value in phases if start <= step][-1]
  for step in range(0, 2000, 67):
    by_source = at([(0, {}), *decided], step)
    expected = {name: weight * by_source.get(name, 1.0) for name, weight in at(schedule, step)}
    assert dict(at(scaled, step)) == expected
  # One more decision, later: all rows before it are drawn as without it.
  later = Mixture(mixture.scaled(schedule, [*decided, (len(factors) * every, {'a': 3.0})]), batch_rows)
  before, first = Mixture(scaled, batch_rows), len(factors) * every * batch_rows
  assert all(later[row] == before[row] for row in range(max(0, first - 50), first))


@given(SCHEDULES, st.integers(1, 300))
def test_factors_of_one_change_nothing(schedule, every):
  assert mixture.scaled(schedule, [(number * every, {'a': 1.0}) for number in range(5)]) == tuple(schedule)


@settings(max_examples=60)
@given(SCHEDULES, st.data(), st.integers(1, 400), st.integers(1, 1500), st.integers(1, 40))
def test_no_decision_draws_more_rows_than_are_prepared(schedule, data, every, steps, batch_rows):
  """Whatever rises, decays or stays at each decision, within the rate of the rise and the cap."""
  rise, cap = data.draw(st.floats(1.05, 3.0)), data.draw(st.floats(1.05, 3.0))
  watched = data.draw(st.lists(st.sampled_from(mixture.source_names(schedule)), min_size=1, unique=True))
  loop = {'every': every, 'rise': rise, 'cap': cap, 'benchmarks': tuple((name, 'held_out') for name in watched)}
  most = mixture.rows_at_most(schedule, steps, batch_rows, loop)
  decided, factors = [], dict.fromkeys(watched, 1.0)
  for step in range(0, steps, every):
    decided.append((step, dict(factors)))
    for name in watched:
      factors[name] = min(max(factors[name] * data.draw(st.sampled_from([rise, rise, 1.0, 0.5])), 1.0), cap)
    if len(decided) == 8:
      break
  drawn = mixture.rows_needed(mixture.scaled(schedule, decided), steps, batch_rows)
  assert all(rows <= most[name] for name, rows in drawn.items()), (drawn, most)


def test_the_cap_needs_few_rows_more_than_it_says():
  """Weights 1 : 1 of 100 steps of 40 rows; from step 50 on one of them may be drawn twice as often as the other."""
  schedule = ((0, (('a', 1.0), ('b', 1.0))),)
  loop = {'every': 50, 'rise': 2.0, 'cap': 2.0, 'benchmarks': (('a', 'held_out'),)}
  most = mixture.rows_at_most(schedule, 100, 40, loop)
  assert 0 <= most['a'] - (1000 + 2000 * 2 / 3) < 20 and 0 <= most['b'] - 2000 < 20
  assert mixture.rows_at_most(schedule, 100, 40, loop | {'every': 0}) == {'a': 2000, 'b': 2000}


@pytest.mark.parametrize(
    'schedule, reason',
    [
        ((), 'must start at step 0'),
        (((1, (('a', 1.0),)),), 'must start at step 0'),
        (((0, (('a', 1.0),)), (0, (('a', 1.0),))), 'steps of the phases must increase, got'),
        (((0, (('a', 1.0),)), (2.5, (('a', 1.0),))), 'steps of the phases must increase, got'),
        (((0, (('a', -1.0),)),), 'weight of "a" from step 0 must be at least 0, got -1.0'),
        (((0, (('a', float('nan')),)),), 'weight of "a" from step 0 must be at least 0, got nan'),
        (((0, (('a', 0.0),)),), 'no source has a weight above 0'),
        (((0, (('a', 1.0), ('a', 2.0))),), 'names a source twice'),
        ('a', 'must be ((from_step, ((source, weight), ...)), ...), got'),
        (((0, (('a', 'much'),)),), 'must be ((from_step, ((source, weight), ...)), ...), got'),
        (((0, ((3, 1.0),)),), 'must be ((from_step, ((source, weight), ...)), ...), got'),
    ],
)
def test_a_malformed_schedule_is_reported_in_one_line(schedule, reason):
  with pytest.raises(UserError, match='data.mixture') as error:
    Mixture(schedule, 8)
  assert reason in str(error.value) and '\n' not in str(error.value)
