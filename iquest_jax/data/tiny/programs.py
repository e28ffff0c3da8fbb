"""Small programming problems: a specification and two examples in, a Python function out, hidden tests.

Training, held-out and RL instances are disjoint in their specifications: no two of these share an operation with the
same argument and numbers. Levels: 1 one operation, 2 one operation with a number or letter, 3 two operations.
"""

import dataclasses
import hashlib
import random
from typing import Any

from iquest_jax.data.tiny.turns import Turn

SPLITS = {'train': 0.7, 'held_out': 0.15, 'rl': 0.15}  # shares of all specifications
LEVELS = (1, 2, 3)
TESTS = 6
_EXAMPLES = 2
_NUMBERS = ('x', 'n', 'value', 'price', 'count', 'score', 'age', 'level')
_LISTS = ('xs', 'items', 'numbers', 'values', 'ages', 'prices', 'counts', 'scores')
_TEXTS = ('s', 'text', 'word', 'name', 'title', 'line', 'city', 'label')
_WORDS = ('apple', 'River', 'stone', 'Cloud', 'tiger', 'Lemon', 'paper', 'Music', 'green', 'Window', 'garden', 'Silver')
# (what f returns, expression) by level and kind of argument: {a} is the argument, {n} and {m} are numbers, {c} a letter.
_OPERATIONS = {
    (1, 'number'): (
        ('twice {a}', '2 * {a}'),
        ('the square of {a}', '{a} * {a}'),
        ('{a} with the other sign', '-{a}'),
        ('the absolute value of {a}', 'abs({a})'),
        ('whether {a} is even', '{a} % 2 == 0'),
        ('whether {a} is odd', '{a} % 2 == 1'),
        ('whether {a} is negative', '{a} < 0'),
        ('{a} as text', 'str({a})'),
    ),
    (1, 'list'): (
        ('the length of {a}', 'len({a})'),
        ('the sum of {a}', 'sum({a})'),
        ('the largest of {a}', 'max({a})'),
        ('the smallest of {a}', 'min({a})'),
        ('the first of {a}', '{a}[0]'),
        ('the last of {a}', '{a}[-1]'),
        ('{a} in reverse', '{a}[::-1]'),
        ('{a} in order', 'sorted({a})'),
        ('{a} without the first', '{a}[1:]'),
    ),
    (1, 'text'): (
        ('{a} in capitals', '{a}.upper()'),
        ('{a} in small letters', '{a}.lower()'),
        ('the length of {a}', 'len({a})'),
        ('{a} in reverse', '{a}[::-1]'),
        ('the first letter of {a}', '{a}[0]'),
        ('the last letter of {a}', '{a}[-1]'),
        ('the words of {a}', '{a}.split()'),
    ),
    (2, 'number'): (
        ('{a} plus {n}', '{a} + {n}'),
        ('{a} minus {n}', '{a} - {n}'),
        ('{a} times {n}', '{a} * {n}'),
        ('the remainder of {a} by {n}', '{a} % {n}'),
        ('the larger of {a} and {n}', 'max({a}, {n})'),
        ('the smaller of {a} and {n}', 'min({a}, {n})'),
        ('whether {a} is above {n}', '{a} > {n}'),
    ),
    (2, 'list'): (
        ('how often {n} is in {a}', '{a}.count({n})'),
        ('whether {n} is in {a}', '{n} in {a}'),
        ('{a} with {n} at the end', '{a} + [{n}]'),
        ('the sum of {a} plus {n}', 'sum({a}) + {n}'),
    ),
    (2, 'text'): (
        ('how often {c} is in {a}', "{a}.count('{c}')"),
        ('whether {c} is in {a}', "'{c}' in {a}"),
        ('{a} with {c} at the end', "{a} + '{c}'"),
        ('{a} without every {c}', "{a}.replace('{c}', '')"),
    ),
    (3, 'number'): (
        ('{a} times {n}, plus {m}', '{a} * {n} + {m}'),
        ('{a} plus {n}, times {m}', '({a} + {n}) * {m}'),
        ('the square of {a}, minus {n}', '{a} * {a} - {n}'),
        ('whether {a} is between {n} and {n} + {m}', '{n} < {a} < {n} + {m}'),
    ),
    (3, 'list'): (
        ('those of {a} above {n}', '[v for v in {a} if v > {n}]'),
        ('how many of {a} are above {n}', 'len([v for v in {a} if v > {n}])'),
        ('the sum of those of {a} below {n}', 'sum(v for v in {a} if v < {n})'),
        ('{a}, each times {n}', '[v * {n} for v in {a}]'),
        ('the largest of {a}, plus {n}', 'max({a}) + {n}'),
    ),
    (3, 'text'): (
        ('{a} in capitals, without every {c}', "{a}.lower().replace('{c}', '').upper()"),
        ('how often {c} is in {a}, times {n}', "{a}.count('{c}') * {n}"),
        ('{a} in small letters and in reverse', '{a}.lower()[::-1]'),
    ),
}
_BUILTINS = {function.__name__: function for function in (abs, len, max, min, sorted, str, sum)}


@dataclasses.dataclass(frozen=True)
class Problem:
  """A problem.

  Attributes:
    id: a hash of the specification and the examples.
    level: 1 to 3.
    request: specification and examples, as a user asks.
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

  @property
  def turn(self) -> Turn:
    """The problem as a chat with its solution."""
    return Turn(self.request, f'f returns {self.expression}.', f'```python\n{self.solution}```')


def problems(seed: int, split: str, count: int) -> list[Problem]:
  """Problems of a split, levels in turn, no request twice.

  A held-out specification occurs once, so `count` must be small there: level 1 has 24. Others may return with other
  examples.
  """
  rng, found, specifications = random.Random(f'programs:{seed}:{split}'), {}, set()
  while len(found) < count:
    level = LEVELS[len(found) % len(LEVELS)]
    kind = rng.choice(('number', 'list', 'text'))
    words, expression = rng.choice(_OPERATIONS[level, kind])
    argument = rng.choice({'number': _NUMBERS, 'list': _LISTS, 'text': _TEXTS}[kind])
    values = dict(a=argument, n=rng.randint(2, 20), m=rng.randint(6, 20), c=rng.choice('aeilnorst'))
    words, expression = words.format(**values), expression.format(**values)
    if split_of(words) != split or (split == 'held_out' and words in specifications):
      continue
    cases = _cases(rng, kind, argument, expression)
    request = f'Write a Python function f({argument}) that returns {words}.\n' + ''.join(
        f'\n>>> f({given!r})\n{expected!r}' for given, expected in cases[:_EXAMPLES]
    )
    if request not in found:
      specifications.add(words)
      key = hashlib.sha256(request.encode()).hexdigest()[:12]
      solution = f'def f({argument}):\n  return {expression}\n'
      found[request] = Problem(key, level, request, expression, solution, tuple(cases[_EXAMPLES:]))
  return list(found.values())


def split_of(specification: str) -> str:
  """The split that a specification belongs to, by its hash alone."""
  digest = hashlib.sha256(f'program\0{specification}'.encode()).digest()
  share, total = int.from_bytes(digest[:6], 'big') / 2**48, 0.0
  for split, part in SPLITS.items():
    total += part
    if share < total:
      return split
  return split


def _cases(rng: random.Random, kind: str, argument: str, expression: str) -> list[tuple[Any, Any]]:
  """Distinct arguments with what the expression gives for them, which is not the same for all tests or all examples."""
  while True:
    given = []
    while len(given) < _EXAMPLES + TESTS:
      value = _argument(rng, kind)
      if value not in given:
        given.append(value)
    # Only expressions of this module are evaluated.
    cases = [(value, eval(expression, {'__builtins__': _BUILTINS, argument: value})) for value in given]  # pylint: disable=eval-used
    if len({repr(expected) for _, expected in cases[_EXAMPLES:]}) > 1 and cases[0][1] != cases[1][1]:
      return cases


def _argument(rng: random.Random, kind: str) -> Any:
  if kind == 'number':
    return rng.randint(-20, 40)
  if kind == 'list':
    return [rng.randint(0, 22) for _ in range(rng.randint(1, 4))]
  return ' '.join(rng.sample(_WORDS, rng.randint(1, 2)))
