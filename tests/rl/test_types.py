"""Records of reinforcement learning: ids of a trajectory in order, and records that contradict themselves are refused."""

import dataclasses

import pytest

from iquest_jax.rl.types import Trajectory, Turn

TURNS = (Turn((5, 6), (-0.5, -1.0), (7, 8)), Turn((9,), (-0.25,)))
TRAJECTORY = Trajectory('p', 0, 3, (1, 2), TURNS, 'stop', 'x')


def test_ids_are_the_prompt_then_every_turn_sampled_and_observed():
  assert TRAJECTORY.tokens == (1, 2, 5, 6, 7, 8, 9)


def test_only_sampled_positions_are_marked_and_carry_log_probabilities():
  assert TRAJECTORY.sampled == (False, False, True, True, False, False, True)
  assert TRAJECTORY.logps == (0.0, 0.0, -0.5, -1.0, 0.0, 0.0, -0.25)


def test_records_cannot_be_changed():
  with pytest.raises(dataclasses.FrozenInstanceError):
    TRAJECTORY.reward = 1.0


@pytest.mark.parametrize(
    ('make', 'said'),
    [
        (lambda: Turn((1, 2), (-0.5,)), '2 sampled tokens has 1'),
        (lambda: dataclasses.replace(TRAJECTORY, end='finished'), "got 'finished'"),
    ],
)
def test_a_record_that_contradicts_itself_is_refused(make, said):
  with pytest.raises(ValueError, match=said):
    make()
