"""Use of an API: every function that a task names must be called, and must be needed."""

import asyncio
import dataclasses

import pytest

from iquest_jax.data.documents import Drop, File
from iquest_jax.data.synthesis import api

SOURCE = '''"""Words."""
import re


def words(text: str, lower=False) -> list:
  """The words of a text."""
  return re.findall(r'\\w+', text.lower() if lower else text)


def counts(items):
  """How often each item occurs, as a dict."""
  found = {}
  for item in items:
    found[item] = found.get(item, 0) + 1
  return found


def top(table, n):
  """The n keys with the largest values; ties by key."""
  return sorted(table, key=lambda key: (-table[key], key))[:n]


def merged(a, b):
  """A dict of both."""
  return a | b


def _hidden():
  """Not for others."""


def bare():
  return 1
'''
FILE = File('a', 'src/wordlib.py', SOURCE, 'me/words')
TASK = '`solve(text, n)` gives the n most frequent words of a text, whatever their case, the most frequent one first.'
SOLUTION = """import wordlib

def solve(text, n):
  return wordlib.top(wordlib.counts(wordlib.words(text, lower=True)), n)
"""
AGAIN = """from wordlib import counts, top, words

def solve(text, n):
  table = counts(words(text, True))
  return top(table, n)
"""
TESTS = (
    {'input': ['a b A', 1], 'output': ['a']},
    {'input': ['x y y', 2], 'output': ['y', 'x']},
    {'input': ['', 3], 'output': []},
    {'input': ['c b a', 2], 'output': ['a', 'b']},
)
FUNCTIONS = ('words', 'counts', 'top')
GOOD = api.Candidate('wordlib', SOURCE, TASK, FUNCTIONS, SOLUTION, TESTS, AGAIN, 'me/words')
ANSWER = f"""## Task
{TASK}
## Functions
["words", "counts", "top"]
## Solution
```python
{SOLUTION}```
## Tests
[{{"input": ["a b A", 1], "output": ["a"]}}, {{"input": ["x y y", 2], "output": ["y", "x"]}},
 {{"input": ["", 3], "output": []}}, {{"input": ["c b a", 2], "output": ["a", "b"]}}]
"""


def verified(tools, candidate):
  return asyncio.run(api.DOMAIN.verify(candidate, tools()))


def test_a_task_that_needs_every_function_is_kept(tools):
  made = asyncio.run(api.DOMAIN.generate(FILE, tools(ANSWER, f'```python\n{AGAIN}```')))
  assert made == GOOD
  found = verified(tools, made)
  assert found.checks == api.CHECKS and found.repo == 'me/words' and not found.tests
  request, answer = (message['content'] for message in found.messages)
  assert 'def words(text: str, lower=False) -> list:\n  """The words of a text."""' in request and TASK in request
  assert answer == f'```python\n{SOLUTION}```'


@pytest.mark.parametrize(
    ('changes', 'rule'),
    [
        ({'solution': SOLUTION.replace('lower=True', 'lower=False')}, 'verify: wrong answer'),
        ({'tests': (*TESTS, {'input': ['a b b', 1], 'output': ['a']})}, 'verify: wrong answer'),
        ({'tests': TESTS[:1]}, 'verify: tests pass on anything'),
        ({'tests': ({'input': [[1]], 'output': [1]}, {'input': [[2]], 'output': [2]})}, 'verify: tests pass on anything'),
        ({'tests': ()}, 'verify: no tests'),
        ({'tests': ('x',)}, 'verify: malformed test'),
        ({'tests': ({'input': 'a', 'output': 1},)}, 'verify: malformed test'),
        ({'functions': ('words', 'words')}, 'api: too few functions'),
        ({'functions': (*FUNCTIONS, 'bare')}, 'api: unknown function'),
        ({'functions': (*FUNCTIONS, 'merged')}, 'api: a function is not called'),
        ({'functions': (*FUNCTIONS, 'merged'), 'solution': f'{SOLUTION}\nwordlib.merged({{}}, {{}})\n'},
         'api: a function is not needed'),
        ({'solution': 'def solve(text, n):\n  return {("a b A", 1): ["a"], ("x y y", 2): ["y", "x"], ("", 3): [],'
                      '("c b a", 2): ["a", "b"]}[text, n]\n  top(counts(words("")))\n'},
         'verify: literal table of answers'),
        ({'again': AGAIN.replace('True', 'False')}, 'api: another solution does not pass'),
        ({'source': f'{SOURCE}\nimport time\nstarted = time.time()\n'}, 'verify: depends on chance or time'),
        ({'solution': SOLUTION.replace('return ', 'return id(text) and ')}, 'verify: depends on chance or time'),
        ({'again': AGAIN.replace('top(', 'id(n) and top(')}, 'api: another solution does not pass'),
        ({'again': AGAIN.replace('  return', '  CALLS.append(1)\n  return len(CALLS) < 6 and') + '\nCALLS = []\n'},
         'api: another solution does not pass'),
        ({'again': ''}, 'api: another solution does not pass'),
        ({'task': f'{TASK}\n{SOLUTION}'}, 'api: the task gives the solution away'),
        ({'task': f'{TASK} {TESTS}'}, 'verify: no hidden test'),
    ],
)  # fmt: skip
def test_planted_wrong_tasks_are_rejected(tools, changes, rule):
  found = verified(tools, dataclasses.replace(GOOD, **changes))
  assert isinstance(found, Drop) and found.rule == rule


def test_modules_and_answers_that_do_not_do_are_dropped(tools):
  drop = lambda file, *answers: asyncio.run(api.DOMAIN.generate(file, tools(*answers))).rule
  for changes in ({'text': 'x = 1'}, {'text': 'def f(:'}, {'text': '(' * 9999}, {'path': 'a-b.py'}):
    assert drop(dataclasses.replace(FILE, **changes)) == 'api: not a module with documented functions'
  assert drop(FILE, 'no') == 'api: malformed answer'
