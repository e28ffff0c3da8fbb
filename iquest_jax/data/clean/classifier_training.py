"""Trains a quality classifier from labelled texts, and measures it on texts held out by cluster of near-duplicates.

A label is {"id", "text", "scores": {"density": 3, "education": 4, "toxicity": 0}, "kind": "code"} with whole or broken
numbers from 0 to 5; some of the scores may be missing.

ours: everything but the three scores. Ridge regression on the scale, since a label of 3 is nearer to 4 than one of 0 is;
its strength is chosen by cross-validation over clusters. The weights never see a held-out text, so the report stored with
them is about them.
"""

import base64
import dataclasses
import hashlib
import json
import math
import pathlib
import random
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from iquest_jax.data.clean import classifier, clusters, duplicates, index, minhash
from iquest_jax.data.documents import HIGHEST, LOWEST, SCORES, Drop
from iquest_jax.data.funnel import Funnel
from iquest_jax.errors import UserError

HELD_OUT = 0.2
LEAST = 40  # labelled texts
_STRENGTHS = (0.03, 0.1, 0.3, 1.0, 3.0)
_FOLDS = 4
_TOLERANCE = 1e-4  # of the solver
# A quarter of the weight of the words, so that neither outweighs the other from the start.
_MEASURES_LENGTH = 0.5


@dataclasses.dataclass(frozen=True)
class Label:
  """A labelled text; `scores` has some of SCORES."""

  id: str
  text: str
  scores: Mapping[str, float]


def read_labels(records: Iterable[tuple[str, Mapping[str, Any] | Drop]]) -> tuple[list[Label], str, Funnel]:
  """The labels among (where, record) pairs, what kind of text they are of, and what was left out.

  Raises:
    UserError: labels of two kinds of text are mixed.
  """
  labels, kinds, funnel, ids, digests = [], {}, Funnel(), set(), set()
  for where, record in records:
    label = record if isinstance(record, Drop) else _label(record, where)
    if isinstance(label, Label):
      content = minhash.exact_digest(label.text)
      if label.id in ids or content in digests:
        rule = 'label: the same id twice' if label.id in ids else 'label: the same text twice'
        label = Drop(rule, f'{where}: {label.id}')
      else:
        ids.add(label.id)
        digests.add(content)
    if isinstance(label, Drop):
      funnel.drop(label)
      continue
    funnel.keep()
    labels.append(label)
    kinds.setdefault(str(record.get('kind') or ''), where)
  if len(kinds) > 1:
    (one, first), (other, second), *_ = kinds.items()
    raise UserError(f'labels: {first} is of kind "{one}", {second} of "{other}"; train one classifier per kind')
  return labels, next(iter(kinds), ''), funnel


def _label(record: Mapping[str, Any], where: str) -> Label | Drop:
  id, text, scores = record.get('id'), record.get('text'), record.get('scores')
  if isinstance(id, bool) or not isinstance(id, (str, int)) or id == '':
    return Drop('label: no id', where)
  if not isinstance(text, str) or not text.strip():
    return Drop('label: no text', where)
  if not isinstance(scores, dict) or not scores:
    return Drop('label: no scores', where)
  if unknown := scores.keys() - set(SCORES):
    return Drop('label: unknown score', f'{where}: {min(unknown)[:40]}')
  for name, value in scores.items():
    # NaN compares false with everything.
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not LOWEST <= value <= HIGHEST:
      return Drop('label: outside the scale', f'{where}: {name} is {str(value)[:40]}, not in {LOWEST} to {HIGHEST}')
  return Label(str(id), text, {name: float(value) for name, value in scores.items()})


def train(labels: Sequence[Label], kind: str = '', seed: int = 0) -> dict[str, Any]:
  """A model for classifier.Classifier, with the report on held-out texts of each score.

  The order of the labels does not matter; the same labels and seed give the same model.

  Raises:
    UserError: there are too few labels of a score, or all are the same.
  """
  import sklearn.linear_model  # noqa: F401  its libraries must be there before their threads can be limited
  import threadpoolctl

  if not labels:
    raise UserError(f'labels: none is left; training needs at least {LEAST} of a score')
  # Sums over several threads are rounded differently.
  with threadpoolctl.threadpool_limits(1):
    return _train(labels, kind, seed)


def _train(labels: Sequence[Label], kind: str, seed: int) -> dict[str, Any]:
  import scipy.sparse

  labels = sorted(labels, key=lambda label: minhash.exact_digest(label.text))
  labels = _with_something_to_learn(labels)
  groups = near_duplicates([label.text for label in labels])
  is_held_out = split(groups, seed)
  found = [classifier.features(label.text) for label in labels]
  measures = np.array([measured for _, _, measured in found])
  seen = measures[~is_held_out]
  mean, spread = seen.mean(axis=0), seen.std(axis=0)
  scale = _MEASURES_LENGTH / np.sqrt(measures.shape[1]) / np.where(spread > 0, spread, np.inf)
  ends = np.cumsum([0, *(len(buckets) for buckets, _, _ in found)])
  words = scipy.sparse.csr_matrix(
      (np.concatenate([v for _, v, _ in found]), np.concatenate([b for b, _, _ in found]), ends),
      (len(labels), classifier.BUCKETS),
  )
  # Buckets that no text fills would cost the solver time, and their weights are zero.
  used = np.unique(words.indices)
  inputs = scipy.sparse.hstack([words[:, used], (measures - mean) * scale], format='csr')
  content = json.dumps([[label.id, label.text, label.scores] for label in labels], sort_keys=True)
  model = {
      'version': classifier.VERSION,
      'kind': kind,
      'settings': classifier.SETTINGS,
      'labels': hashlib.sha256(content.encode('utf-8', 'surrogatepass')).hexdigest(),
      'seed': seed,
      'range': [seen.min(axis=0).tolist(), seen.max(axis=0).tolist()],
      'scores': {},
  }
  for name in SCORES:
    rows = np.array([row for row, label in enumerate(labels) if name in label.scores], np.int64)
    if len(rows):
      truth = np.array([labels[row].scores[name] for row in rows])
      strength, intercept, weights = _fit(name, inputs[rows], truth, groups[rows], is_held_out[rows])
      of_words, of_measures = np.zeros(classifier.BUCKETS, '<f2'), weights[len(used) :] * scale
      of_words[used] = weights[: len(used)]
      model['scores'][name] = {
          'strength': strength,
          'intercept': intercept - float(of_measures @ mean),
          'measures': of_measures.tolist(),
          'words': base64.b64encode(of_words.tobytes()).decode(),
      }
  model['sha256'] = classifier.digest(model)
  held_out = [label for label, held in zip(labels, is_held_out, strict=True) if held]
  predicted = classifier.Classifier(model).scores([label.text for label in held_out])
  for name, part in model['scores'].items():
    rows = [row for row, label in enumerate(held_out) if name in label.scores]
    trained = [label.scores[name] for label, held in zip(labels, is_held_out) if not held and name in label.scores]
    truth = [held_out[row].scores[name] for row in rows]
    part['report'] = report(np.array(truth), predicted[name][rows], np.array(trained))
  return {**model, 'sha256': classifier.digest(model)}


def _with_something_to_learn(labels: Sequence[Label]) -> list[Label]:
  """The labels without the scores that are the same everywhere, as toxicity of code often is.

  Raises:
    UserError: a score has too few labels, or no score is left.
  """
  values = {name: [label.scores[name] for label in labels if name in label.scores] for name in SCORES}
  for name, found in values.items():
    if 0 < len(found) < LEAST:
      raise UserError(f'labels: {len(found)} of "{name}"; training needs at least {LEAST}, so label more or leave it out')
  left = {name for name, found in values.items() if len(set(found)) > 1}
  if not left:
    raise UserError('labels: every text has the same scores; there is nothing to learn, so label others')
  return [
      dataclasses.replace(label, scores={name: score for name, score in label.scores.items() if name in left})
      for label in labels
  ]


def near_duplicates(texts: Sequence[str]) -> np.ndarray:
  """Cluster of each text, int64 [N]: equal numbers for near-duplicates, as deduplication finds them."""
  numbers = np.arange(len(texts))
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    with index.IndexWriter(folder / 'index', duplicates.TEXT) as writer:
      for text in texts:
        writer.add('', minhash.exact_digest(text), 0.0, minhash.signature(text))
    duplicates.find_pairs([folder / 'index'], 0, 1, folder / 'links')
    clusters.merge([folder / 'links'], folder / 'clusters')
    found = clusters.Clusters(folder / 'clusters')
    rows, cluster = found.references.astype(np.int64), found.cluster.astype(np.int64)
    # The first text of each cluster names it.
    first = np.full(len(found.survivors), len(texts))
    np.minimum.at(first, cluster, rows)
    numbers[rows] = first[cluster]
  return numbers


def split(groups: np.ndarray, seed: int) -> np.ndarray:
  """Which texts are held out, bool [N]: whole clusters, at most HELD_OUT of all texts.

  Raises:
    UserError: no cluster is small enough.
  """
  names, counts = np.unique(groups, return_counts=True)
  order = list(range(len(names)))
  random.Random(f'{seed}:quality').shuffle(order)
  held, room = [], int(HELD_OUT * len(groups))
  for at in order:
    if counts[at] <= room:
      held.append(names[at])
      room -= counts[at]
  if not held:
    raise UserError(f'labels: {len(groups)} texts are {len(names)} clusters of near-duplicates; label texts that differ')
  return np.isin(groups, held)


def _fit(
    name: str, inputs: Any, truth: np.ndarray, groups: np.ndarray, is_held_out: np.ndarray
) -> tuple[float, float, np.ndarray]:
  """(strength that was chosen, intercept, weights float64 [columns of `inputs`]) of a score, from what is not held out."""
  from sklearn.linear_model import Ridge
  from sklearn.model_selection import GroupKFold

  ridge = lambda strength: Ridge(strength, solver='sparse_cg', tol=_TOLERANCE)
  inputs, truth, groups = inputs[~is_held_out], truth[~is_held_out], groups[~is_held_out]
  folds = min(_FOLDS, len(np.unique(groups)))
  if folds < 2 or not is_held_out.any():
    raise UserError(f'labels: those of "{name}" are of too few clusters of near-duplicates; label texts that differ')
  errors = dict.fromkeys(_STRENGTHS, 0.0)
  for rest, left_out in GroupKFold(folds).split(inputs, truth, groups):
    for strength in _STRENGTHS:
      predicted = ridge(strength).fit(inputs[rest], truth[rest]).predict(inputs[left_out])
      errors[strength] += float(((predicted - truth[left_out]) ** 2).sum())
  strength = min(_STRENGTHS, key=errors.get)
  fitted = ridge(strength).fit(inputs, truth)
  return strength, float(fitted.intercept_), fitted.coef_


def report(truth: np.ndarray, predicted: np.ndarray, trained: np.ndarray) -> dict[str, Any]:
  """How well held-out labels are predicted, beside a baseline that always gives the majority of the training labels.

  Args:
    truth, predicted: of the held-out texts, float [N].
    trained: labels of the training texts.

  Returns:
    'rank_correlation' (Spearman; 0 for the baseline), 'accuracy' of rounded scores, and by threshold, where both sides are
    held out, how labels above it are found: 'above' (their share), 'accuracy', 'balanced_accuracy' (0.5 for the
    baseline) and 'f1'; 'majority_...' are the baseline's.
  """
  from scipy import stats
  from sklearn import metrics

  is_constant = len(set(truth)) == 1 or len(set(predicted)) == 1
  correlation = 0.0 if is_constant else float(stats.spearmanr(truth, predicted).statistic)
  classes, counts = np.unique(np.rint(trained), return_counts=True)
  found = {
      'trained': len(trained),
      'held_out': len(truth),
      'rank_correlation': _rounded(correlation),
      'accuracy': _rounded(np.mean(np.rint(truth) == np.rint(predicted))),
      'majority_accuracy': _rounded(np.mean(np.rint(truth) == classes[counts.argmax()])),
      'thresholds': {},
  }
  for threshold in np.arange(LOWEST, HIGHEST) + 0.5:
    above, said = truth >= threshold, predicted >= threshold
    if above.all() or not above.any():
      continue
    always = np.full(len(truth), np.mean(trained >= threshold) > 0.5)
    found['thresholds'][f'{threshold:g}'] = {
        'above': _rounded(above.mean()),
        'accuracy': _rounded(np.mean(above == said)),
        'majority_accuracy': _rounded(np.mean(above == always)),
        'balanced_accuracy': _rounded(metrics.balanced_accuracy_score(above, said)),
        'f1': _rounded(metrics.f1_score(above, said, zero_division=0.0)),
        'majority_f1': _rounded(metrics.f1_score(above, always, zero_division=0.0)),
    }
  return found


def _rounded(value: float) -> float:
  return round(float(value), 4) if math.isfinite(value) else 0.0


def lines(model: Mapping[str, Any]) -> list[str]:
  """The report for people, the baseline in brackets."""
  said = []
  for name, part in model['scores'].items():
    about = part['report']
    said.append(
        f'{name}: {about["trained"]:,} labels for training, {about["held_out"]:,} held out; '
        f'rank correlation {about["rank_correlation"]:.3f} (always the majority: 0), '
        f'accuracy {about["accuracy"]:.3f} ({about["majority_accuracy"]:.3f})'
    )
    said += [
        f'  from {threshold} on, {at["above"]:.0%}: accuracy {at["accuracy"]:.3f} ({at["majority_accuracy"]:.3f}), '
        f'balanced {at["balanced_accuracy"]:.3f} (0.500), F1 {at["f1"]:.3f} ({at["majority_f1"]:.3f})'
        for threshold, at in about['thresholds'].items()
    ]
  return said
