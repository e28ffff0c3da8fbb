"""Episodes on the engine: ids only grow, nothing is encoded twice, and each episode is the same whatever runs beside it."""

import dataclasses
import functools

import jax.numpy as jnp
import numpy as np
import pytest

from iquest_jax.errors import UserError
from iquest_jax.infer.engine import Engine, Token
from iquest_jax.infer.sampler import Sampling
from iquest_jax.model.transformer import Transformer
from iquest_jax.rl.environment import SingleTurn, ToolUse
from iquest_jax.rl.episode import Episode, Extend
from iquest_jax.rl.tools import calculator
from iquest_jax.rl.types import Prompt, Trajectory
from iquest_jax.text import chat, example
from iquest_jax.text.tokenizer import END_OF_TEXT, IM_END, SMALLEST, Tokenizer

from tests.infer import oracle
from tests.model.small_models import DENSE, random_params

TEXTS = ['user\nWhat is 2 + 3?\n', 'user\n<tool_response>\n12 characters\n</tool_response>', 'assistant\nIt is 5. Go on.\n']
TOKENIZER = Tokenizer.train(TEXTS * 3, SMALLEST + 64)
STOP = TOKENIZER.id(IM_END)
MODEL = dataclasses.replace(DENSE, vocab=TOKENIZER.vocab_size, layers=1, max_context=128)
PROMPT = Prompt('p', ({'role': 'system', 'content': 'Be brief.'}, {'role': 'user', 'content': 'What is 2 + 3?'}))
CALL = {'role': 'assistant', 'content': '', 'tool_calls': ({'name': 'calculator', 'arguments': {'expression': '2 + 3'}},)}


class Echo:
  """Answers the first replies with their length, of two turns each; then the episode is over."""

  def __init__(self, answers=2, max_turns=8):
    self.left, self.closed, self.max_turns = answers, 0, max_turns

  def reset(self, prompt):
    return prompt.messages, prompt.tools

  def step(self, reply):
    self.left -= 1
    turns = {'role': 'tool', 'content': f'{len(reply.content)} characters'}, {'role': 'user', 'content': ' Go on.'}
    return turns if self.left >= 0 else None

  def close(self):
    self.closed += 1


def episode(environment, prompt=PROMPT, max_tokens=200):
  return Episode(TOKENIZER, environment, prompt, sample=1, version=7, max_tokens=max_tokens)


def feed(one, ids, end='stop'):
  """What the last of some sampled ids leads to; the log-probability of the n-th is -n."""
  results = [one.observe(Token(0, token, -float(n), '')) for n, token in enumerate(ids[:-1], 1)]
  assert results == [None] * (len(ids) - 1)
  return one.observe(Token(0, ids[-1], -float(len(ids)), end))


def reply(message):
  return [*TOKENIZER.encode(chat.rendered(message)[1]), STOP]


@functools.cache
def params():
  """Random parameters of a model that often closes its turn."""
  params = random_params(MODEL)
  params['head'][:, STOP] *= 4
  return params


@functools.cache
def engine():
  return Engine(Transformer(MODEL, jnp.float32), params(), 2)


def played(numbers):
  """Trajectories of episodes that are decoded together, each as soon as a slot is free."""
  waiting, running, results = list(numbers), {}, {}
  while waiting or running:
    tokens = []
    while waiting and engine().free:
      id = waiting.pop(0)
      asked = {'role': 'user', 'content': f'{id} + 2?'}
      running[id] = episode(Echo(), Prompt(str(id), (asked,)), max_tokens=60)
      tokens.append(engine().start(running[id].request(id, seed=3, noise=10 + id)))
    tokens = tokens or engine().step()
    while tokens:
      token = tokens.pop(0)
      action = running[token.request].observe(token)
      if isinstance(action, Extend):
        tokens.append(engine().extend(token.request, action.tokens, action.length))
      elif action:
        engine().release(token.request)
        results[token.request] = running.pop(token.request) and action
  return [results[id] for id in numbers]


def test_ids_are_those_of_the_whole_conversation_encoded_by_segments():
  """If the model writes what the tokenizer would."""
  calculate, answer = calculator(), {'role': 'assistant', 'content': 'It is 5.', 'thinking': 'Five.'}
  tools = (calculate.definition,)
  one = episode(ToolUse([calculate], max_turns=8), dataclasses.replace(PROMPT, tools=tools, executes=('calculator',)))
  action = feed(one, reply(CALL))
  assert isinstance(action, Extend)
  trajectory = feed(one, reply(answer))
  whole = [*PROMPT.messages, CALL, {'role': 'tool', 'content': '5'}, answer]
  segments = chat.segments(whole, tools)
  expected = example.build(TOKENIZER, segments[:-1])  # all but the newline after the last turn
  assert trajectory.tokens == tuple(expected.tokens.tolist())
  assert trajectory.sampled == tuple((expected.loss_weights > 0).tolist())
  assert trajectory.turns[0].observation == action.tokens
  first = example.build(TOKENIZER, chat.prompt(PROMPT.messages, tools)).tokens.tolist()
  assert list(trajectory.prompt_tokens) == first
  second = example.build(TOKENIZER, chat.prompt(whole[:-1], tools)).tokens.tolist()
  assert second == first + [*trajectory.turns[0].tokens, *action.tokens]
  assert (trajectory.end, trajectory.version, trajectory.sample, trajectory.prompt_id) == ('stop', 7, 1, 'p')
  assert trajectory.text == '<think>\nFive.\n</think>\nIt is 5.'
  assert trajectory.earlier == (chat.rendered(CALL)[1],)


def test_log_probabilities_are_those_of_the_whole_sequence_across_turns():
  trajectories = played(range(4))
  assert engine().free == 2 and {trajectory.end for trajectory in trajectories} == {'stop', 'length'}
  assert max(len(trajectory.turns) for trajectory in trajectories) == 3
  for trajectory in trajectories:
    ids, sampled = np.asarray(trajectory.tokens, np.int32), np.asarray(trajectory.sampled)
    padded = np.pad(ids, (0, MODEL.max_context - len(ids)))[None]
    logps_TV = np.asarray(oracle.log_probabilities(MODEL, params(), padded))
    expected = logps_TV[np.arange(len(ids) - 1), ids[1:]][sampled[1:]]
    np.testing.assert_allclose(np.asarray(trajectory.logps)[sampled], expected, atol=2e-4)


def test_an_episode_is_the_same_whatever_is_decoded_beside_it():
  together = played(range(4))
  assert len({trajectory.tokens for trajectory in together}) == 4
  assert played([2]) == [together[2]] and played([3, 2, 1, 0]) == together[::-1]


def test_the_sampler_draws_from_the_distribution_that_the_trainer_computes():
  request = episode(SingleTurn()).request(5, seed=3, noise=9)
  assert request.sampling == Sampling(temperature=1.0, top_p=1.0, top_k=0, seed=3)
  assert (request.id, request.noise, request.stop) == (5, 9, TOKENIZER.ends)


def test_a_single_turn_ends_with_its_reply():
  one = episode(SingleTurn())
  trajectory = feed(one, reply({'role': 'assistant', 'content': '5'}))
  assert (trajectory.end, trajectory.text, len(trajectory.turns)) == ('stop', '5', 1) and one.trajectory is trajectory
  assert trajectory.turns[0].tokens[-1] == STOP
  assert trajectory.turns[0].logps == tuple(-float(n) for n in range(1, len(trajectory.turns[0].tokens) + 1))


@pytest.mark.parametrize(
    ('max_turns', 'max_tokens', 'ids', 'token_end', 'end'),
    [
        (1, 200, reply(CALL), 'stop', 'turns'),
        (8, len(reply(CALL)) + 3, reply(CALL), 'stop', 'length'),
        (8, 200, reply(CALL)[:-1], 'length', 'length'),
        (8, 200, [*reply(CALL)[:-1], TOKENIZER.id(END_OF_TEXT)], 'stop', 'stop'),
    ],
    ids=['turns used up', 'observation does not fit', 'cut off', 'ended the document, not the turn'],
)
def test_an_episode_ends_where_no_reply_may_follow(max_turns, max_tokens, ids, token_end, end):
  environment = Echo(max_turns=max_turns)
  trajectory = feed(episode(environment, max_tokens=max_tokens), ids, token_end)
  assert isinstance(trajectory, Trajectory) and trajectory.end == end and environment.closed == 1
  assert [turn.observation for turn in trajectory.turns] == [()]
  assert trajectory.text == TOKENIZER.decode(ids if token_end == 'length' else ids[:-1])


def test_ids_after_the_prompt_never_exceed_the_limit():
  """Each action leaves exactly what is left: Engine.extend refuses more than a slot has room for."""
  one = episode(Echo(), max_tokens=150)
  first = feed(one, reply({'role': 'assistant', 'content': '5'}))
  used = len(reply({'role': 'assistant', 'content': '5'})) + len(first.tokens)
  assert first.length == 150 - used and one.request(0, 0, 0).length == first.length


def test_a_broken_environment_ends_its_episode_by_error_and_one_that_cannot_work_is_reported():
  broken, unusable = Echo(), Echo()
  broken.step = lambda reply: 1 / 0
  trajectory = feed(episode(broken), reply(CALL))
  assert trajectory.end == 'error' and trajectory.notes == {'error': 'ZeroDivisionError: division by zero'}
  assert trajectory.reward == 0 and broken.closed == 1

  def step(reply):
    raise UserError('sandbox: no isolation available')

  unusable.step = step
  with pytest.raises(UserError, match='no isolation'):
    feed(episode(unusable), reply(CALL))
