"""Quality of texts by small linear classifiers: information density, educational value and toxicity, from 0 to 5.

ours: the paper names proxy classifiers for text, code and mathematics over these three, and nothing else. A score is a
linear function of hashed words and pairs of words (as of scikit-learn's HashingVectorizer: signs, logarithmic counts, unit
length) and of a few measures that words cannot show: kinds of characters, lines, repetition. A text of more than three
pieces is scored by its first, middle and last one. `classifier_training` makes the files that are read here, with numpy.
"""

import base64
import dataclasses
import functools
import hashlib
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from iquest_jax.data.clean import shingles
from iquest_jax.data.documents import HIGHEST, LOWEST, SCORES, Drop
from iquest_jax.errors import UserError, nearest

# A threshold is the most for these and the least for the others.
_HARMFUL = ('toxicity',)
BUCKETS = 1 << 18
PIECE = 16_384  # characters
VERSION = 1
# Changes of any of these need another training.
SETTINGS = {'buckets': BUCKETS, 'piece': PIECE, 'ngrams': [1, 2]}
_PUNCTUATION = np.frombuffer(b'!"#$%&\'()*+,-./:;<=>?@[\\]^_`{|}~', np.uint8)
MEASURES = len(_PUNCTUATION) + 11


class Classifier:
  """One trained classifier.

  Attributes:
    kind: what its labels are of: text, code, mathematics; '' if they did not say.
    names: the scores it gives, some of SCORES.
    digest: hash of the file.
  """

  def __init__(self, model: Mapping[str, Any]):
    """Takes a model as `classifier_training.train` returns it."""
    self.kind, self.names, self.digest = model['kind'], tuple(model['scores']), model['sha256']
    parts = [model['scores'][name] for name in self.names]
    self._intercepts = np.array([part['intercept'] for part in parts], np.float64)
    self._measures = np.array([part['measures'] for part in parts], np.float64).T
    self._range = np.array(model['range'], np.float64)
    words = [np.frombuffer(base64.b64decode(part['words']), '<f2') for part in parts]
    self._words = np.stack(words, axis=1).astype(np.float32)

  @classmethod
  def load(cls, path: str | pathlib.Path) -> 'Classifier':
    """Raises UserError if the file is missing, damaged, or of another version."""
    again = 'train it again with `python -m launch.prepare train-quality`'
    try:
      model = json.loads(pathlib.Path(path).read_text(encoding='utf-8'))
      if not isinstance(model, dict) or digest(model) != model['sha256']:
        raise ValueError
    except FileNotFoundError:
      raise UserError(f'quality: {path} is missing; `python -m launch.prepare train-quality` writes it') from None
    except OSError as error:
      raise UserError(f'quality: {path} cannot be read: {error.strerror or error}') from None
    except (ValueError, KeyError, RecursionError):
      raise UserError(f'quality: {path} is not a classifier, or is damaged; {again}') from None
    if (model.get('version'), model.get('settings')) != (VERSION, SETTINGS):
      raise UserError(f'quality: {path} is a classifier of another version of this program; {again}')
    return cls(model)

  def scores(self, texts: Sequence[str]) -> dict[str, np.ndarray]:
    """Each score of each text: {name: float64 [N]}, on the scale of the labels."""
    found = np.empty((len(texts), len(self.names)))
    for row, text in enumerate(texts):
      buckets, values, measured = features(text)
      # Beyond what training has seen, a line would lead anywhere.
      measured = measured.clip(*self._range)
      # A product by BLAS may round differently with another number of threads.
      words = np.einsum('n,ns->s', values, self._words[buckets], dtype=np.float64)
      found[row] = self._intercepts + words + np.einsum('m,ms->s', measured, self._measures)
    found = found.clip(LOWEST, HIGHEST)
    return {name: found[:, at] for at, name in enumerate(self.names)}


@dataclasses.dataclass(frozen=True)
class Quality:
  """A classifier and what a document has to reach.

  Attributes:
    model: path of the classifier's file.
    digest: hash of the classifier, so that what is made with another one differs.
    thresholds: ((score, the least or, of toxicity, the most), ...).
  """

  model: str
  digest: str
  thresholds: tuple[tuple[str, float], ...]


def check(text: str, quality: Quality) -> Drop | None:
  """Why a text misses a threshold, None if it misses none.

  Raises:
    UserError: the classifier's file was lost or replaced since `parse`.
  """
  scores = _opened(quality.model, quality.digest).scores([text])
  for name, threshold in quality.thresholds:
    score = scores[name][0]
    if name in _HARMFUL and score > threshold:
      return Drop(f'quality: {name} above the threshold', f'{score:.2f}, at most {threshold:g}')
    if name not in _HARMFUL and score < threshold:
      return Drop(f'quality: {name} below the threshold', f'{score:.2f}, at least {threshold:g}')
  return None


def parse(where: str, table: Mapping[str, Any], folder: pathlib.Path) -> Quality:
  """Reads the table `quality` of an input of sources.toml: `model`, and a threshold per score.

    [input.quality]
    model = "quality/code.json"   # relative to the file
    density = 2.0                 # at least
    education = 2.5
    toxicity = 1.0                # at most

  Args:
    where: what errors begin with, as in '/a/sources.toml, input 1, [quality]'.

  Raises:
    UserError: a key does not exist, a threshold is outside the scale, or the classifier is missing, damaged or has no such
      score.
  """
  for name in table:
    if name not in ('model', *SCORES):
      raise UserError(f'--sources: {where}: "{name}" does not exist{nearest(name, ("model", *SCORES))}')
  model = table.get('model')
  if not isinstance(model, str) or not model:
    raise UserError(f'--sources: {where}: "model" must name the file of a classifier, as in model = "quality/code.json"')
  thresholds = tuple((name, table[name]) for name in SCORES if name in table)
  if not thresholds:
    raise UserError(f'--sources: {where}: has no threshold; give at least one of {", ".join(SCORES)}')
  for name, value in thresholds:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not LOWEST <= value <= HIGHEST:
      raise UserError(f'--sources: {where}: {name} must be a number in [{LOWEST}, {HIGHEST}], got {value!r}')
  path = folder / model
  classifier = Classifier.load(path)
  for name, _ in thresholds:
    if name not in classifier.names:
      raise UserError(
          f'--sources: {where}: {path} has no score "{name}"; it was trained on labels of {", ".join(classifier.names)}'
      )
  return Quality(str(path), classifier.digest, tuple((name, float(value)) for name, value in thresholds))


@functools.lru_cache(maxsize=8)
def _opened(path: str, expected: str) -> Classifier:
  classifier = Classifier.load(path)
  if classifier.digest != expected:
    raise UserError(f'quality: {path} was replaced while it was in use; rerun the same command')
  return classifier


def digest(model: Mapping[str, Any]) -> str:
  """Hash of everything in a model but the hash itself."""
  content = {name: value for name, value in model.items() if name != 'sha256'}
  return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def features(text: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """What a text is scored by.

  Returns:
    buckets int64 [n], distinct; their values float32 [n], of unit length; measures float64 [MEASURES].
  """
  shown = excerpt(text)
  words = shingles.words(shown)
  pairs = shingles.ngrams(words, 2)
  buckets, distinct_words = _hashed(words)
  pair_buckets, distinct_pairs = _hashed(pairs)
  # The lowest bit is the sign, which lets collisions cancel.
  keys, counts = np.unique(np.concatenate([buckets, pair_buckets]), return_counts=True)
  values = (1 + np.log(counts)) * np.where(keys & 1, 1.0, -1.0)
  keys >>= 1
  if len(keys) and not (np.diff(keys) > 0).all():
    keys, at = np.unique(keys, return_inverse=True)
    values = np.bincount(at, values)
  values = (values / np.sqrt((values * values).sum() or 1)).astype(np.float32)
  return keys, values, _measured(shown, len(text), len(words), distinct_words, distinct_pairs)


def excerpt(text: str) -> str:
  """A text, or the first, the middle and the last piece of a longer one."""
  if len(text) <= 3 * PIECE:
    return text
  middle = (len(text) - PIECE) // 2
  return '\n'.join([text[:PIECE], text[middle : middle + PIECE], text[-PIECE:]])


def _hashed(grams: np.ndarray) -> tuple[np.ndarray, int]:
  """Bucket and sign of each gram in one number, int64 [n], and how many of them differ."""
  numbers = (grams >> np.uint64(64 - BUCKETS.bit_length())).astype(np.int64)
  return numbers, len(np.unique(numbers))


def _measured(text: str, length: int, words: int, distinct_words: int, distinct_pairs: int) -> np.ndarray:
  """Shares of characters by kind, and logarithms of lengths."""
  counts = np.bincount(np.frombuffer(text.encode('utf-8', 'replace'), np.uint8), minlength=256)
  size, lines = max(1, counts.sum()), counts[10] + 1
  kinds = (counts[65:91].sum(), counts[97:123].sum(), counts[48:58].sum(), counts[32], counts[9], counts[128:].sum())
  return np.concatenate([
      counts[_PUNCTUATION] / size,
      np.array(kinds) / size,
      [np.log1p(length), np.log1p(size / lines), words / size],
      [distinct_words / max(1, words), distinct_pairs / max(1, words - 1)],
  ])  # fmt: skip
