"""Scoring of texts by a quality classifier, on one core."""

import base64
import time
from collections.abc import Iterator, Sequence

import numpy as np

from iquest_jax.bench import clean
from iquest_jax.data.clean import classifier
from iquest_jax.data.documents import SCORES


def results() -> Iterator[dict]:
  """MB/s of Python's library and numpy, and of documentation, for all three scores: from text to scores."""
  for step, texts in (('code', clean.sources()), ('prose', clean.prose())):
    yield scoring(step, [text for _, text in texts])


def scoring(step: str, texts: Sequence[str]) -> dict:
  """Times one pass over all texts by random weights, since no weight changes the speed.

  Returns:
    'mb_per_second' of whole texts, and 'of_excerpts', counting only the pieces of long texts that are scored.
  """
  scorer = classifier.Classifier(_random_model())
  start = time.process_time()
  for text in texts:
    scorer.scores([text])
  seconds = time.process_time() - start
  size, shown = sum(map(len, texts)) / 1e6, sum(len(classifier.excerpt(text)) for text in texts) / 1e6
  return {
      'step': step,
      'mb': round(size, 1),
      'mb_per_second': round(size / seconds, 1),
      'of_excerpts': round(shown / seconds, 1),
  }


def _random_model() -> dict:
  rng = np.random.default_rng(0)
  part = lambda: {
      'intercept': 2.5,
      'measures': rng.normal(size=classifier.MEASURES).tolist(),
      'words': base64.b64encode(rng.normal(size=classifier.BUCKETS).astype('<f2').tobytes()).decode(),
  }
  range_of_measures = [[0.0] * classifier.MEASURES, [1.0] * classifier.MEASURES]
  return {'kind': '', 'sha256': '', 'range': range_of_measures, 'scores': {name: part() for name in SCORES}}
