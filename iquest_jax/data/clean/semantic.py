"""Duplicates and contamination by meaning: texts whose embeddings point in nearly the same direction.

Duplicates run through the files of `duplicates`, whose keys then say on which sides of random hyperplanes a text lies
(Charikar 2002). An index of meanings with the same documents in the same order has the same references as one of texts, so
`clusters.merge` takes the links of both together.
"""

import functools
import pathlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from iquest_jax.data.clean import shingles
from iquest_jax.data.clean.decontaminate import Match
from iquest_jax.data.clean.embedding import Embed, unit_vectors
from iquest_jax.data.clean.index import IndexWriter, Measure, describe
from iquest_jax.errors import UserError

# ours: two texts at angle a share a key with probability 1 - (1 - (1 - a / pi)^20)^48: 0.998 at a cosine of 0.95, 0.89 at
# 0.9, 0.014 at 0.5.
_BANDS, _PLANES = 48, 20
_SEED = 20
RULE = 'embedding'
_DOCUMENTS = 256  # embedded at a time
_PASSAGE = 2000  # characters; passages overlap by half, so a problem of up to half as many is whole in one


def measure(dimension: int, linked_from: float = 0.95) -> Measure:
  """The measure for `index.IndexWriter` and `duplicates.find_pairs`: cosines of `vectors` of this dimension.

  Args:
    linked_from: cosine; what it means differs from model to model.
  """
  keys = functools.partial(_keys, planes=_planes(dimension))
  return Measure(np.dtype((np.float16, (dimension,))), keys, _cosines, linked_from)


def _planes(dimension: int) -> np.ndarray:
  return np.random.default_rng(_SEED).standard_normal((dimension, _BANDS * _PLANES), np.float32)


def _keys(vectors: np.ndarray, planes: np.ndarray) -> np.ndarray:
  keys = np.empty((len(vectors), _BANDS), np.uint64)
  for start in range(0, len(vectors), 4096):
    bits = vectors[start : start + 4096].astype(np.float32) @ planes > 0
    bits = bits.reshape(-1, _BANDS, _PLANES) @ (1 << np.arange(_PLANES, dtype=np.int64))
    # Bands never share a key.
    keys[start : start + 4096] = shingles.mix((bits | np.arange(_BANDS) << 32).astype(np.uint64))
  return keys


def _cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
  return np.einsum('...d,...d->...', a.astype(np.float32), b.astype(np.float32))


def measure_of(folders: Sequence[pathlib.Path], linked_from: float = 0.95) -> Measure:
  """The measure of indices that `Index` wrote; raises UserError if two models wrote them."""
  sizes = {about['size'] for about in map(describe, folders) if about['documents']}
  if len(sizes) > 1:
    raise UserError(f'embedding: shards have vectors of {min(sizes)} and of {max(sizes)} entries; embed all with one model')
  return measure(*(sizes or {1}), linked_from)


class Index:
  """Embeds documents in batches and writes their index, as `IndexWriter` does; a context manager."""

  def __init__(self, folder: pathlib.Path, embed: Embed):
    self._folder, self._embed = folder, embed
    self._waiting: list[tuple[str, bytes, float, str]] = []
    self._writer: IndexWriter | None = None

  def add(self, name: str, digest: bytes, quality: float, text: str) -> None:
    """Adds the next document; see `IndexWriter.add`. Raises UserError if the embedding fails."""
    self._waiting.append((name, digest, quality, text))
    if len(self._waiting) == _DOCUMENTS:
      self._flush()

  def __enter__(self):
    return self

  def __exit__(self, kind, *failure):
    if kind is None:
      self._flush()
    if self._writer:
      self._writer.__exit__(kind, *failure)

  def _flush(self) -> None:
    found = vectors(self._embed, [text for *_, text in self._waiting])
    if self._writer is None:
      # The first vector says how many entries they have.
      size = next((len(vector) for vector in found if vector is not None), 1)
      self._writer = IndexWriter(self._folder, measure(size)).__enter__()
    for (name, digest, quality, _), vector in zip(self._waiting, found):
      self._writer.add(name, digest, quality, vector)
    self._waiting.clear()


def vectors(embed: Embed, texts: Sequence[str]) -> list[np.ndarray | None]:
  """For each text the mean direction of its passages, float16 [D], for an index of duplicates; None for a blank one."""
  parts = [(row, part) for row, text in enumerate(texts) for part in passages(text)]
  embedded, rows = _embedded(embed, [part for _, part in parts]), np.array([row for row, _ in parts], np.int64)
  found: list[np.ndarray | None] = [None] * len(texts)
  for row in np.unique(rows).tolist():
    mean = embedded[rows == row].sum(axis=0)
    found[row] = (mean / (np.linalg.norm(mean) or 1)).astype(np.float16)
  return found


class EmbeddedProblems:
  """Embeddings of evaluation sets; finds documents with a passage that means the same as a text of a problem."""

  def __init__(self, embed: Embed, suites: Mapping[str, Iterable[tuple[str, str]]], found_from: float = 0.9):
    """Takes suites as `EvalIndex.build` does; `found_from` is a cosine, whose meaning differs from model to model."""
    self._embed, self._found_from = embed, found_from
    named = [(f'{suite}/{name}', text) for suite, pairs in suites.items() for name, text in pairs]
    parts = [(name, part) for name, text in named for part in passages(text)]
    self._names = [name for name, _ in parts]
    self._vectors = _embedded(embed, [part for _, part in parts])

  def match(self, texts: Sequence[str]) -> list[Match | None]:
    """For each text the problem that a passage of it is closest to, or None."""
    parts = [(row, part) for row, text in enumerate(texts) for part in passages(text)]
    best: list[tuple[float, int, str] | None] = [None] * len(texts)
    if parts and self._names:
      vectors = _embedded(self._embed, [part for _, part in parts])
      for start in range(0, len(parts), 256):
        cosines = vectors[start : start + 256] @ self._vectors.T
        for (row, part), cosine, problem in zip(parts[start:], cosines.max(axis=1), cosines.argmax(axis=1)):
          if cosine >= self._found_from and (best[row] is None or cosine > best[row][0]):
            best[row] = (float(cosine), int(problem), part)
    return [one and self._match(*one) for one in best]

  def _match(self, cosine: float, problem: int, part: str) -> Match:
    return Match(self._names[problem], RULE, f'cosine {cosine:.3f} of "{" ".join(part.split())[:200]}"')


def _embedded(embed: Embed, texts: list[str]) -> np.ndarray:
  vectors = list(unit_vectors(embed, texts))
  return np.concatenate(vectors).astype(np.float32) if vectors else np.zeros((0, 0), np.float32)


def passages(text: str) -> list[str]:
  """A text in overlapping passages, none of them blank."""
  starts = range(0, max(1, len(text) - _PASSAGE // 2), _PASSAGE // 2)
  return [part for start in starts if (part := text[start : start + _PASSAGE]).strip()]
