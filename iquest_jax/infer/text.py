"""Text in, text out: prompts as token ids, and drawn tokens as text while they come."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from iquest_jax.infer.engine import Engine, Request, Token
from iquest_jax.infer.sampler import GREEDY, Sampling
from iquest_jax.text import chat, example
from iquest_jax.text.chat import Message
from iquest_jax.text.tokenizer import FIM_MIDDLE, FIM_PREFIX, FIM_SUFFIX, Tokenizer

_TAIL = 32  # tokens that are decoded for each new one, at most twice as many
_PART = 3  # bytes of a character that is not whole; decoders show them as one to three replacement characters


def completion(tokenizer: Tokenizer, prompt: str) -> np.ndarray:
  """Ids of a text to continue; it may spell out special tokens."""
  return np.asarray(tokenizer.encode(prompt, allow_special=True), np.int32)


def infill(tokenizer: Tokenizer, prefix: str, suffix: str) -> np.ndarray:
  """Ids after which the model writes what belongs between two texts, in the format of the training data."""
  special = example.SpecialToken
  parts = special(FIM_PREFIX), prefix, special(FIM_SUFFIX), suffix, special(FIM_MIDDLE)
  return example.build(tokenizer, [(part, 0.0) for part in parts]).tokens


def turn(tokenizer: Tokenizer, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()) -> np.ndarray:
  """Ids of a conversation that the assistant is to continue; nothing in a message becomes a special token."""
  return example.build(tokenizer, chat.prompt(messages, tools)).tokens


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
  texts: dict[int, Text] = {}
  requests = (Request(index, prompt, length, sampling, tokenizer.ends) for index, prompt in enumerate(prompts))
  for token in engine.run(requests):
    text = texts.setdefault(token.request, Text(tokenizer, stop_words))
    piece = text.add(token)
    if text.end and not token.end:
      engine.release(token.request)
    yield Piece(token.request, piece, bool(text.end))


def complete(engine: Engine, tokenizer: Tokenizer, prompts: Sequence[np.ndarray], length: int, **how) -> list[str]:
  """The continuation of every prompt; see `stream`."""
  texts = [''] * len(prompts)
  for piece in stream(engine, tokenizer, prompts, length, **how):
    texts[piece.index] += piece.text
  return texts


class Text:
  """The text of one request, of which as much is shown as later tokens cannot change.

  Only the last tokens are kept and decoded: decoding all of them for each token would take quadratic time.

  Attributes:
    end: 'stop' or 'length' once the text has ended, else ''; a stop word ends it, too.
  """

  def __init__(self, tokenizer: Tokenizer, stop_words: Sequence[str]):
    self._decode, self._stop_words, self.end = tokenizer.decode, stop_words, ''
    # The last tokens, how many characters of their text are shown, and how many tokens there may be.
    self._ids, self._shown, self._room = [], 0, _TAIL

  def add(self, token: Token) -> str:
    """The text that a token makes certain."""
    if token.end != 'stop':
      self._ids.append(token.token)
    text, self.end = self._decode(self._ids)[self._shown :], token.end
    certain = len(text) if self.end else len(text) - self._open(text)
    # A stop word begins in what is not shown, because `_open` holds its beginning back.
    if found := [at for word in self._stop_words if (at := text.find(word)) >= 0]:
      certain, self.end = min(found), 'stop'
    self._shown += certain
    if len(self._ids) >= self._room:
      self._forget()
      self._room = max(_TAIL, 2 * len(self._ids))
    return text[:certain]

  def _open(self, text: str) -> int:
    """How many characters at the end may still change: part of a character, and the beginning of a stop word."""
    stable = text[:-_PART] + text[-_PART:].rstrip('\ufffd')
    begun = (n for word in self._stop_words for n in range(1, len(word)) if stable.endswith(word[:n]))
    return len(text) - len(stable) + max(begun, default=0)

  def _forget(self) -> None:
    """Drops tokens in front that no later token affects, but keeps one that is shown: some decoders trim the first."""
    text = self._decode(self._ids)
    for first in range(len(self._ids) - _PART - 2, 0, -1):
      before, context = self._decode(self._ids[: first + 1]), self._decode(self._ids[first : first + 1])
      tail = self._decode(self._ids[first:])
      # Equal only if no character lies across the end of `before`, whose tokens then decode alike with or without.
      if len(before) <= self._shown and before + tail[len(context) :] == text:
        self._ids, self._shown = self._ids[first:], self._shown - len(before) + len(context)
        return
