"""Packing of tokenised documents into rows."""

from collections.abc import Iterator

import numpy as np

from iquest_jax.bench.machine import median_seconds
from iquest_jax.data.rows import packing
from iquest_jax.text.example import Example

_VOCABULARY = 76_800


def results() -> Iterator[dict]:
  """MB/s of token ids, 4 bytes each, at a tiny and a full context."""
  for context in (512, 8192):
    yield measure(context, documents=4000)


def measure(context: int, documents: int) -> dict:
  """Times the packing of random documents up to twice as long as a row of `context` tokens."""
  examples = random_examples(documents, 2 * context)
  size = sum(example.tokens.nbytes for example in examples)
  pack = lambda: sum(1 for _ in packing.pack(examples, context, False, packing.Counts()))
  return {'context': context, 'mb_per_second': round(size / median_seconds(pack, repeats=3) / 1e6, 1)}


def random_examples(count: int, longest: int) -> list[Example]:
  """`count` documents from 16 to `longest` tokens, log-uniform in length; tokens by Zipf's law over 76,800 entries."""
  rng = np.random.default_rng(0)
  lengths = np.exp(rng.uniform(np.log(16), np.log(longest), count)).astype(int)
  chance = np.cumsum(1 / np.arange(1, _VOCABULARY + 1))
  draw = lambda length: np.searchsorted(chance, rng.uniform(0, chance[-1], length)).astype(np.int32)
  return [Example(draw(length), np.ones(length, np.float32)) for length in lengths]
