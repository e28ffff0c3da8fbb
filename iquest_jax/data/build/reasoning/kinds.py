"""Small programs of fixed shapes with random numbers: level 1 takes one or two steps, level 2 a function of a few lines.

Level 1 is made for the smallest model: question, steps and answer together have at most about a hundred of its tokens.
Shapes, numbers and wording are ours.
"""

import dataclasses
import random
from collections.abc import Sequence

_WORDS = ('apple', 'river', 'stone', 'cloud', 'tiger', 'lemon', 'paper', 'music', 'green', 'window', 'garden', 'silver')


@dataclasses.dataclass(frozen=True)
class Task:
  """A program and what is asked of it.

  Attributes:
    expression: what is asked for, after the program.
    source: '' if the expression says it all.
    question: '' for a general one; of inputs a form as in samples.INPUT_FORMS.
    steps: how the answer is found: 'operations' of the expressions in `computed`, one after the other; 'changes' of the
      variables of the whole program; 'lines' that a call runs.
    domain: argument lists of function f, if its inputs are asked for; then `expression` is not used.
    parameters, statement: of f, and how the question states the domain.
  """

  expression: str = ''
  source: str = ''
  question: str = ''
  steps: str = 'lines'
  computed: tuple[tuple[str, dict[str, object]], ...] = ()
  domain: tuple[str, ...] = ()
  parameters: tuple[str, ...] = ()
  statement: str = ''


def _expression(expression: str) -> Task:
  return Task(expression, question=f'What is {expression}?', steps='operations', computed=((expression, {}),))


def _arithmetic(rng: random.Random) -> Task:
  a, b, c = (rng.randint(2, 20) for _ in range(3))
  forms = ('{} + {} * {}', '{} * {} + {}', '({} + {}) * {}', '{} * {} - {}', '{} * ({} - {})', '{} - {} + {}')
  return _expression(rng.choice(forms).format(a, b, c))


def _remainder(rng: random.Random) -> Task:
  a, b, c = rng.randint(20, 199), rng.randint(3, 12), rng.randint(2, 9)
  return _expression(rng.choice(('{} % {}', '{} % {} + {}', '{} // {}', '{} // {} - {}')).format(a, b, c))


def _comparison(rng: random.Random) -> Task:
  a, b, c, d = (rng.randint(0, 30) for _ in range(4))
  signs = rng.choices(('<', '>', '<=', '>=', '==', '!='), k=2)
  return _expression(f'{a} {signs[0]} {b} {rng.choice(("and", "or"))} {c} {signs[1]} {d}')


def _list(rng: random.Random) -> Task:
  numbers = [rng.randint(0, 30) for _ in range(rng.randint(3, 5))]
  form = rng.choice(('sorted({})', 'max({})', 'min({})', 'sum({})', 'len({})', '{}[::-1]', '{}[1:]', '{}[{}]', '{} in {}'))
  if form == '{} in {}':
    return _expression(f'{rng.choice([*numbers, rng.randint(0, 30)])} in {numbers}')
  return _expression(form.format(numbers, rng.randrange(len(numbers))))


def _text(rng: random.Random) -> Task:
  word, other = rng.sample(_WORDS, 2)
  forms = ('{!r}[::-1]', 'len({!r})', '{!r}[{}]', '{!r}.upper() + {!r}', '{!r} + {!r}[::-1]', '{!r}[{}:]')
  form, at = rng.choice(forms), rng.randrange(1, 5)
  return _expression(form.format(word, at if '{}' in form else other))


def _dict(rng: random.Random) -> Task:
  values = {key: rng.randint(1, 30) for key in rng.sample('abcdxyz', rng.randint(2, 4))}
  one, other = rng.sample(sorted(values), 2)
  expression = f"d['{one}'] {rng.choice('+-*')} d['{other}']"
  question = f'd = {values}. What is {expression}?'
  return Task(expression, f'd = {values}\n', question, 'operations', ((expression, {'d': values}),))


def _loop(rng: random.Random) -> Task:
  start, times, step = rng.randint(0, 20), rng.randint(2, 4), rng.choice([*map(str, range(2, 10)), 'i'])
  program = f'x = {start}\nfor i in range({times}):\n  x = x {rng.choice("+-")} {step}\n'
  return Task('x', program, f'What is x at the end?\n```\n{program}```', 'changes')


def _while(rng: random.Random) -> Task:
  start, step = rng.randint(10, 40), rng.randint(7, 12)
  program = f'x = {start}\nwhile x > {rng.randint(5, 9)}:\n  x = x - {step}\n'
  return Task('x', program, f'What is x at the end?\n```\n{program}```', 'changes')


def _condition(rng: random.Random) -> Task:
  x, limit, low, high = rng.randint(0, 30), rng.randint(5, 25), rng.randint(1, 9), rng.randint(1, 9)
  test = rng.choice((f'x > {limit}', f'x < {limit}', f'x % {rng.randint(2, 5)} == 0'))
  parts = test, f'x {rng.choice("-*")} {low}', f'x + {high}'
  program = 'def f(x):\n  if {}:\n    return {}\n  return {}\n'.format(*parts)
  at = {'x': x}
  taken = parts[1] if _holds(test, x) else parts[2]
  return Task(f'f({x})', program, f'What does f({x}) return?\n```\n{program}```', 'operations', ((test, at), (taken, at)))


def _holds(test: str, x: int) -> bool:
  sign, number = test.split()[1], int(test.split()[2])
  return {'>': x > number, '<': x < number, '%': x % number == 0}[sign]


def _inverse(rng: random.Random) -> Task:
  a, b = rng.randint(2, 4), rng.randint(1, 9)
  body = rng.choice((f'x % {a} + {b}', f'x // {a} + {b}', f'abs(x - {a})', f'x * x + {b}', f'max(x, {a}) - {b}'))
  task = _asks_inputs(f'def f(x):\n  return {body}\n', 5)
  return dataclasses.replace(task, question='For which {} is {} == {}?\n```\n{}```', statement='x in range(5)')


def _asks_inputs(program: str, size: int) -> Task:
  domain = tuple(map(str, range(size)))
  return Task(source=program, domain=domain, parameters=('x',), statement=f'`x` in `range({size})`')


def _accumulate(rng: random.Random) -> Task:
  a, b, c = rng.randint(0, 9), rng.randint(2, 4), rng.randint(1, 5)
  program = (
      f'def f(x):\n  total = {a}\n  for i in range(x):\n    if i % {b} == {rng.randrange(b)}:\n      total += i * {c}\n'
      f'    else:\n      total -= {rng.randint(1, 3)}\n  return total\n'
  )
  return _of_number(program, rng, 3, 7)


def _halving(rng: random.Random) -> Task:
  change = rng.choice((f'x //= {rng.randint(2, 3)}', f'x -= {rng.randint(3, 8)}'))
  program = f'def f(x):\n  count = 0\n  while x > {rng.randint(1, 4)}:\n    {change}\n    count += 1\n  return {{}}\n'
  return _of_number(program.format(rng.choice(('count', '[x, count]', 'x * 10 + count'))), rng, 6, 40)


def _recursion(rng: random.Random) -> Task:
  end, base = rng.randint(0, 1), rng.randint(1, 4)
  step = rng.choice(('f(x - 1) + x', 'f(x - 1) * 2', 'x - f(x - 1)', f'f(x - 2) + {rng.randint(2, 9)}'))
  return _of_number(f'def f(x):\n  if x <= {end}:\n    return {base}\n  return {step}\n', rng, 2, 6)


def _nested(rng: random.Random) -> Task:
  a, b, c = rng.randint(2, 5), rng.randint(1, 9), rng.randint(2, 6)
  inner = rng.choice((f'x * {a} - {b}', f'x % {a} + {b}', f'abs(x - {b})', f'max(x, {b}) * {a}'))
  outer = rng.choice((f'y + g(x + {c})', f'g(y) - {c}', f'y * {c} + g({c})'))
  program = f'def g(x):\n  return {inner}\n\ndef f(x):\n  y = g(x)\n  return {outer}\n'
  return _of_number(program, rng, 0, 12)


def _of_number(program: str, rng: random.Random, low: int, high: int) -> Task:
  """Asks for the result of f at a number, or for the numbers that give a result."""
  if rng.random() < 0.3:
    return _asks_inputs(program, 10)
  return Task(f'f({rng.randint(low, high)})', program)


def _build(rng: random.Random) -> Task:
  a, b = rng.randint(2, 4), rng.randint(2, 9)
  test = rng.choice((f'x > {b}', f'x % {a} == 0', f'x < {b + 6}'))
  item = rng.choice(('x', f'x * {a}', f'x - {b}', f'x // {a}'))
  other = rng.choice(('', '    else:\n      out.insert(0, x)\n', '    elif out:\n      out.pop()\n'))
  program = f'def f(xs):\n  out = []\n  for x in xs:\n    if {test}:\n      out.append({item})\n{other}  return out\n'
  return Task(f'f({[rng.randint(0, 20) for _ in range(rng.randint(3, 5))]})', program)


def _letters(rng: random.Random) -> Task:
  letters = ''.join(rng.sample('aeiou', 3))
  one, other = rng.sample(('out + c.upper()', 'c + out', "out + c + '-'", 'out', 'out + c * 2'), 2)
  program = (
      f"def f(s):\n  out = ''\n  for c in s:\n    if c in '{letters}':\n      out = {one}\n    else:\n      out = {other}\n"
      '  return out\n'
  )
  return Task(f'f({rng.choice(_WORDS)!r})', program)


def _counts(rng: random.Random) -> Task:
  result = rng.choice(('counts', 'max(counts.values())', 'sorted(counts)', '[c for c in counts if counts[c] > 1]'))
  program = f'def f(s):\n  counts = {{}}\n  for c in s:\n    counts[c] = counts.get(c, 0) + 1\n  return {result}\n'
  return Task(f'f({"".join(rng.choices("abcd", k=rng.randint(4, 6)))!r})', program)


LEVELS: dict[int, Sequence] = {
    1: (_arithmetic, _remainder, _comparison, _list, _text, _dict, _loop, _while, _condition, _inverse),
    2: (_accumulate, _halving, _recursion, _nested, _build, _letters, _counts),
}
