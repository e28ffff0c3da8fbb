"""Text in, text out: prompts as token ids, and drawn tokens as text while they come."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from iquest_jax.infer.engine import Engine, Request, Token
from iquest_jax.infer.sampler import GREEDY, Sampling
from iquest_jax.text import chat, example
from iquest_jax.text.chat import Message
from iquest_jax.text.tokenizer import FIM_MIDDLE, FIM_PREFIX, FIM_SUFFIX, Tokenizer


def completion(tokenizer: Tokenizer, prompt: str) -> np.ndarray:
  """Ids of a text to continue; it may spell out special tokens."""
  return np.asarray(tokenizer.encode(prompt, allow_special=True), np.int32)


def infill(tokenizer: Tokenizer, prefix: str, suffix: str) -> np.ndarray:
  """Ids after which the model writes what belongs between two texts, in the format of the training data."""
  special = example.SpecialToken
  parts = special(FIM_PREFIX), prefix, special(FIM_SUFFIX), suffix, special(FIM_MIDDLE)
  return example.build(tokenizer, [(part, 0.0) for part in parts]).tokens


def turn(tokenizer: Tokenizer, messages: Sequence[Message]) -> np.ndarray:
  """Ids of a conversation that the assistant is to continue; nothing in a message becomes a special token."""
  return example.build(tokenizer, chat.prompt(messages)).tokens


@dataclasses.dataclass
class Piece:
  """A piece of text: of which prompt, and whether it is the last."""

  index: int
  text: str
  last: bool


def stream(
    engine: Engine,
    tokenizer: Tokenizer,
    prompts: Iterable[np.ndarray],
    length: int,
    sampling: Sampling = GREEDY,
    stop_words: Sequence[str] = (),
) -> Iterator[Piece]:
  """Yields the continuations of prompts, piece by piece as they are drawn.

  A text ends at a token of `Tokenizer.ends` or a stop word, none of which is part of it, or after `length` tokens.
  """
  texts: dict[int, _Text] = {}
  requests = (Request(index, prompt, length, sampling, tokenizer.ends) for index, prompt in enumerate(prompts))
  for token in engine.run(requests):
    text = texts.setdefault(token.request, _Text(tokenizer, stop_words))
    piece = text.add(token)
    if text.ended and not token.end:
      engine.release(token.request)
    yield Piece(token.request, piece, text.ended)


def complete(engine: Engine, tokenizer: Tokenizer, prompts: Sequence[np.ndarray], length: int, **how) -> list[str]:
  """The continuation of every prompt; see `stream`."""
  texts = [''] * len(prompts)
  for piece in stream(engine, tokenizer, prompts, length, **how):
    texts[piece.index] += piece.text
  return texts


class _Text:
  """The text of one request, of which as much is shown as later tokens cannot change."""

  def __init__(self, tokenizer: Tokenizer, stop_words: Sequence[str]):
    self._tokenizer, self._stop_words = tokenizer, stop_words
    self._ids, self._shown, self.ended = [], 0, False

  def add(self, token: Token) -> str:
    """The text that a token makes certain."""
    if token.end != 'stop':
      self._ids.append(token.token)
    text, self.ended = self._tokenizer.decode(self._ids), bool(token.end)
    certain = len(text) if self.ended else len(text) - self._open(text)
    if found := [at for word in self._stop_words if (at := text.find(word)) >= 0]:
      certain, self.ended = min(found), True
    new, self._shown = text[self._shown : certain], max(self._shown, certain)
    return new

  def _open(self, text: str) -> int:
    """How many characters at the end may still change: part of a character, or the beginning of a stop word."""
    changing = len(text) - len(text.rstrip('\ufffd'))
    for word in self._stop_words:
      begun = next((n for n in range(len(word) - 1, 0, -1) if text.endswith(word[:n])), 0)
      changing = max(changing, begun)
    return changing
