"""Small programming problems: two examples and a specification in, a Python function out, hidden tests.

Levels: 1 one operation, 2 one operation with a number or letter, 3 two operations. Training, held-out and RL instances are
disjoint: at level 1 no two of these share specification and examples (there are few operations, and all are trained on), at
levels 2 and 3 no two share a specification, so that the numbers and letters of a held-out one were never seen with it.
"""

import dataclasses
import hashlib
import random
from typing import Any

from iquest_jax.data.documents import Conversation, content_id
from iquest_jax.sandbox import tracing

SPLITS = {'train': 0.7, 'held_out': 0.15, 'rl': 0.15}  # shares of all instances
LEVELS = (1, 1, 1, 2, 3)  # in turn: a small model learns the first in minutes, and the others hardly
TESTS = 20
_EXAMPLES = 2
_ARGUMENTS = {'number': 'x', 'list': 'xs', 'text': 's'}
_WORDS = ('apple', 'River', 'stone', 'Cloud', 'tiger', 'Lemon', 'paper', 'Music', 'green', 'Window', 'garden', 'Silver')
_LETTERS = 'aeilnorst'
# (what f returns, expression) by level and kind of argument: {n} and {m} are numbers, {c} is a letter.
_OPERATIONS = {
    (1, 'number'): (
        ('twice x', '2 * x'),
        ('the square of x', 'x * x'),
        ('the absolute value of x', 'abs(x)'),
        ('whether x is even', 'x % 2 == 0'),
    ),
    (1, 'list'): (
        ('the length of xs', 'len(xs)'),
        ('the sum of xs', 'sum(xs)'),
        ('the largest of xs', 'max(xs)'),
        ('the first of xs', 'xs[0]'),
        ('xs in reverse', 'xs[::-1]'),
        ('xs in order', 'sorted(xs)'),
    ),
    (1, 'text'): (
        ('s in capitals', 's.upper()'),
        ('s in small letters', 's.lower()'),
        ('the length of s', 'len(s)'),
        ('s in reverse', 's[::-1]'),
    ),
    (2, 'number'): (
        ('x plus {n}', 'x + {n}'),
        ('x minus {n}', 'x - {n}'),
        ('x times {n}', 'x * {n}'),
    ),
    (2, 'list'): (
        ('how often {n} is in xs', 'xs.count({n})'),
        ('xs with {n} at the end', 'xs + [{n}]'),
    ),
    (2, 'text'): (
        ('how often {c} is in s', "s.count('{c}')"),
        ('s with {c} at the end', "s + '{c}'"),
    ),
    (3, 'number'): (
        ('x times {n}, plus {m}', 'x * {n} + {m}'),
        ('x plus {n}, times {m}', '(x + {n}) * {m}'),
    ),
    (3, 'list'): (
        ('the sum of xs, times {n}', 'sum(xs) * {n}'),
        ('those of xs above {n}', '[v for v in xs if v > {n}]'),
    ),
    (3, 'text'): (
        ('s in capitals, with {c} at the end', "s.upper() + '{c}'"),
        ('the length of s, plus {n}', 'len(s) + {n}'),
    ),
}
_BUILTINS = {function.__name__: function for function in (abs, len, max, min, sorted, str, sum)}


@dataclasses.dataclass(frozen=True)
class Problem:
  """A problem.

  Attributes:
    id: a hash of the specification and the examples.
    level: 1 to 3.
    request: examples, and the specification as the last line.
    expression: what the function returns, in its argument.
    solution: a program that passes.
    tests: ((argument, expected), ...), none of them among the examples; not all expect the same.
  """

  id: str
  level: int
  request: str
  expression: str
  solution: str
  tests: tuple[tuple[Any, Any], ...]


CHECKS = ('solution passes the tests', 'stubs fail the tests')


def conversation(problem: Problem, thinking: bool) -> Conversation:
  """The problem as a chat with its solution, which this module wrote and is run on the tests here.

  Raises:
    AssertionError: the solution fails a test, or a constant passes them.
  """
  calls = [f'f({given!r})' for given, _ in problem.tests]
  outcomes = tracing.here(tracing.Batch(problem.solution, calls, 'plain'))
  expected = [repr(value) for _, value in problem.tests]
  assert [outcome.text for outcome in outcomes] == expected and len(set(expected)) > 1, problem
  thought = {'thinking': f'f returns {problem.expression}.'} if thinking else {}
  messages = (
      {'role': 'user', 'content': problem.request},
      {'role': 'assistant', **thought, 'content': f'```python\n{problem.solution}```'},
  )
  return Conversation(content_id(problem.request), messages, checks=CHECKS)


def problems(seed: int, split: str, count: int) -> list[Problem]:
  """Problems of a split, LEVELS in turn, no request twice."""
  rng, found = random.Random(f'programs:{seed}:{split}'), {}
  while len(found) < count:
    level = LEVELS[len(found) % len(LEVELS)]
    kind = rng.choice(list(_ARGUMENTS))
    words, expression = rng.choice(_OPERATIONS[level, kind])
    values = dict(n=rng.randint(2, 9), m=rng.randint(2, 9), c=rng.choice(_LETTERS))
    words, expression = words.format(**values), expression.format(**values)
    if level > 1 and split_of(words) != split:
      continue
    cases = _cases(rng, kind, expression)
    argument, shown = _ARGUMENTS[kind], [f'f({given!r}) == {expected!r}' for given, expected in cases[:_EXAMPLES]]
    request = '\n'.join([*shown, f'Write a Python function f({argument}) that returns {words}.'])
    if request not in found and (level > 1 or split_of(request) == split):
      key = hashlib.sha256(request.encode()).hexdigest()[:12]
      solution = f'def f({argument}):\n  return {expression}\n'
      found[request] = Problem(key, level, request, expression, solution, tuple(cases[_EXAMPLES:]))
  return list(found.values())


def split_of(instance: str) -> str:
  """The split of an instance, by the hash of its specification, at level 1 of its request."""
  digest = hashlib.sha256(f'program\0{instance}'.encode()).digest()
  share, total = int.from_bytes(digest[:6], 'big') / 2**48, 0.0
  for split, part in SPLITS.items():
    total += part
    if share < total:
      return split
  return split


def _cases(rng: random.Random, kind: str, expression: str) -> list[tuple[Any, Any]]:
  """Distinct arguments with what the expression gives for them, which is not the same for all tests or all examples."""
  while True:
    given = []
    while len(given) < _EXAMPLES + TESTS:
      value = _argument(rng, kind)
      if value not in given:
        given.append(value)
    # Only expressions of this module are evaluated.
    scope = lambda value: {'__builtins__': _BUILTINS, _ARGUMENTS[kind]: value}
    cases = [(value, eval(expression, scope(value))) for value in given]  # pylint: disable=eval-used
    if len({repr(expected) for _, expected in cases[_EXAMPLES:]}) > 1 and cases[0][1] != cases[1][1]:
      return cases


def _argument(rng: random.Random, kind: str) -> Any:
  if kind == 'number':
    return rng.randint(-9, 20)
  if kind == 'list':
    return [rng.randint(0, 11) for _ in range(rng.randint(1, 4))]
  return ' '.join(rng.sample(_WORDS, rng.randint(1, 2)))
