"""Fill in the middle: cutting real source at each level, and at levels as they are drawn."""

import pathlib
import random
import sysconfig
from collections.abc import Iterator

from iquest_jax.bench.machine import median_seconds
from iquest_jax.data import syntax
from iquest_jax.data.build import fim


def results() -> Iterator[dict]:
  """MB/s of text, one core (while the grammar's process works, this one waits): modules of Python's standard library."""
  texts = standard_library(200)
  for level in ('drawn', *fim.LEVELS):
    yield measure(texts, level)


def measure(texts: list[str], level: str) -> dict:
  """Times the cutting of texts at one level; 'drawn' is an even mixture of them."""
  rng, proportions = random.Random(0), fim.Proportions(1.0, 0.5, dict.fromkeys(fim.LEVELS, 1.0))

  def cut_all() -> None:
    for text in texts:
      if level == 'drawn':
        fim.complete(text, proportions, rng, lambda: syntax.parse(text, 'python'))
      else:
        fim.split(text, level, rng, 'python')

  size = sum(len(text.encode()) for text in texts)
  return {'level': level, 'mb_per_second': round(size / median_seconds(cut_all, repeats=3) / 1e6, 1)}


def standard_library(count: int) -> list[str]:
  """The text of modules of Python's standard library, the first `count` by name."""
  paths = sorted(pathlib.Path(sysconfig.get_path('stdlib')).glob('*.py'))
  return [path.read_text(encoding='utf-8') for path in paths[:count]]
