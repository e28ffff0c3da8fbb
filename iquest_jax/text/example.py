"""What every format produces: token ids of one document and the weight of learning each of them."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from iquest_jax.text.tokenizer import Tokenizer

# A piece of a document: its text, or the name of a structure token, and the weight of learning its tokens.
Segment = tuple['str | Structure', float]


@dataclasses.dataclass(frozen=True)
class Structure:
  """A special token, put by a format. Text never becomes one: see Tokenizer.encode."""

  token: str


@dataclasses.dataclass(frozen=True)
class Example:
  """One formatted document.

  Attributes:
    tokens: int32 [n].
    loss_weights: float32 [n], weight of learning the token at the same place.
  """

  tokens: np.ndarray
  loss_weights: np.ndarray

  def head(self, length: int) -> 'Example':
    """The first `length` tokens."""
    return Example(self.tokens[:length], self.loss_weights[:length])


def build(tokenizer: Tokenizer, segments: Sequence[Segment]) -> Example:
  """Encodes the segments one by one, so that no token crosses a border between structure, header and content."""
  pieces = [
      [tokenizer.id(part.token)] if isinstance(part, Structure) else tokenizer.encode(part) for part, _ in segments
  ]
  lengths = [len(piece) for piece in pieces]
  tokens = np.fromiter((token for piece in pieces for token in piece), np.int32, sum(lengths))
  weights = np.asarray([weight for _, weight in segments], np.float32)
  return Example(tokens, np.repeat(weights, np.asarray(lengths, int)))
