"""Rewards: each component by hand-written cases, their weighted sum, and what may never be rewarded."""

import dataclasses
import math

import pytest

from iquest_jax.data.documents import Problem
from iquest_jax.errors import UserError
from iquest_jax.rl import rewards
from iquest_jax.rl.grading import Graded
from iquest_jax.rl.rewards import RewardOptions
from iquest_jax.rl.types import Group, Prompt, Trajectory, Turn
from iquest_jax.sandbox.verdict import Verdict

PROBLEM = Problem('p', 'f(3) == 6\nf(12) == 24', ({'input': '[5]', 'output': '10'},), function='f')
TASK = Prompt('p', ({'role': 'user', 'content': PROBLEM.statement},), problem=PROBLEM)
HALF = Graded(0.5, Verdict('failed', 'wrong', 'f(5)', 10, 20), 'def f(x): return 5')
ADD = {'name': 'add', 'description': 'Adds.', 'parameters': {
    'type': 'object', 'properties': {'a': {'type': 'integer'}, 'b': {'type': 'integer'}, 'flag': {'type': 'boolean'}},
    'required': ['a', 'b'],
}}  # fmt: skip
CALLS = [{'name': 'add', 'arguments': {'a': 1, 'b': 2}}, {'name': 'add', 'arguments': {'a': 3, 'b': 4, 'flag': True}}]
TOOLS = Prompt('t', ({'role': 'user', 'content': 'Add.'},), ({'type': 'function', 'function': ADD},),
               checks=({'check': 'tool_calls', 'calls': CALLS},))  # fmt: skip
TALK = Prompt('i', ({'role': 'user', 'content': 'Talk.'},),
              checks=({'check': 'most_words', 'count': 3}, {'check': 'no_commas'}))  # fmt: skip


def said(text, tokens=4, end='stop'):
  return Trajectory('p', 0, 0, (1, 2), (Turn((5,) * tokens, (-0.5,) * tokens),), end, text)


def component(name, prompt, text, graded=None, **options):
  return rewards.score(prompt, said(text), graded, RewardOptions({name: 1.0}, **options)).get(name)


def call(*arguments, name='add'):
  pairs = ', '.join(f'"{key}": {value}' for key, value in zip(('a', 'b', 'flag'), arguments))
  return f'<tool_call>\n{{"name": "{name}", "arguments": {{{pairs}}}}}\n</tool_call>'


def test_the_pass_rate_is_the_fraction_and_absent_without_tests():
  assert component('pass_rate', TASK, '', HALF) == 0.5
  assert component('pass_rate', TASK, '', None) == 0
  assert component('pass_rate', TALK, '', None) is None


@pytest.mark.parametrize(
    ('text', 'reward'),
    [
        ('```python\nx\n```', 1), ('a\n```py\nx\n```\nb', 1), ('<think>\n```\ny\n```\n</think>\n```python\nx\n```', 1),
        ('```\nx\n```', 0), ('```cpp\nx\n```', 0), ('x', 0), ('```python\nx', 0), ('<think>\n```python\nx\n```', 0),
        ('```python\nx\n```\n```python\ny\n```', 0), ('```python\nx\n```\n```', 0), ('````python\nx\n```\n````', 1),
        ('````python\nx\n```', 0), ('~~~python\nx\n```', 0), ('```python', 0), ('', 0),
    ],
)  # fmt: skip
def test_the_format_of_a_program_is_one_closed_block_of_its_language(text, reward):
  assert component('code_block', TASK, text) == reward
  assert component('code_block', TALK, text) is None


@pytest.mark.parametrize(
    ('text', 'reward'),
    [
        ('<think>\na\n</think>\nb', 1), ('\n<think>a</think>b', 1), ('b', 0), ('<think>\na\n', 0), ('a\n</think>\nb', 0),
        ('<think>\n</think>\nb', 0), ('<think>\na\n</think>\n ', 0), ('x <think>\na\n</think>\nb', 0),
        ('<think>a</think>b<think>c</think>d', 0), ('<think>a<think>b</think>c', 0), ('<think>a</think>b</think>c', 0),
    ],
)  # fmt: skip
def test_the_format_of_thinking_is_one_closed_thought_before_the_answer(text, reward):
  assert component('thinking', TALK, text) == reward


@pytest.mark.parametrize(
    ('text', 'schema', 'values'),
    [
        (call(1, 2) + '\n' + call(3, 4, 'true'), 1, 1),
        ('<think>\nx\n</think>\n' + call(3, 4, 'true') + '\n' + call(1, 2), 1, 1),
        (call(1, 2), 1, 1 / 2),
        (call(1, 2) + call(1, 2), 1, 1 / 2),
        (call(1, 2) + call(3, 4, 'true') + call(5, 6), 1, 2 / 3),
        (call(1, 2) + call(3, 4, 1), 1 / 2, 1 / 2),  # 1 is not true
        (call(1, '"2"') + call(1), 0, 0),
        (call(1, 2, name='sub') + call(1, 2), 1 / 2, 1 / 2),
        (call(1, 2) + '<tool_call>\n{"name": "add"', 1 / 2, 1 / 2),
        ('No call.', 0, 0),
        ('<think>\n' + call(1, 2) + '\n</think>', 0, 0),
    ],
)
def test_tool_calls_are_held_against_schema_and_expected_values(text, schema, values):
  assert component('tool_schema', TOOLS, text) == schema
  assert component('tool_values', TOOLS, text) == values
  assert component('tool_schema', TASK, text) is None and component('tool_values', TASK, text) is None


def test_calls_of_earlier_replies_count_like_those_of_the_last():
  one = dataclasses.replace(said('It is 3.'), earlier=(call(1, 2), call(1)))
  options = RewardOptions({'tool_schema': 1.0, 'tool_values': 1.0})
  assert rewards.score(TOOLS, one, None, options) == {'tool_schema': 0.5, 'tool_values': 0.5}
  assert rewards.score(TOOLS, dataclasses.replace(one, earlier=('<tool_call>{', call(1, 2))), None, options) == {
      'tool_schema': 0.5, 'tool_values': 0.5
  }  # fmt: skip


def test_where_no_call_is_expected_none_is_right():
  none = dataclasses.replace(TOOLS, checks=({'check': 'tool_calls', 'calls': []},))
  for name in ('tool_schema', 'tool_values'):
    assert component(name, none, 'No.') == 1
  assert component('tool_values', none, call(1, 2)) == 0


def test_instructions_are_checked_without_the_thinking():
  assert component('instructions', TALK, '<think>\na, b, c, d\n</think>\na b') == 1
  assert component('instructions', TALK, 'a, b') == 0.5
  assert component('instructions', TOOLS, 'a, b') is None and component('instructions', TASK, 'a') is None


@pytest.mark.parametrize(
    ('tokens', 'penalty'), [(0, 0), (60, 0), (61, -0.025), (80, -0.5), (99, -0.975), (100, -1), (500, -1)]
)
def test_the_overlong_penalty_falls_linearly_over_the_cache(tokens, penalty):
  """DAPO's equation 13 with L_max 100 and L_cache 40."""
  assert rewards.overlong(tokens, 100, 40) == pytest.approx(penalty, abs=1e-12)
  options = RewardOptions({'overlong': 2.0}, overlong_max=100, overlong_cache=40)
  assert rewards.scored(TALK, said('a', tokens), None, options).reward == pytest.approx(2 * penalty, abs=1e-12)


def test_observed_tokens_count_as_length_and_the_prompt_does_not():
  long = dataclasses.replace(said('a'), prompt_tokens=(1,) * 100, turns=(Turn((5,), (-0.5,), (6,) * 79),))
  options = RewardOptions({'overlong': 1.0}, overlong_max=100, overlong_cache=40)
  assert rewards.score(TALK, long, None, options) == {'overlong': -0.5}


def test_the_reward_is_the_weighted_sum_of_what_applies():
  weights = {'pass_rate': 1.0, 'code_block': 0.25, 'instructions': 3.0, 'overlong': 0.5}
  options = RewardOptions(weights, overlong_max=6, overlong_cache=4)
  one = rewards.scored(TASK, said('```python\nx\n```'), HALF, options)
  assert one.rewards == {'pass_rate': 0.5, 'code_block': 1.0, 'overlong': -0.5} and one.reward == 0.5 + 0.25 - 0.25
  verdict = {'status': 'failed', 'reason': 'wrong', 'test': 'f(5)', 'passed': 10, 'total': 20}
  assert one.notes == {'verdict': verdict}


def test_a_broken_environment_earns_nothing_and_is_still_punished_for_length():
  options = RewardOptions({'pass_rate': 1.0, 'overlong': 1.0}, overlong_max=4, overlong_cache=4)
  assert rewards.scored(TASK, said('a', end='error'), HALF, options).reward == -1.0


def test_memorised_examples_are_noted_with_the_share_of_reward_they_took():
  options = RewardOptions({'pass_rate': 1.0})
  table = Graded(0.75, Verdict('failed', passed=15, total=20), 'def f(x):\n  return {3: 6, 12: 24}.get(x)')
  right = Graded(1.0, Verdict('passed', passed=20, total=20), 'def f(x):\n  return 2 * x')
  cut = Graded(0.0, Verdict('timeout', passed=3, total=20), 'def f(x):\n  if x == 3: return 6\n  while x: pass')
  group = [rewards.scored(TASK, said(''), graded, options) for graded in (table, right, HALF, cut)]
  assert [one.notes.get('memorised') for one in group] == [2, None, None, None]
  assert group[0].reward == 0.75  # noted, not punished
  found = rewards.summary([*group, rewards.scored(TALK, said(''), None, options)])
  assert found == {
      'reward': 2.25 / 5, 'reward_pass_rate': 2.25 / 4, 'memorised': 1 / 4, 'memorised_reward': 0.75 / 2.25,
      'verdict_failed': 2 / 4, 'verdict_passed': 1 / 4, 'verdict_timeout': 1 / 4,
  }  # fmt: skip
  assert rewards.summary([]) == {} and rewards.summary(group[3:])['memorised_reward'] == 0


@pytest.mark.parametrize('value', [math.nan, math.inf])
def test_a_reward_that_is_no_number_is_named(value):
  options = RewardOptions({'pass_rate': 1.0})
  good = rewards.scored(TASK, said(''), HALF, options)
  broken = dataclasses.replace(rewards.scored(TASK, said(''), dataclasses.replace(HALF, fraction=value), options), sample=3)
  assert rewards.not_finite(Group(TASK, (good,))) == ''
  assert rewards.not_finite(Group(TASK, (good, broken))) == f'reward {value}, pass_rate {value} of sample 3 of "p"'


@pytest.mark.parametrize(
    ('options', 'said'),
    [
        (dict(weights={}), 'rewards.weights is empty; name at least one of pass_rate'),
        (dict(weights={'pas_rate': 1.0}), 'component "pas_rate" does not exist; did you mean "pass_rate"'),
        (dict(weights={'thinking': math.nan}), 'rewards.weights.thinking must be finite, got nan'),
        (dict(weights={'overlong': 1.0}), 'overlong_cache must be in .0, overlong_max., got 0 with overlong_max 0'),
        (dict(weights={'overlong': 1.0}, overlong_max=3, overlong_cache=4), 'got 4 with overlong_max 3'),
    ],
)
def test_options_that_make_no_sense_are_refused(options, said):
  with pytest.raises(UserError, match=said):
    RewardOptions(**options)


def test_prompts_that_cannot_be_scored_are_named():
  wrong = lambda prompt, **changes: rewards.problem_of(dataclasses.replace(prompt, **changes))
  assert [rewards.problem_of(prompt) for prompt in (TASK, TOOLS, TALK)] == ['', '', '']
  assert 'does not exist' in wrong(TALK, checks=({'check': 'poetic'},))
  assert wrong(TOOLS, tools=()) == 'tools: no tools'
  assert wrong(TOOLS, checks=({'check': 'tool_calls'},)) == 'tool_calls: "calls" must be a list'
  bad = ({'check': 'tool_calls', 'calls': [{'name': 'add', 'arguments': {'a': 1}}]},)
  assert wrong(TOOLS, checks=bad) == 'tool_calls: an expected call is wrong: add lacks b'
