"""Translations run on the tests of their originals, and pairs of functions are shown side by side."""

import asyncio
import dataclasses
import random

import pytest

from iquest_jax.data.documents import Drop, Parallel, Problem
from iquest_jax.data.format import parallel
from iquest_jax.data.synthesis import translation
from iquest_jax.data.synthesis.domain import Tools
from iquest_jax.data.synthesis.verify import PARALLEL_CHECKS
from iquest_jax.sandbox import languages
from iquest_jax.text import tokenizer
from iquest_jax.text.example import SpecialToken

PYTHON = 'def join(words, n):\n  return "-".join(words[:n]) or None\n'
JAVASCRIPT = 'function join(words, n) {\n  return words.slice(0, n).join("-") || null;\n}\n'
TESTS = (
    {'input': '[["a", "b", "c"], 2]', 'output': '"a-b"'},
    {'input': '[["a"], 0]', 'output': 'null'},
    {'input': '[["ä", "ö"], 5]', 'output': '"ä-ö"'},
)
PROBLEM = Problem('p', 'Join words.', TESTS, PYTHON, 'join')


def made(tools, answer, problem=PROBLEM):
  found = asyncio.run(translation.DOMAIN.generate(problem, tools(answer)))
  return found if isinstance(found, Drop) else asyncio.run(translation.DOMAIN.verify(found, tools()))


@pytest.fixture(autouse=True)
def _node():
  if languages.missing('javascript'):
    pytest.skip('node is not installed')


def test_a_translation_that_gives_the_same_results_is_kept(tools):
  found = made(tools, f'Here it is:\n```javascript\n{JAVASCRIPT}```')
  assert found.sides == (('python', PYTHON), ('javascript', JAVASCRIPT)) and found.checks == PARALLEL_CHECKS


@pytest.mark.parametrize(
    ('answer', 'rule'),
    [
        (JAVASCRIPT.replace('slice(0, n)', 'slice(n)'), 'verify: wrong answer'),
        (JAVASCRIPT.replace('|| null', '|| ""'), 'verify: wrong answer'),
        (JAVASCRIPT.replace('join', 'unite', 1), 'verify: crashed'),
        (PYTHON, 'verify: crashed'),
        ('', 'translation: no code'),
    ],
)
def test_planted_wrong_translations_are_rejected(tools, answer, rule):
  assert made(tools, answer and f'```javascript\n{answer}```').rule == rule


def test_a_wrong_original_is_rejected(tools):
  problem = dataclasses.replace(PROBLEM, solution=PYTHON.replace(' or None', ''))
  assert made(tools, f'```js\n{JAVASCRIPT}```', problem).rule == 'verify: wrong answer'


def test_a_language_with_types_is_told_them_and_chosen_only_if_there_are_types(pool):
  asked = []

  async def ask(messages, **settings):
    asked.append(messages[0]['content'].partition(' to ')[2].partition('. It')[0])
    return ''

  def forms(problem):
    asked.clear()
    for seed in range(40):
      asyncio.run(translation.DOMAIN.generate(problem, Tools(ask, random.Random(seed), pool)))
    return set(asked)

  assert forms(PROBLEM) == {'JavaScript for Node.js: a function `join`, without output and exports'}
  found = forms(dataclasses.replace(PROBLEM, tests=TESTS[::2]))
  kinds = 'parameters of the types (Vec<String>, i64) in this order and a result of type String'
  assert len(found) == 5 and f'Rust: a function `join` with {kinds}; no `main`' in found
  found = forms(Problem('p', 'Add.', ({'input': '1 2', 'output': '3'},), 'print(sum(map(int, input().split())))'))
  assert len(found) == 5 and 'C++17: a program with the same input and output' in found


def test_only_solutions_in_python_are_translated(tools):
  for changes in ({'solution': ''}, {'language': 'go'}, {'function': 'Solution().join'}):
    assert made(tools, 'unused', dataclasses.replace(PROBLEM, **changes)).rule.startswith('translation: ')


def test_both_sides_are_shown_behind_their_languages_and_learned():
  pair = Parallel('p', (('python', 'a = """\n````\n"""'), ('go', 'package main\n')), TESTS)
  text, end = parallel.segments(pair)
  assert text == ('`````python\na = """\n````\n"""\n`````\n\n`````go\npackage main\n`````\n', 1.0)
  assert end == (SpecialToken(tokenizer.END_OF_TEXT), 1.0)
