"""Small programming problems: two examples and a specification in, a Python function out, hidden tests.

Levels: 1 one operation, 2 one operation on what another gives. There are few operations, and all are trained on. What is
disjoint are the instances: no two of training, held-out and RL problems share specification and examples.
"""

import dataclasses
import hashlib
import random
from typing import Any

from iquest_jax.data.documents import Conversation, content_id
from iquest_jax.sandbox import tracing

SPLITS = {'train': 0.7, 'held_out': 0.15, 'rl': 0.15}  # shares of all instances
LEVELS = (1, 1, 1, 1, 2)  # in turn: after minutes, a small model does half of the first and hardly any of the second
TESTS = 20
_EXAMPLES = 2
_ARGUMENTS = {'number': 'x', 'list': 'xs', 'text': 's'}
_WORDS = ('apple', 'River', 'stone', 'Cloud', 'tiger', 'Lemon', 'paper', 'Music', 'green', 'Window', 'garden', 'Silver')
# (what f returns, expression, what it gives): operations on the argument x.
_FIRST = {
    'number': (
        ('twice x', '2 * x', 'number'),
        ('the square of x', 'x * x', 'number'),
        ('the absolute value of x', 'abs(x)', 'number'),
        ('whether x is even', 'x % 2 == 0', 'bool'),
    ),
    'list': (
        ('the length of xs', 'len(xs)', 'number'),
        ('the sum of xs', 'sum(xs)', 'number'),
        ('the largest of xs', 'max(xs)', 'number'),
        ('the first of xs', 'xs[0]', 'number'),
        ('xs in reverse', 'xs[::-1]', 'list'),
        ('xs in order', 'sorted(xs)', 'list'),
    ),
    'text': (
        ('s in capitals', 's.upper()', 'text'),
        ('s in small letters', 's.lower()', 'text'),
        ('the length of s', 'len(s)', 'number'),
        ('s in reverse', 's[::-1]', 'text'),
    ),
}
# The same on what such an operation gave: level 2.
_SECOND = {
    'number': (
        ('double {}', '2 * {}'),
        ('the square of {}', '{} ** 2'),
        ('one less than {}', '{} - 1'),
    ),
    'list': (('{}, without the first', '{}[1:]'), ('{}, twice over', '{} * 2')),
    'text': (('{}, without the first', '{}[1:]'), ('{}, twice over', '{} * 2')),
}
_BUILTINS = {function.__name__: function for function in (abs, len, max, min, sorted, str, sum)}


@dataclasses.dataclass(frozen=True)
class Problem:
  """A problem.

  Attributes:
    id: a hash of the specification and the examples.
    level: 1 or 2.
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
    words, expression = _operation(rng, level, kind)
    cases = _cases(rng, kind, expression)
    argument, shown = _ARGUMENTS[kind], [f'f({given!r}) == {expected!r}' for given, expected in cases[:_EXAMPLES]]
    request = '\n'.join([*shown, f'Write a Python function f({argument}) that returns {words}.'])
    if request not in found and split_of(request) == split:
      key = hashlib.sha256(request.encode()).hexdigest()[:12]
      solution = f'def f({argument}):\n  return {expression}\n'
      found[request] = Problem(key, level, request, expression, solution, tuple(cases[_EXAMPLES:]))
  return list(found.values())


def _operation(rng: random.Random, level: int, kind: str) -> tuple[str, str]:
  """(what f returns, expression)."""
  words, expression, gives = rng.choice([one for one in _FIRST[kind] if level == 1 or one[2] in _SECOND])
  if level == 1:
    return words, expression
  more, outer = rng.choice(_SECOND[gives])
  inner = expression if expression.endswith((')', ']')) else f'({expression})'
  return more.format(words), outer.format(inner)


def split_of(request: str) -> str:
  """The split of an instance, by the hash of its request."""
  digest = hashlib.sha256(f'program\0{request}'.encode()).digest()
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
