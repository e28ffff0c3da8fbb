"""Two runs side by side: paired intervals that an independent computation confirms, and problems that flipped."""

import copy

import numpy as np
import pytest

from iquest_jax.errors import UserError
from iquest_jax.eval import compare
from iquest_jax.eval import run as runs

from tests.eval.scripted import Scripted, Sums, question, right


@pytest.fixture
def pair(tmp_path):
  """Two runs of sums: the first gets 0 and 1 right, the second 1 to 4; problem 5 is missing."""
  loaded = []
  for name, knows in (('a', '01'), ('b', '1234')):
    say = lambda asked, knows=knows: right(asked) if question(asked)[0] in knows else 'no'
    suite = Sums()
    runs.run(suite, suite.problems(), runs.Plan.of(suite, True, samples=1), Scripted(say), tmp_path / name / 'sums', None)
    loaded.append(compare.load(tmp_path / name))
  return loaded


def test_problems_that_flipped_are_listed_in_both_directions(pair):
  (one,) = compare.compare(*pair)
  assert (one.suite, one.gained, one.lost, one.unpaired) == ('sums', ['sum/2', 'sum/3', 'sum/4'], ['sum/0'], 1)
  (row,) = one.differences
  assert (row.figure, row.left, row.right, row.problems) == ('pass@1', 40.0, 80.0, 5)
  assert row.low <= 0 < 40 < row.high
  text = compare.render([one])
  assert 'solved more by B: 3: sum/2, sum/3, sum/4' in text and 'solved more by A: 1: sum/0' in text
  assert '40.000 ->    80.000  +40.000 [' in text


def test_a_run_compared_with_itself_differs_in_nothing(pair):
  (one,) = compare.compare(pair[0], pair[0])
  assert not one.gained and not one.lost and (one.differences[0].low, one.differences[0].high) == (0, 0)


def test_the_interval_is_that_of_a_plain_bootstrap():
  rng = np.random.default_rng(1)
  differences = rng.choice([-100.0, 0.0, 100.0], 150, p=[0.1, 0.6, 0.3])
  low, high = compare.interval(differences)
  drawn = np.array([np.mean(rng.choice(differences, 150)) for _ in range(4000)])
  assert np.allclose([low, high], np.percentile(drawn, [2.5, 97.5]), atol=1.0)
  # Paired: what both runs share cancels, and the width is that of the differences alone.
  assert abs((high - low) / 2 - 1.96 * differences.std() / np.sqrt(150)) < 0.8
  assert compare.interval(differences) == (low, high)


def test_bits_per_byte_are_compared_by_row():
  rows = [[10.0, 4], [20.0, 16], [5.0, 2]]
  left = {'settings': {'suite': 'bits_per_byte', 'rows': 'x'}, 'rows': {'code': rows, 'facts': []}}
  right_ = copy.deepcopy(left)
  right_['rows']['code'] = [[nats - length * np.log(2), length] for nats, length in rows]  # one bit less per byte
  (one,) = compare.compare({'bits_per_byte': left}, {'bits_per_byte': right_})
  (row,) = one.differences
  assert row.figure == 'code' and np.isclose(row.left, 35 / np.log(2) / 22)
  assert np.allclose([row.right - row.left, row.low, row.high], -1)
  right_['settings']['rows'] = 'y'
  with pytest.raises(UserError, match='had other rows'):
    compare.compare({'bits_per_byte': left}, {'bits_per_byte': right_})


def test_runs_that_cannot_be_compared_are_refused(pair, tmp_path):
  other = copy.deepcopy(pair[1])
  other['sums']['settings']['problems'] = 'others'
  with pytest.raises(UserError, match='the two runs of sums had other problems'):
    compare.compare(pair[0], other)
  with pytest.raises(UserError, match='no suite in common: sums and mbpp'):
    compare.compare(pair[0], {'mbpp': other['sums']})
  with pytest.raises(UserError, match='has no results.json'):
    compare.load(tmp_path / 'none')
  (tmp_path / 'results.json').write_text('{')
  with pytest.raises(UserError, match='results.json cannot be read'):
    compare.load(tmp_path)
