"""Fill in the middle: how often, at which positions and in which order a text is cut in three.

Source: IQuest-Coder-V1 report, pre-training data, completion.
"""

import dataclasses
import itertools
import math
import random
from collections.abc import Callable, Mapping

from iquest_jax.data import syntax
from iquest_jax.data.documents import FimSplit
from iquest_jax.errors import UserError, check_name

LEVELS = ('characters', 'lines', *syntax.LEVELS)


@dataclasses.dataclass(frozen=True)
class Proportions:
  """How often what is done. The report names the levels, not how often each is drawn.

  Attributes:
    share: of the documents that become completions.
    spm: share of the completions that show the suffix first; the others are prefix, suffix, middle.
    levels: weight of each level; a level that is left out is never drawn.
  """

  share: float
  spm: float
  levels: Mapping[str, float]

  def __post_init__(self):
    for name in ('share', 'spm'):
      if not 0 <= getattr(self, name) <= 1:
        raise UserError(f'fim: {name} must be in [0, 1], got {getattr(self, name)}')
    for level, weight in self.levels.items():
      check_name('fim: level', level, LEVELS)
      if not 0 <= weight < math.inf:
        raise UserError(f'fim: the weight of "{level}" must be at least 0, got {weight}')
    if not sum(self.levels.values()):
      raise UserError('fim: no level has a weight above 0; give one of ' + ', '.join(LEVELS))


def complete(
    text: str, proportions: Proportions, rng: random.Random, parse: Callable[[], syntax.Tree | None], first_byte: int = 0
) -> FimSplit:
  """A text cut at a random level, to be shown in a random order; arguments as for `cut`."""
  levels, weights = zip(*proportions.levels.items())
  split = cut(text, rng.choices(levels, weights)[0], rng, parse, first_byte)
  return dataclasses.replace(split, suffix_first=rng.random() < proportions.spm)


def split(text: str, level: str, rng: random.Random, language: str = '') -> FimSplit:
  """Cuts a text in three; see `cut`. `language` is a name of data/languages.py."""
  return cut(text, level, rng, lambda: syntax.parse(text, language))


def cut(
    text: str, level: str, rng: random.Random, parse: Callable[[], syntax.Tree | None], first_byte: int = 0
) -> FimSplit:
  """Cuts a text in three; prefix + middle + suffix is the text, and only an empty text has an empty middle.

  Args:
    level: one of LEVELS. A syntax level falls back to lines without a tree or without a node of that level.
    parse: gives the tree of this text, or of a longer one; called for syntax levels only.
    first_byte: where the text begins in that of the tree.
  """
  if not text:
    return FimSplit('', '', '')
  if level == 'characters':
    start, end = sorted(rng.sample(range(len(text) + 1), 2))
  elif level in syntax.LEVELS and (tree := parse()) and (span := _span(text, level, rng, tree, first_byte)):
    start, end = span
  else:
    ends = itertools.accumulate(map(len, text.splitlines(keepends=True)), initial=0)
    start, end = sorted(rng.sample(list(ends), 2))
  return FimSplit(text[:start], text[start:end], text[end:])


def _span(text: str, level: str, rng: random.Random, tree: syntax.Tree, first_byte: int) -> tuple[int, int] | None:
  """Characters of a random node of a level that lies within the text; None if there is none."""
  data = None if text.isascii() else syntax.encode(text)
  end_byte = first_byte + len(text if data is None else data)
  spans = syntax.spans(tree, level)
  if len(tree.data) > end_byte - first_byte:
    spans = [span for span in spans if first_byte <= span[0] and span[1] <= end_byte]
  if not spans:
    return None
  start, end = (offset - first_byte for offset in rng.choice(spans))
  return (start, end) if data is None else (len(syntax.decode(data[:start])), len(syntax.decode(data[:end])))
