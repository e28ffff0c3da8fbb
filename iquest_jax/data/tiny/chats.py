"""Short instruct chats: requests a small model can learn to answer, with answers that follow from the request."""

import random
from collections.abc import Callable, Iterator

from iquest_jax.data.documents import Document, content_id

# A request, the thought before the answer, the answer.
Turn = tuple[str, str, str]


def chats(seed: int, source: str, thinking: bool) -> Iterator[Document]:
  """Endless chats of one or two turns, a function of the seed.

  Args:
    seed: decides every chat.
    source: name of the source of the documents.
    thinking: whether a <think> block stands before each answer.
  """
  rng = random.Random(f'chats:{seed}:{source}')
  while True:
    messages = []
    for _ in range(rng.randint(1, 2)):
      request, thought, answer = rng.choice(_KINDS)(rng)
      reply = f'<think>\n{thought}\n</think>\n{answer}' if thinking else answer
      messages += [{'role': 'user', 'content': request}, {'role': 'assistant', 'content': reply}]
    yield Document(content_id(*(m['content'] for m in messages)), source, (), tuple(messages))


_WORDS = ('apple', 'river', 'stone', 'cloud', 'tiger', 'lemon', 'paper', 'music', 'green', 'window', 'garden', 'silver')
_NAMES = ('value', 'number', 'amount', 'price', 'count', 'score')
_OPERATIONS = {'adds {n} to': '{x} + {n}', 'subtracts {n} from': '{x} - {n}', 'multiplies by {n}': '{x} * {n}'}


def _function(rng: random.Random) -> Turn:
  n, name = rng.randint(2, 99), rng.choice(_NAMES)
  what, body = rng.choice(list(_OPERATIONS.items()))
  words, code = what.format(n=n), body.format(x=name, n=n)
  request = f'Write a Python function that {words} {name}.'
  return request, f'It takes {name} and returns {code}.', f'```\ndef f({name}):\n  return {code}\n```'


def _reverse(rng: random.Random) -> Turn:
  words = rng.sample(_WORDS, 3)
  answer = ', '.join(reversed(words))
  return f'Reverse this list: {", ".join(words)}', f'The last word is {words[-1]}.', answer


def _upper(rng: random.Random) -> Turn:
  word, other = rng.sample(_WORDS, 2)
  return f'Write {word} {other} in capitals.', 'Each letter becomes a capital.', f'{word} {other}'.upper()


def _json(rng: random.Random) -> Turn:
  key, word, n = rng.choice(_NAMES), rng.choice(_WORDS), rng.randint(1, 99)
  return f'Give me JSON with name {word} and {key} {n}.', 'Two keys.', f'{{"name": "{word}", "{key}": {n}}}'


def _call(rng: random.Random) -> Turn:
  name, n = rng.choice(_NAMES), rng.randint(1, 99)
  request = f'How do I print {name} {n} times in Python?'
  return request, f'A loop over range({n}).', f'```\nfor _ in range({n}):\n  print({name})\n```'


_KINDS: tuple[Callable[[random.Random], Turn], ...] = (_function, _reverse, _upper, _json, _call)
