"""Trajectories as packed rows: whole, aligned with their targets, in few shapes; mini-batches of groups."""

import dataclasses

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iquest_jax import sharding
from iquest_jax.batch import zigzag
from iquest_jax.errors import UserError
from iquest_jax.rl.batches import PolicyBatch, mini_batches, padded_rows, place, policy_rows
from iquest_jax.rl.types import Trajectory, Turn

LOSS_AGGS = ['token_mean', 'seq_mean', 'seq_sum']
TURNS = (Turn((5, 6), (-0.5, -1.0), (7, 8)), Turn((9,), (-0.25,), (3, 3)))
TRAJECTORY = Trajectory('p', 0, 3, (1, 2), TURNS, 'stop', 'x')


def of_lengths(lengths):
  """One trajectory per (prompt, answer) length; ids tell them and their positions apart."""
  made = []
  for number, (prompt, answer) in enumerate(lengths):
    ids = [100 * (number + 1) + at for at in range(prompt + answer)]
    logps = tuple(np.float32(-id / 7).item() for id in ids[prompt:])
    made.append(Trajectory('p', number, 0, tuple(ids[:prompt]), (Turn(tuple(ids[prompt:]), logps),), 'stop', ''))
  return made


def pack(trajectories, advantages=None, context=16, unit=1, loss_agg='token_mean'):
  advantages = range(1, len(trajectories) + 1) if advantages is None else advantages
  divisor = 10 if loss_agg == 'seq_sum' else None
  return policy_rows(
      trajectories, advantages, context=context, unit=unit, loss_agg=loss_agg, length_divisor=divisor
  )


def test_values_stand_where_their_token_is_the_target():
  batch = pack([TRAJECTORY], [0.5], context=10)
  row = {name: values[0].tolist() for name, values in batch.items()}
  # What was observed after the last sampled token is left out.
  assert row == {
      'tokens': [1, 2, 5, 6, 7, 8, 9, 0, 0, 0],
      'targets': [2, 5, 6, 7, 8, 9, 0, 0, 0, 0],
      'loss_weights': [0, 1, 1, 0, 0, 1, 0, 0, 0, 0],
      'advantages': [0, 0.5, 0.5, 0, 0, 0.5, 0, 0, 0, 0],
      'sampler_logps': [0, -0.5, -1.0, 0, 0, -0.25, 0, 0, 0, 0],
      'segment_ids': [1] * 7 + [0] * 3,
      'positions': [0, 1, 2, 3, 4, 5, 6, 0, 0, 0],
      'row_weights': 3,
      'source_ids': 0,
  }


@pytest.mark.parametrize('loss_agg', LOSS_AGGS)
def test_the_weight_of_a_batch_is_what_the_loss_is_divided_by(loss_agg):
  batch = pack(of_lengths([(2, 3), (1, 5), (2, 7)]), unit=4, loss_agg=loss_agg)
  assert PolicyBatch(**batch).weight() == {'token_mean': 15, 'seq_mean': 3, 'seq_sum': 30}[loss_agg]
  lengths = {1: 3, 2: 5, 3: 7}
  for advantage, length in lengths.items():
    weights = batch['loss_weights'][batch['advantages'] == advantage]
    np.testing.assert_allclose(weights, [1 / length if loss_agg == 'seq_mean' else 1] * length, rtol=1e-6)
  assert np.array_equal(batch['loss_weights'] > 0, batch['advantages'] > 0)


@given(st.lists(st.tuples(st.integers(1, 6), st.integers(1, 10)), max_size=12), st.integers(1, 3))
def test_every_trajectory_lies_whole_in_one_row(lengths, unit):
  trajectories = of_lengths(lengths)
  batch = pack(trajectories, unit=unit)
  assert len(batch['tokens']) % unit == 0
  found = []
  for row in range(len(batch['tokens'])):
    for segment in range(1, batch['segment_ids'][row].max() + 1):
      at = np.flatnonzero(batch['segment_ids'][row] == segment)
      assert at.tolist() == list(range(at[0], at[-1] + 1)) and batch['positions'][row, at].tolist() == list(range(len(at)))
      tokens = batch['tokens'][row, at]
      number = tokens[0] // 100 - 1
      found.append(number)
      assert tuple(tokens) == trajectories[number].tokens
      assert batch['targets'][row, at].tolist() == [*tokens[1:], 0]
      sampled = np.flatnonzero(trajectories[number].sampled)
      assert np.flatnonzero(batch['loss_weights'][row, at]).tolist() == (sampled - 1).tolist()
      logps = np.float32(trajectories[number].logps)[sampled]
      assert batch['sampler_logps'][row, at[sampled - 1]].tolist() == logps.tolist()
      assert set(batch['advantages'][row, at[sampled - 1]].tolist()) == {number + 1}
  assert sorted(found) == list(range(len(lengths)))
  padding = batch['segment_ids'] == 0
  assert not any(np.any(values[padding]) for values in batch.values() if values.ndim == 2)


def test_rows_are_filled():
  """Nine halves of a row, ten thirds and a whole one need 8.8 rows and take 9; five of 20 tokens take two rows of 10."""
  used = lambda *lengths, context: np.count_nonzero(
      np.any(pack(of_lengths([(1, length - 1) for length in lengths]), context=context)['segment_ids'], axis=1)
  )
  assert used(*[6] * 9, *[4] * 10, 12, context=12) == 9
  assert used(2, 3, 4, 5, 6, context=10) == 2


def test_the_same_trajectories_give_the_same_batch_bit_for_bit():
  trajectories = of_lengths([(2, 3), (1, 5), (2, 7), (2, 3)])
  one, other = pack(trajectories), pack([dataclasses.replace(each) for each in trajectories])
  assert all(one[name].tobytes() == other[name].tobytes() for name in one)


def test_a_trajectory_without_sampled_tokens_is_left_out():
  empty = Trajectory('p', 1, 0, (1, 2), (), 'error', '')
  with_it, without = pack([empty, TRAJECTORY], [9.0, 0.5]), pack([TRAJECTORY], [0.5])
  jax.tree.map(np.testing.assert_array_equal, with_it, without)
  nothing = pack([empty], [1.0], unit=4)
  assert nothing['tokens'].shape == (4, 16) and not any(np.any(values) for values in nothing.values())


def test_shapes_are_few_and_little_is_padding():
  sizes = [padded_rows(rows, 4) for rows in range(1, 4001)]
  assert all(rows <= size < max(1.25 * rows + 4, 5) and size % 4 == 0 for rows, size in enumerate(sizes, 1))
  assert len(set(sizes)) == 8 + 7 * 4  # up to eight units, then per doubling up to a thousand


def test_mini_batches_hold_every_group_once_and_follow_from_seed_and_step():
  parts = mini_batches(10, 3, seed=0, step=5)
  assert sorted(sum(parts, [])) == list(range(10)) and sorted(map(len, parts)) == [3, 3, 4]
  assert parts == mini_batches(10, 3, seed=0, step=5)
  assert parts != mini_batches(10, 3, seed=0, step=6) and parts != mini_batches(10, 3, seed=1, step=5)
  assert sum(parts, []) != list(range(10))


def test_fewer_groups_than_mini_batches_give_fewer_mini_batches():
  assert sorted(mini_batches(2, 4, seed=0, step=0)) == [[0], [1]] and mini_batches(0, 4, seed=0, step=0) == []


def test_rows_are_placed_in_the_order_of_the_context_axis():
  batch = pack(of_lengths([(2, 3), (1, 15), (2, 14), (4, 12)]), unit=4)
  mesh = sharding.make_mesh(dict(zip(sharding.AXES, (2, 1, 2, 1))), jax.devices()[:4])
  placed = place(PolicyBatch, batch, mesh)
  assert placed.old_logps is None and placed.reference_logps is None
  for name, values in batch.items():
    there = getattr(placed, name)
    wanted = values[:, zigzag(16, 2)] if values.ndim == 2 else values
    np.testing.assert_array_equal(there, wanted, err_msg=name)
    assert {shard.data.shape for shard in there.addressable_shards} == {(2, 8) if values.ndim == 2 else (2,)}


@pytest.mark.parametrize(
    ('make', 'says'),
    [
        (
            lambda: pack(of_lengths([(2, 3), (4, 13)])),
            r'must fit into a row of data.context = 16 tokens, got 17 \(sample 1 of "p"\); raise it or lower',
        ),
        (lambda: pack([], loss_agg='token_means'), 'did you mean "token_mean"'),
        (
            lambda: policy_rows([], [], context=4, unit=1, loss_agg='seq_sum'),
            'length_divisor must be above 0 with loss_agg seq_sum and None otherwise, got None',
        ),
        (
            lambda: policy_rows([], [], context=4, unit=1, loss_agg='seq_mean', length_divisor=8),
            'length_divisor must be above 0 with loss_agg seq_sum and None otherwise, got 8',
        ),
    ],
)
def test_what_does_not_fit_is_refused(make, says):
  with pytest.raises(UserError, match=says):
    make()
