"""What every format produces: the token ids of one document and their weights in the loss."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from iquest_jax.text.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class SpecialToken:
  """A special token that a format puts in. Text never becomes one: see Tokenizer.encode."""

  token: str


# A piece of a document, text or a special token, and the loss weight of its tokens.
Segment = tuple[str | SpecialToken, float]


@dataclasses.dataclass(frozen=True)
class Example:
  """One formatted document.

  Attributes:
    tokens: int32 [n].
    loss_weights: float32 [n], the weight of each token as a target.
  """

  tokens: np.ndarray
  loss_weights: np.ndarray

  def head(self, length: int) -> 'Example':
    """The first `length` tokens."""
    return Example(self.tokens[:length], self.loss_weights[:length])


def build(tokenizer: Tokenizer, segments: Sequence[Segment]) -> Example:
  """Encodes the segments one by one, so that no token crosses a border between special tokens, header and content."""
  pieces = [
      [tokenizer.id(part.token)] if isinstance(part, SpecialToken) else tokenizer.encode(part) for part, _ in segments
  ]
  lengths = [len(piece) for piece in pieces]
  tokens = np.fromiter((token for piece in pieces for token in piece), np.int32, sum(lengths))
  weights = np.asarray([weight for _, weight in segments], np.float32)
  return Example(tokens, np.repeat(weights, np.asarray(lengths, int)))
