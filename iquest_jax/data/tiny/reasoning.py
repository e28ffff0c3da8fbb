"""Arithmetic and code reasoning with worked steps. Every answer is computed; only programs made here are run."""

import random
from collections.abc import Callable, Iterator

from iquest_jax.data.documents import Document, content_id

# A question, the steps to its answer, the answer.
Sample = tuple[str, list[str], str]


def samples(seed: int, source: str, thinking: bool) -> Iterator[Document]:
  """Endless question-answer chats, a function of the seed.

  Args:
    seed: decides every sample.
    source: name of the source of the documents.
    thinking: whether the steps stand in <think>; otherwise they are part of the answer.
  """
  rng = random.Random(f'reasoning:{seed}:{source}')
  while True:
    question, steps, answer = rng.choice(_KINDS)(rng)
    worked = '\n'.join(steps)
    reply = f'<think>\n{worked}\n</think>\n{answer}' if thinking else f'{worked}\nAnswer: {answer}'
    messages = ({'role': 'user', 'content': question}, {'role': 'assistant', 'content': reply})
    yield Document(content_id(question), source, (), messages)


def _arithmetic(rng: random.Random) -> Sample:
  a, b, c = (rng.randint(2, 20) for _ in range(3))
  return f'What is {a} + {b} * {c}?', [f'{b} * {c} = {b * c}', f'{a} + {b * c} = {a + b * c}'], str(a + b * c)


def _remainder(rng: random.Random) -> Sample:
  a, b = rng.randint(20, 199), rng.randint(3, 12)
  steps = [f'{a // b} * {b} = {a // b * b}', f'{a} - {a // b * b} = {a % b}']
  return f'What is {a} % {b} in Python?', steps, str(a % b)


def _loop(rng: random.Random) -> Sample:
  start, times, step = rng.randint(0, 20), rng.randint(2, 4), rng.randint(2, 9)
  operator = rng.choice('+-')
  program = f'x = {start}\nfor i in range({times}):\n  x = x {operator} {step}\n'
  values = [_run(program.replace(f'range({times})', f'range({n})'), 'x') for n in range(1, times + 1)]
  steps = [f'i = {i}: x = {value}' for i, value in enumerate(values)]
  return f'What is x at the end?\n```\n{program}```', steps, str(values[-1])


def _condition(rng: random.Random) -> Sample:
  x, limit, low, high = rng.randint(0, 30), rng.randint(5, 25), rng.randint(1, 9), rng.randint(1, 9)
  program = f'def f(x):\n  if x > {limit}:\n    return x - {low}\n  return x + {high}\n'
  answer = _run(f'{program}y = f({x})\n', 'y')
  holds = x > limit
  taken = f'x - {low}' if holds else f'x + {high}'
  steps = [f'{x} > {limit} is {holds}', f'{taken} = {answer}']
  return f'What does f({x}) return?\n```\n{program}```', steps, str(answer)


def _list(rng: random.Random) -> Sample:
  numbers = [rng.randint(0, 30) for _ in range(rng.randint(3, 5))]
  name = rng.choice(('sorted', 'max', 'min', 'sum', 'len'))
  answer = _run(f'y = {name}({numbers})', 'y')
  return f'What is {name}({numbers})?', [f'The list has {len(numbers)} items.'], str(answer)


def _ages(rng: random.Random) -> Sample:
  old, middle, young = rng.sample(('Ada', 'Ben', 'Cleo', 'Dan', 'Eve', 'Finn', 'Gus', 'Hana'), 3)
  clues = [f'{old} is older than {middle}.', f'{middle} is older than {young}.']
  rng.shuffle(clues)
  word, answer = rng.choice((('oldest', old), ('youngest', young)))
  return f'{" ".join(clues)} Who is the {word}?', [f'From old to young: {old}, {middle}, {young}.'], answer


_KINDS: tuple[Callable[[random.Random], Sample], ...] = (_arithmetic, _remainder, _loop, _condition, _list, _ages)


def _run(program: str, name: str) -> object:
  """The value of a variable after a program of this module; with no builtins but the harmless ones above."""
  scope = {'__builtins__': {'range': range, 'sorted': sorted, 'max': max, 'min': min, 'sum': sum, 'len': len}}
  exec(program, scope)  # pylint: disable=exec-used
  return scope[name]
