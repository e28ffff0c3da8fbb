"""Roll-outs with a scripted engine: which groups are sampled, what is dropped, and what a broken grader comes to."""

import collections
import dataclasses
import random
import threading
import time

import numpy as np
import pytest

from iquest_jax.errors import UserError
from iquest_jax.rl import rollout
from iquest_jax.rl.environment import SingleTurn, ToolUse
from iquest_jax.rl.play import Player, Roll
from iquest_jax.rl.rollout import INVALID, RolloutOptions, Rollouts, invalid_because
from iquest_jax.rl.store import Store
from iquest_jax.rl.tools import calculator
from iquest_jax.rl.types import Prompt
from iquest_jax.text import chat
from iquest_jax.text.tokenizer import IM_END, SMALLEST, Tokenizer

from tests.rl.scripted_engine import ScriptedEngine

TOKENIZER = Tokenizer.train(['user\nassistant\nwords of an answer'] * 3, SMALLEST + 8)
STOP = TOKENIZER.id(IM_END)
OPTIONS = RolloutOptions(prompts_per_step=3, group_size=2, max_groups=6, dynamic_sampling=True, max_tokens=40)
PROMPTS = [Prompt(f'p{index}', ({'role': 'user', 'content': str(index)},)) for index in range(6)]


def said(text):
  return [*TOKENIZER.encode(text), STOP]


def one_answer(request):
  return [said(f'answer {request.id}')]


def rewarded(rewards):
  """A scorer: rewards[index of the prompt][sample]; the same for both samples if it is one number."""

  def score(prompt, trajectory):
    value = rewards[int(prompt.id[1:])]
    value = value[trajectory.sample] if isinstance(value, tuple) else value
    return dataclasses.replace(trajectory, reward=value, rewards={'pass_rate': value})

  return score


class Made:
  """Roll-outs on a scripted engine, and everything they are made of."""

  def __init__(self, folder, score, script=one_answer, slots=3, environment=SingleTurn, patience_s=20.0, **options):
    self.engine = ScriptedEngine(slots, script)
    self.player = Player(self.engine, threads=3, patience_s=patience_s)
    self.store = Store(folder / 'rollouts', TOKENIZER.decode, 'model')
    options = dataclasses.replace(OPTIONS, **options)
    how = (self.player, TOKENIZER, lambda prompt: environment(), score, self.store, options)
    self.rollouts = Rollouts(*how, seed=5)

  def sample(self, step=1, stamp='s'):
    try:
      return self.rollouts.sample(step, PROMPTS, version=7, stamp=stamp)
    finally:
      self.player.close()


def ids(groups):
  return [group.prompt.id for group in groups]


def test_equal_groups_are_dropped_and_replaced_in_order_of_the_prompts(tmp_path):
  found = Made(tmp_path, rewarded([1.0, (0, 1), 0.5, (0, 1), (1, 0), (0, 1)])).sample()
  # Two drops make two more necessary, and the sixth is not sampled.
  assert ids(found.groups) == ['p0', 'p1', 'p2', 'p3', 'p4'] and ids(found.kept) == ['p1', 'p3', 'p4']
  assert (found.equal, found.invalid, found.replayed) == (2, 0, 0)
  for group in found.groups:
    assert [one.sample for one in group.trajectories] == [0, 1]
    assert {one.version for one in group.trajectories} == {7}


def test_rewards_that_differ_in_their_last_bits_are_equal(tmp_path):
  third = 1 / 3
  found = Made(tmp_path, rewarded([(third, third + 1e-12), (0, 1), (0, 1), (1, 0), 0, 0])).sample()
  assert ids(found.kept) == ['p1', 'p2', 'p3'] and found.equal == 1


def test_without_dynamic_sampling_equal_groups_are_kept(tmp_path):
  found = Made(tmp_path, rewarded([1.0, (0, 1), 0.5, 0, 0, 0]), dynamic_sampling=False).sample()
  assert ids(found.groups) == ids(found.kept) == ['p0', 'p1', 'p2'] and found.equal == 0


def test_a_step_makes_do_with_fewer_groups_when_max_groups_are_sampled(tmp_path):
  found = Made(tmp_path, rewarded([1.0, 1.0, 1.0, (0, 1), 1.0, 1.0])).sample()
  assert len(found.groups) == 6 and ids(found.kept) == ['p3'] and found.equal == 5
  found = Made(tmp_path / 'none', rewarded([0.0] * 6)).sample()
  assert len(found.groups) == 6 and found.kept == ()


@pytest.mark.parametrize('slots', [1, 2, 5, 40])
def test_what_is_sampled_depends_neither_on_slots_nor_on_the_time_that_grading_takes(tmp_path, slots):
  rng, score = random.Random(slots), rewarded([1.0, (0, 1), 0.5, (0, 1), (1, 0), (0, 1)])

  def slow(prompt, trajectory):
    time.sleep(rng.random() * 0.01)
    return score(prompt, trajectory)

  expected = Made(tmp_path / 'expected', score).sample()
  made = Made(tmp_path / 'slow', slow, slots=slots)
  found = made.sample()
  assert (found.groups, found.kept) == (expected.groups, expected.kept)
  # Each request is known by its place in the step alone.
  assert sorted((request.id, request.noise, request.sampling.seed) for request in made.engine.requests) == sorted(
      (number, number, made.engine.requests[0].sampling.seed) for number in range(10)
  )


def test_random_numbers_of_steps_differ(tmp_path):
  made = [Made(tmp_path / str(step), rewarded([(0, 1)] * 6)) for step in (1, 2)]
  for step, one in enumerate(made, 1):
    one.sample(step)
  seeds = {request.sampling.seed for one in made for request in one.engine.requests}
  assert len(seeds) == 2


def test_finished_groups_are_not_sampled_again(tmp_path):
  score = rewarded([1.0, (0, 1), 0.5, (0, 1), (1, 0), (0, 1)])
  expected = Made(tmp_path / 'whole', score).sample()
  lines = (tmp_path / 'whole/rollouts/1.jsonl').read_bytes().splitlines(keepends=True)
  assert len(lines) == 5
  for kept in range(6):
    folder = tmp_path / str(kept)
    (folder / 'rollouts').mkdir(parents=True)
    # Killed while it wrote the next group.
    torn = lines[kept][:100] if kept < 5 else b''
    (folder / 'rollouts/1.jsonl').write_bytes(b''.join(lines[:kept]) + torn)
    made = Made(folder, score)
    found = made.sample()
    assert [[one.turns for one in group.trajectories] for group in found.groups] == [
        [one.turns for one in group.trajectories] for group in expected.groups
    ]
    assert ids(found.kept) == ids(expected.kept) and found.replayed == kept
    assert len(made.engine.requests) == 2 * (5 - kept)
    assert len((folder / 'rollouts/1.jsonl').read_bytes().splitlines()) == 5


def test_what_another_process_stored_counts_once_it_is_seen_and_on_all_processes_alike(tmp_path, monkeypatch):
  made = Made(tmp_path, rewarded([(0, 1)] * 6))
  stored = dict(enumerate(made.sample().groups))
  agreed, looks = [], []

  def late(step):
    looks.append(step)
    return {index: group for index, group in stored.items() if index != 1 or len(looks) > 2}

  monkeypatch.setattr(made.store, 'read', late)
  monkeypatch.setattr(rollout.jax, 'process_count', lambda: 2)
  monkeypatch.setattr(rollout.hosts, 'gather', lambda what, value: [value, [1]])
  monkeypatch.setattr(rollout.hosts, 'agree', lambda what, value: agreed.append(value))
  monkeypatch.setattr(rollout.time, 'sleep', lambda seconds: None)
  exchange = lambda: made.rollouts._exchanged(1, PROMPTS, 's', {0: stored[0]})
  # The third group is in the store, but not in what the processes told each other.
  assert exchange() == {0: stored[0], 1: stored[1]} and agreed == [[0, 1]] and len(looks) == 3
  looks.clear()
  monkeypatch.setattr(rollout.hosts, 'VISIBLE_S', 0.0)
  assert list(exchange()) == [0] and agreed[1] == [0]


def test_stored_groups_of_other_parameters_are_removed(tmp_path):
  score = rewarded([(0, 1)] * 6)
  Made(tmp_path, score).sample(stamp='before')
  made = Made(tmp_path, score)
  assert made.sample(stamp='after').replayed == 0 and len(made.engine.requests) == 6
  assert {one.notes['sampled_with'] for group in made.store.read(1).values() for one in group.trajectories} == {'after'}
  assert Made(tmp_path, score).sample(stamp='after').replayed == 3


@pytest.mark.parametrize(
    ('value', 'reason'),
    [(float('nan'), 'reward nan, pass_rate nan of sample 0 of "p0"'), (float('inf'), 'inf'), (None, 'not scored: ')],
)
def test_a_reward_that_is_no_number_drops_the_group_by_name_and_earns_nothing(tmp_path, value, reason, caplog):
  score = rewarded([(value, 1.0), (0, 1), (0, 1), (0, 1), 0, 0])

  def scored(prompt, trajectory):
    found = score(prompt, trajectory)
    return dataclasses.replace(found, reward=found.reward + 0.0)  # raises TypeError if it is None

  found = Made(tmp_path, scored).sample()
  assert ids(found.kept) == ['p1', 'p2', 'p3'] and (found.invalid, found.equal) == (1, 0)
  assert reason in invalid_because(found.groups[0]) and 'the group of "p0" is dropped' in caplog.text
  assert found.groups[0].trajectories[0].reward == 0 and not found.groups[0].trajectories[0].rewards
  # A resumed step knows it as dropped.
  again = Made(tmp_path, scored).sample()
  assert again.replayed == 4 and ids(again.kept) == ids(found.kept) and again.invalid == 1


def test_a_grader_that_cannot_work_here_ends_the_run_and_leaves_the_slots_free(tmp_path):
  def score(prompt, trajectory):
    raise UserError('sandbox: no isolation available')

  made = Made(tmp_path, score)
  with pytest.raises(UserError, match='no isolation'):
    made.sample()
  assert made.engine.free == 3


def test_a_roll_out_that_never_finishes_is_named_dropped_and_counted(tmp_path, caplog):
  score, never = rewarded([(0, 1)] * 6), threading.Event()

  def hangs(prompt, trajectory):
    if prompt.id == 'p1' and trajectory.sample == 1:
      never.wait(20)
    return score(prompt, trajectory)

  began = time.monotonic()
  found = Made(tmp_path, hangs, patience_s=0.2).sample()
  assert time.monotonic() - began < 5
  assert ids(found.kept) == ['p0', 'p2', 'p3'] and found.invalid == 1
  assert 'roll-outs that never finished: 1, of "p1"' in caplog.text
  assert found.groups[1].trajectories[1].notes[INVALID] == 'it never finished'
  never.set()
  time.sleep(0.05)  # whatever comes back late changes nothing
  assert len((tmp_path / 'rollouts/1.jsonl').read_bytes().splitlines()) == 4
  assert Made(tmp_path, score).sample().replayed == 4


def test_an_environment_that_hangs_or_breaks_drops_its_group(tmp_path):
  never = threading.Event()

  class Broken(SingleTurn):
    max_turns = 2

    def reset(self, prompt):
      self.prompt = prompt.id
      return super().reset(prompt)

    def step(self, reply):
      if self.prompt == 'p0':
        never.wait(20)
      return 1 / 0 if self.prompt == 'p1' else None

  made = Made(tmp_path, rewarded([(0, 1)] * 6), environment=Broken, patience_s=0.2)
  found = made.sample()
  never.set()
  assert ids(found.kept) == ['p2', 'p3', 'p4'] and found.invalid == 2
  assert 'ZeroDivisionError' in invalid_because(found.groups[1]) and made.engine.free == 3


CALL = chat.rendered(
    {'role': 'assistant', 'content': '', 'tool_calls': ({'name': 'calculator', 'arguments': {'expression': '2 + 3'}},)}
)[1]


def test_multi_turn_roll_outs_take_the_same_path(tmp_path):
  made = Made(
      tmp_path, rewarded([(0, 1)] * 6), script=lambda request: [said(CALL), said(f'it is {request.id}')],
      environment=lambda: ToolUse([calculator()], max_turns=3), max_tokens=300,
  )  # fmt: skip
  found = made.sample()
  for index, group in enumerate(found.groups):
    for one in group.trajectories:
      assert len(one.turns) == 2 and one.text == f'it is {2 * index + one.sample}' and one.end == 'stop'
      assert '5\n</tool_response>' in TOKENIZER.decode(one.turns[0].observation)


def test_slots_are_busy_until_the_last_waiting_roll_out_has_started(tmp_path):
  lengths = np.random.default_rng(0).choice([1, 2, 3, 30], 400, p=[0.4, 0.3, 0.2, 0.1])
  script = lambda request: [[*[TOKENIZER.encode('a')[0]] * int(lengths[request.id]), STOP]]
  made = Made(tmp_path, rewarded([(0, 1)] * 6), script=script, slots=8, group_size=60, prompts_per_step=6)
  made.rollouts._score = lambda prompt, trajectory: dataclasses.replace(trajectory, reward=float(trajectory.sample))
  spent = made.sample().spent
  shares = spent.shares()
  assert shares['slots_busy'] >= 0.9 and shares['tail_slots_busy'] < 1
  assert spent.steps + spent.tail_steps == len(made.engine.steps)
  assert spent.busy + spent.tail_busy == sum(made.engine.steps)


def test_grading_overlaps_with_decoding(tmp_path):
  """With a grader that only sleeps, the step waits for the last gradings alone."""

  def slow(prompt, trajectory):
    time.sleep(0.02)
    return dataclasses.replace(trajectory, reward=float(trajectory.sample))

  made = Made(tmp_path, slow, script=lambda request: [[*[TOKENIZER.encode('a')[0]] * 20, STOP]], slots=2, group_size=8)
  step = made.engine.step
  made.engine.step = lambda: (time.sleep(0.002), step())[1]
  spent = made.sample().spent
  assert spent.thread_seconds > 24 * 0.02 and spent.idle_seconds < 0.2 * spent.thread_seconds


def test_the_likeliest_answers_are_asked_for_once_each(tmp_path):
  made = Made(tmp_path, rewarded([0.1, 0.2, 0.3, 0.4, 0.5, 0.6]))
  answers = made.rollouts.answers(PROMPTS)
  assert {index: answer.reward for index, answer in answers.items()} == dict(enumerate([0.1, 0.2, 0.3, 0.4, 0.5, 0.6]))
  assert all(request.sampling.temperature == 0 for request in made.engine.requests)
  assert not (tmp_path / 'rollouts').exists()
  made.player.close()


def test_a_player_raises_what_a_thread_raised(tmp_path):
  made = Made(tmp_path, rewarded([0] * 6))
  finish = lambda roll, trajectory: 1 / 0
  begin = lambda roll: (episode := made.rollouts._episode(roll, 0), episode.request(roll.index, 0, 0))
  rolls = collections.deque(Roll(index, 0, prompt) for index, prompt in enumerate(PROMPTS))
  with pytest.raises(ZeroDivisionError):
    made.player.play(rolls, begin, finish, print, print)
  assert made.engine.free == 3
  made.player.close()
