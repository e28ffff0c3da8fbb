"""Generated programs: every answer is what a fresh interpreter gives, small ones stay small, and a number is one sample."""

import json
import random
import re
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iquest_jax.data.build.reasoning import compose, expressions, programs
from iquest_jax.data.build.reasoning.programs import LEVELS
from iquest_jax.data.documents import Conversation, from_json, to_json
from iquest_jax.sandbox import tracing
from iquest_jax.sandbox.tracing import Batch
from iquest_jax.text.tokenizer import Tokenizer

# Of the test's own: asks for the value of an expression in a program, with nothing of the project.
ORACLE = """import json, sys
values = []
for source, expression in json.load(sys.stdin):
  scope = {}
  exec(source, scope)
  values.append(repr(eval(expression, scope)))
json.dump(values, sys.stdout)
"""


def made(count: int, seed: int = 0, **arguments) -> list[Conversation]:
  return list(programs.programs(range(count), seed, **arguments))


def asked(question: str) -> tuple[str, str, str]:
  """(program, expression, what the answer is to be: '' its value, otherwise the calls that give it)."""
  source = (re.search(r'```(?:python)?\n(.*)```', question, re.DOTALL) or ['', ''])[1]
  if form := re.match(r'(d = \{.*\})\. What is (.*)\?$', question):
    return form[1], form[2], ''
  if form := re.match(r'What (?:is|does) (.*?)(?: at the end| return)?\?', question.replace('`', '')):
    return source, form[1], ''
  if form := re.search(r'`(?:assert )?(f\(.*\))(?: == \?\?)?`\.', question):
    return source, form[1], ''
  form = re.search(r'[` ](\w)`? in `?range\((\d+)\)`?.*?`?(f\(\w\) == .*?)(?:\?\n|` (?:hold|true))', question)
  return source, f'["f(%d)" % {form[1]} for {form[1]} in range({form[2]}) if {form[3]}]', 'calls'


def test_every_answer_is_what_a_fresh_interpreter_gives():
  samples = made(300)
  assert all(isinstance(sample, Conversation) for sample in samples)
  tasks = [asked(sample.messages[0]['content']) for sample in samples]
  done = subprocess.run([sys.executable, '-I', '-c', ORACLE], input=json.dumps([task[:2] for task in tasks]), text=True,
                        capture_output=True, check=True)  # fmt: skip
  kinds = set()
  for sample, (_, _, kind), value in zip(samples, tasks, json.loads(done.stdout), strict=True):
    steps, _, answer = sample.messages[1]['content'].rpartition('\nAnswer: ')
    assert answer == (', '.join(re.findall(r'f\(\d\)', value)) if kind else value), sample.messages[0]['content']
    assert steps.endswith(answer) and sample.checks and sample.difficulty
    kinds.add(kind)
  assert kinds == {'', 'calls'}


@pytest.mark.long
def test_six_thousand_programs_are_all_verified():
  assert all(isinstance(sample, Conversation) for sample in made(6000, seed=3))


def test_a_number_is_the_same_question_in_any_range_and_either_form():
  direct, thinking = made(120), made(120, thinking=True)
  assert list(programs.programs(range(70, 90), 0)) == direct[70:90]
  for one, other in zip(direct, thinking, strict=True):
    said, thought = one.messages[1], other.messages[1]
    assert one.id == other.id and one.messages[0] == other.messages[0]
    assert said['content'] == f'{thought["thinking"]}\nAnswer: {thought["content"]}'
  assert made(120, seed=1) != direct and all(from_json(to_json(one)) == one for one in direct)


def test_the_first_level_fits_the_smallest_model():
  texts = ['\n'.join(message['content'] for message in sample.messages) for sample in made(800, levels=(1,))]
  tokenizer = Tokenizer.train(texts, 1000)
  lengths = sorted(len(tokenizer.encode(text)) for text in texts)
  assert lengths[len(lengths) * 95 // 100] <= 100 and lengths[-1] <= 120
  assert len(set(texts)) > 0.85 * len(texts)


def test_levels_are_as_asked_and_higher_ones_take_longer():
  def longest(level):
    return sum(len(sample.messages[1]['content']) for sample in made(60, levels=(level,)))

  assert longest(1) < longest(2) < longest(3)
  assert {sample.difficulty for sample in made(100)} == {'easy', 'medium', 'hard'}
  assert LEVELS == (1, 2, 3)


@settings(max_examples=100)
@given(st.integers())
def test_composed_programs_never_fail(seed):
  task = compose.task(random.Random(seed))
  calls = tuple(f'f({each})' for each in task.domain) or (task.expression,)
  for outcome in tracing.here(Batch(task.source, calls, 'count', 2000, 120)):
    assert outcome.text or outcome.stopped in ('steps', 'size'), (task.source, outcome)


NUMBERS = st.integers(0, 99).map(str)
TREES = st.recursive(
    NUMBERS,
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from('+-*'), inner).map(lambda parts: '({} {} {})'.format(*parts)),
        st.tuples(inner, st.sampled_from(('//', '%')), st.integers(1, 9)).map(lambda parts: '({} {} {})'.format(*parts)),
        st.tuples(inner, st.sampled_from(('<', '<=', '==', '!=')), inner).map(lambda parts: '({} {} {})'.format(*parts)),
        st.tuples(inner, st.sampled_from(('and', 'or')), inner).map(lambda parts: '({} {} {})'.format(*parts)),
        st.lists(inner, min_size=1, max_size=4).map(lambda items: f'max([{", ".join(items)}])'),
        st.lists(inner, min_size=1, max_size=4).map(lambda items: f'sum(sorted([{", ".join(items)}])[::-1])'),
        inner.map(lambda text: f'abs(-{text})'),
    ),
    max_leaves=8,
)


@settings(max_examples=80)
@given(TREES)
def test_operations_of_an_expression_lead_to_its_value(text):
  value, steps = expressions.evaluate(text)
  expected = eval(text)  # Written by this test.
  assert value == expected and type(value) is type(expected)
  for step in steps:
    left, sign, right = step.rpartition(' is ') if ' is ' in step else step.rpartition(' = ')
    assert sign
    if re.fullmatch(r'[-\d]+ (\S+|and|or) [-\d]+', left):
      assert repr(eval(left)) == right


@pytest.mark.parametrize('text', ['f(1)', '[1][', 'x + 1', '1 if 2 else 3', '__import__("os")', '1 / 2', '2 ** 3'])
def test_an_operation_without_steps_is_an_error(text):
  with pytest.raises((ValueError, SyntaxError, KeyError)):
    expressions.evaluate(text)
