"""Puzzles: their judges accept the answers and refuse others, and a number is one puzzle in every process."""

import builtins
import json
import os
import random
import subprocess
import sys

import pytest

from iquest_jax.data.build.reasoning import puzzles
from iquest_jax.data.documents import Conversation, Drop, from_json, to_json
from iquest_jax.errors import UserError

from tests.processes import ROOT

ITEM = {'question': 'What is 2 + 2?', 'answer': '4', 'metadata': {}}


class Judge:
  """A dataset whose judge gives the scores of a table, 0 to other answers."""

  def __init__(self, **scores):
    self._scores = scores

  def score_answer(self, answer, item):
    score = self._scores.get(answer or 'empty', 0.0)
    if isinstance(score, Exception):
      raise score
    return score


def test_puzzles_have_judged_answers():
  before = random.getstate()
  made = list(puzzles.puzzles(range(40), 0))
  assert random.getstate() == before, 'the random state of others is left alone'
  kept = [one for one in made if isinstance(one, Conversation)]
  assert len(kept) >= 32 and {one.checks for one in kept} == {puzzles.CHECKS}
  assert all(from_json(to_json(one)) == one for one in kept)
  assert list(puzzles.puzzles(range(20, 30), 0)) == made[20:30]
  assert list(puzzles.puzzles(range(20, 30), 1)) != made[20:30]
  assert all(sum(len(m['content']) for m in one.messages) <= 2000 for one in kept if not one.difficulty)


def test_another_process_makes_the_same_puzzles():
  program = (
      'import random; random.seed(5)\nfrom iquest_jax.data.build.reasoning import puzzles\n'
      'from iquest_jax.data.documents import Drop, to_json\n'
      'print([x.rule if isinstance(x, Drop) else to_json(x) for x in puzzles.puzzles(range(12), 0)])'
  )
  outputs = []
  for hash_seed in '12':
    env = {**os.environ, 'PYTHONHASHSEED': hash_seed}
    done = subprocess.run([sys.executable, '-c', program], env=env, cwd=ROOT, capture_output=True, text=True, check=True)
    outputs.append(done.stdout)
  assert outputs[0] == outputs[1] and done.stderr == ''


@pytest.mark.parametrize(
    ('judge', 'answer', 'rule'),
    [
        (Judge(), '4', 'puzzle: the judge refuses the answer'),
        (Judge(**{'4': 0.5}), '4', 'puzzle: the judge refuses the answer'),
        (Judge(**{'4': ValueError('of the judge')}), '4', 'puzzle: the judge refuses the answer'),
        (Judge(**{'4': 1.0}), None, 'puzzle: the judge refuses the answer'),
        (Judge(**{'4': 1.0}), '', 'puzzle: the judge refuses the answer'),
        (Judge(**{'4': 1.0}), '5', 'puzzle: the judge refuses the answer'),
        (Judge(**{'4': 1.0, 'empty': 1.0}), '4', 'puzzle: the judge accepts anything'),
        (Judge(**{'4': 1.0, 'no answer': 1.0}), '4', 'puzzle: the judge accepts anything'),
        (Judge(**{'4' * 3000: 1.0}), '4' * 3000, 'puzzle: too long'),
    ],
)
def test_a_puzzle_that_its_judge_does_not_prove_is_dropped(judge, answer, rule):
  assert puzzles.made('x', judge, {**ITEM, 'answer': answer}, False) == Drop(rule, 'x')


@pytest.mark.parametrize(
    ('metadata', 'steps'),
    [
        ({'expression': '2 + 2'}, '2 + 2 = 4'),
        ({'answer_cot': 'Two and two.\n#### 4'}, 'Two and two.\n4'),
        ({'states': ['1', '4']}, '1\n4'),
        ({'expression': '2 + 3'}, ''),
        ({'expression': '2 / 3'}, ''),
        ({'expression': '2 +'}, ''),
        ({'expression': '1 // 0'}, ''),
        ({'answer_cot': 'Two and two.\n#### 14'}, ''),
        ({'states': []}, ''),
        ({}, ''),
    ],
)
def test_steps_are_shown_only_if_they_end_in_the_answer(metadata, steps):
  item, judge = {**ITEM, 'metadata': metadata}, Judge(**{'4': 1.0})
  thought = puzzles.made('x', judge, item, True)
  said = puzzles.made('x', judge, item, False)
  assert thought.messages[1].get('thinking', '') == steps and thought.messages[1]['content'] == '4'
  assert said.messages[1]['content'] == (f'{steps}\nAnswer: 4' if steps else '4')
  assert said.difficulty == ('easy' if steps else '')


def test_without_reasoning_gym_one_line_says_how_to_get_it(monkeypatch):
  real = builtins.__import__

  def missing(name, *arguments):
    if name.startswith('reasoning_gym'):
      raise ImportError(name)
    return real(name, *arguments)

  monkeypatch.setattr(builtins, '__import__', missing)
  with pytest.raises(UserError, match=r'pip install -e \.\[data\]'):
    next(puzzles.puzzles(range(1), 0))


SURVEY = """import json, random, sys
from reasoning_gym.factory import DATASETS, create_dataset
random.seed(int(sys.argv[1]))
found = {}
for name in sorted(DATASETS):
  try:
    dataset = create_dataset(name, seed=7, size=12)
    items = [dataset[i] for i in range(12)]
    bad = not all(isinstance(i['answer'], str) and dataset.score_answer(i['answer'], i) == 1 for i in items)
    kinds = ['no answer'] * bad
    if not bad:
      try:
        kinds += ['anything'] * all(dataset.score_answer('no answer', i) >= 1 for i in items)
      except Exception:
        pass
    found[name] = [kinds, json.dumps([(i['question'], i['answer']) for i in items], default=str)]
  except AssertionError:
    found[name] = [['no answer'], '']
json.dump(found, open(sys.argv[2], 'w'))
"""


@pytest.mark.long
def test_the_generators_left_out_are_those_that_prove_nothing_or_differ_between_processes(tmp_path):
  found = []
  for seed in '12':
    path = tmp_path / seed
    env = {**os.environ, 'PYTHONHASHSEED': seed}
    subprocess.run([sys.executable, '-c', SURVEY, seed, path], env=env, check=True, capture_output=True)
    found.append(json.loads(path.read_text()))
  first = found[0]
  differ = {name for name in first if any(other[name] != first[name] for other in found)}
  assert {name for name in first if 'no answer' in first[name][0]} == set(puzzles._NO_ANSWER)
  assert {name for name in first if 'anything' in first[name][0]} == set(puzzles._ACCEPTS_ANYTHING)
  # Some differ once in thirty puzzles.
  assert {'isomorphic_strings', 'polynomial_multiplication', 'ransom_note'} <= differ <= set(puzzles._NOT_DETERMINISTIC)
  assert puzzles.generators() == sorted(first.keys() - puzzles.LEFT_OUT)
