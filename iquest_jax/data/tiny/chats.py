"""Short chats: requests that a small model can learn to answer, with answers that follow from the request."""

import random

from iquest_jax.data.tiny.turns import Turn

_WORDS = ('apple', 'river', 'stone', 'cloud', 'tiger', 'lemon', 'paper', 'music', 'green', 'window', 'garden', 'silver')
_NAMES = ('value', 'number', 'amount', 'price', 'count', 'score')


def _reverse(rng: random.Random) -> Turn:
  words = rng.sample(_WORDS, 3)
  return Turn(f'Reverse this list: {", ".join(words)}', f'The last word is {words[-1]}.', ', '.join(reversed(words)))


def _upper(rng: random.Random) -> Turn:
  word, other = rng.sample(_WORDS, 2)
  return Turn(f'Write {word} {other} in capitals.', 'Each letter becomes a capital.', f'{word} {other}'.upper())


def _json(rng: random.Random) -> Turn:
  key, word, n = rng.choice(_NAMES), rng.choice(_WORDS), rng.randint(1, 99)
  return Turn(f'Give me JSON with name {word} and {key} {n}.', 'Two keys.', f'{{"name": "{word}", "{key}": {n}}}')


def _call(rng: random.Random) -> Turn:
  name, n = rng.choice(_NAMES), rng.randint(1, 99)
  request = f'How do I print {name} {n} times in Python?'
  return Turn(request, f'A loop over range({n}).', f'```\nfor _ in range({n}):\n  print({name})\n```')


KINDS = (_reverse, _upper, _json, _call)
