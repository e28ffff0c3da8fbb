"""Arithmetic and code reasoning with worked steps. Every answer is computed; only programs written here are run."""

import random

from iquest_jax.data.tiny.turns import Turn


def _arithmetic(rng: random.Random) -> Turn:
  a, b, c = (rng.randint(2, 20) for _ in range(3))
  return _turn(f'What is {a} + {b} * {c}?', [f'{b} * {c} = {b * c}', f'{a} + {b * c} = {a + b * c}'], a + b * c)


def _remainder(rng: random.Random) -> Turn:
  a, b = rng.randint(20, 199), rng.randint(3, 12)
  steps = [f'{a // b} * {b} = {a // b * b}', f'{a} - {a // b * b} = {a % b}']
  return _turn(f'What is {a} % {b} in Python?', steps, a % b)


def _loop(rng: random.Random) -> Turn:
  start, times, step = rng.randint(0, 20), rng.randint(2, 4), rng.randint(2, 9)
  operator = rng.choice('+-')
  program = f'x = {start}\nfor i in range({times}):\n  x = x {operator} {step}\n'
  values = [_run(program.replace(f'range({times})', f'range({n})'), 'x') for n in range(1, times + 1)]
  steps = [f'i = {i}: x = {value}' for i, value in enumerate(values)]
  return _turn(f'What is x at the end?\n```\n{program}```', steps, values[-1])


def _condition(rng: random.Random) -> Turn:
  x, limit, low, high = rng.randint(0, 30), rng.randint(5, 25), rng.randint(1, 9), rng.randint(1, 9)
  program = f'def f(x):\n  if x > {limit}:\n    return x - {low}\n  return x + {high}\n'
  answer = _run(f'{program}y = f({x})\n', 'y')
  holds = x > limit
  taken = f'x - {low}' if holds else f'x + {high}'
  steps = [f'{x} > {limit} is {holds}', f'{taken} = {answer}']
  return _turn(f'What does f({x}) return?\n```\n{program}```', steps, answer)


def _list(rng: random.Random) -> Turn:
  numbers = [rng.randint(0, 30) for _ in range(rng.randint(3, 5))]
  name = rng.choice(('sorted', 'max', 'min', 'sum', 'len'))
  answer = _run(f'y = {name}({numbers})', 'y')
  return _turn(f'What is {name}({numbers})?', [f'The list has {len(numbers)} items.'], answer)


def _ages(rng: random.Random) -> Turn:
  old, middle, young = rng.sample(('Ada', 'Ben', 'Cleo', 'Dan', 'Eve', 'Finn', 'Gus', 'Hana'), 3)
  clues = [f'{old} is older than {middle}.', f'{middle} is older than {young}.']
  rng.shuffle(clues)
  word, answer = rng.choice((('oldest', old), ('youngest', young)))
  return _turn(f'{" ".join(clues)} Who is the {word}?', [f'From old to young: {old}, {middle}, {young}.'], answer)


KINDS = (_arithmetic, _remainder, _loop, _condition, _list, _ages)


def worked(turn: Turn) -> Turn:
  """The turn for a model that does not think first: the steps are part of the answer."""
  return Turn(turn.request, '', f'{turn.thought}\nAnswer: {turn.answer}')


def _turn(question: str, steps: list[str], answer: object) -> Turn:
  return Turn(question, '\n'.join(steps), str(answer))


def _run(program: str, name: str) -> object:
  """The value of a variable after a program of this module, which sees only harmless builtins."""
  scope = {'__builtins__': {'range': range, 'sorted': sorted, 'max': max, 'min': min, 'sum': sum, 'len': len}}
  exec(program, scope)  # pylint: disable=exec-used
  return scope[name]
