"""Prompts with verifiable instructions: the requests of the short chats, and what the form of the answer must be.

Prompts of RL and held-out ones share no request.
"""

import random
from typing import Any

from iquest_jax.data.documents import content_id
from iquest_jax.data.split import unit_hash
from iquest_jax.data.tiny import chats
from iquest_jax.text import instructions

SPLITS = ('rl', 'held_out')
_HELD_OUT = 0.2  # of all requests
# What a short answer of a small model can keep to.
KINDS = (
    'most_words', 'no_commas', 'lower_case', 'upper_case', 'no_code_block', 'json_object', 'begins_with', 'ends_with',
    'quoted', 'forbidden',
)  # fmt: skip
_MOST = 2  # instructions of a prompt


def prompts(seed: int, split: str, count: int) -> list[dict[str, Any]]:
  """Lines of a problem set (rl/problems.py), {id, messages, checks}: no two are the same."""
  rng, found = random.Random(f'instructions:{seed}:{split}'), {}
  while len(found) < count:
    request = rng.choice(chats.KINDS)(rng).request
    if split_of(request) != split:
      continue
    checks = instructions.sample(rng, request, rng.randint(1, _MOST), KINDS)
    content = f'{request}\n{instructions.rendered(checks)}'
    id = content_id(content)
    found[id] = {'id': id, 'messages': [{'role': 'user', 'content': content}], 'checks': list(checks)}
  return list(found.values())


def split_of(request: str) -> str:
  """The split of a request, by its hash."""
  return 'held_out' if unit_hash('instructions', request) < _HELD_OUT else 'rl'
