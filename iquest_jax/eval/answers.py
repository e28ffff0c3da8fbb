"""Answers of a checkpoint, decoded with the project's engine; `endpoint.py` asks a server instead.

A way to answer has `settings`, what the answers depend on, and `answer(asked)`, which yields them as they are finished.
"""

import collections
import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from iquest_jax.checkpoint import restore, start
from iquest_jax.checkpoint.store import Checkpoints
from iquest_jax.eval.suite import Prompt
from iquest_jax.infer.engine import Engine, Request
from iquest_jax.infer.sampler import Sampling
from iquest_jax.run_folder import RunFolder
from iquest_jax.text import chat, example
from iquest_jax.text.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class Asked:
  """A prompt to answer.

  Attributes:
    id: int32, unique; with the seed of the sampling it decides the random numbers.
    prompt: with the one form that is used, text or messages.
    length: most tokens of the answer; as many as the context has room for are drawn.
  """

  id: int
  prompt: Prompt
  length: int
  sampling: Sampling


class Answer(NamedTuple):
  """An answer.

  Attributes:
    id: of what was asked.
    text: without the token or word that ended it.
    end: 'stop', 'length' (cut off), or 'context' (the prompt leaves no room for an answer).
    tokens: drawn, those that ended it included.
  """

  id: int
  text: str
  end: str
  tokens: int


class EngineAnswers:
  """Answers of a stage's newest checkpoint. On several hosts every process decodes, and all of them see every answer.

  Attributes:
    settings: stage, size, step and fingerprint of the checkpoint, and the tokenizer's.
    model, params: as `restore.newest_model` gives them.
  """

  def __init__(self, run: RunFolder, stage: str, slots: int):
    """Restores the checkpoint; `slots` answers are decoded at a time.

    Raises:
      UserError: there is none, or it is damaged.
    """
    folder = run.stage(stage)
    self._tokenizer = Tokenizer.load(run.tokenizer)
    checkpoints = Checkpoints(folder)
    lineage = checkpoints.lineage(start.newest(checkpoints))
    self.settings: dict[str, Any] = {
        'stage': stage,
        'size': lineage['size'],
        'step': lineage['steps'],
        'fingerprint': lineage['end_fingerprint'],
        'tokenizer': self._tokenizer.fingerprint,
    }
    self.model, self.params = restore.newest_model(folder)
    self._slots = slots

  @functools.cached_property
  def _engine(self) -> Engine:
    """Its cache is allocated when the first answer is asked for."""
    return Engine(self.model, self.params, self._slots)

  def answer(self, asked: Sequence[Asked]) -> Iterator[Answer]:
    """Yields the answers as they are finished."""
    tokenizer = self._tokenizer
    requests, stop_words, drawn = [], {}, collections.defaultdict(list)
    for one in asked:
      ids = self._ids(one.prompt)
      room = self._engine.size - len(ids)
      if room < 1:
        yield Answer(one.id, '', 'context', 0)
        continue
      stop_words[one.id] = one.prompt.stop
      requests.append(Request(one.id, ids, min(one.length, room), one.sampling, tokenizer.ends))
    for token in self._engine.run(requests):
      ids, words = drawn[token.request], stop_words[token.request]
      if token.end != 'stop':
        ids.append(token.token)
      said_stop_word = words and self._just_said(ids, words)
      if said_stop_word and not token.end:
        self._engine.release(token.request)
      if said_stop_word or token.end:
        text = tokenizer.decode(drawn.pop(token.request))
        found = [at for word in words if (at := text.find(word)) >= 0]
        end = 'stop' if found else token.end
        yield Answer(token.request, text[: min(found)] if found else text, end, len(ids) + (token.end == 'stop'))

  def _ids(self, prompt: Prompt) -> np.ndarray:
    """Nothing in a benchmark's text becomes a special token."""
    segments = chat.prompt(prompt.messages, prompt.tools) if prompt.messages else [(prompt.text, 0.0)]
    return example.build(self._tokenizer, segments).tokens

  def _just_said(self, ids: list[int], words: Sequence[str]) -> bool:
    """Whether the last token completed a word; a token has at least one byte, so no more of them are looked at."""
    tail = self._tokenizer.decode(ids[-1 - max(len(word.encode()) for word in words) :])
    return any(word in tail for word in words)
