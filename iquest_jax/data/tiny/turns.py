"""Turns of generated chats, and conversations that share none of them."""

import dataclasses
import random
from collections.abc import Callable, Iterator, Sequence

from iquest_jax.data.documents import Conversation, content_id


@dataclasses.dataclass(frozen=True)
class Turn:
  """A request, the thought before the answer, and the answer."""

  request: str
  thought: str
  answer: str


def distinct(kinds: Sequence[Callable[[random.Random], Turn]], rng: random.Random, count: int) -> list[Turn]:
  """Turns of random kinds, no request twice; the kinds together must have far more than `count` requests."""
  turns: dict[str, Turn] = {}
  while len(turns) < count:
    turn = rng.choice(kinds)(rng)
    turns.setdefault(turn.request, turn)
  return list(turns.values())


def conversations(turns: Sequence[Turn], rng: random.Random, longest: int, thinking: bool) -> Iterator[Conversation]:
  """Conversations of 1 to `longest` turns that use each turn once, so that no held-out turn is in training."""
  start = 0
  while start < len(turns):
    end, messages = start + rng.randint(1, longest), []
    for turn in turns[start:end]:
      thought = {'thinking': turn.thought} if thinking else {}
      messages += [
          {'role': 'user', 'content': turn.request},
          {'role': 'assistant', **thought, 'content': turn.answer},
      ]
    yield Conversation(content_id(*(message['content'] for message in messages)), tuple(messages))
    start = end
