"""Evaluation sets that must not occur in training: read, indexed once, and asked by every task."""

import functools
import os
import pathlib
from collections.abc import Sequence

from iquest_jax.data.clean import decontaminate, semantic
from iquest_jax.data.clean.embedding import EndpointEmbed
from iquest_jax.data.inputs import Semantic
from iquest_jax.data.read import jsonl

# Fields that name a problem.
_NAMES = ('task_id', 'question_id', 'id', 'name')

Match = decontaminate.Match


def suites(paths: Sequence[str]) -> dict[str, list[tuple[str, str]]]:
  """(problem, text) pairs by file: the strings of each line of JSONL, whatever its fields are called.

  Raises:
    UserError: a file cannot be read, or a line is not an object.
  """
  found: dict[str, list[tuple[str, str]]] = {}
  for path in paths:
    pairs = found.setdefault(pathlib.Path(path).name.partition('.')[0], [])
    for number, record in enumerate(jsonl.read_objects(path)):
      name = next((str(record[field]) for field in _NAMES if field in record), str(number))
      pairs += [(name, text) for text in record.values() if isinstance(text, str)]
  return found


def save(paths: Sequence[str], target: pathlib.Path) -> None:
  """Writes the index of some files atomically, unless it exists."""
  if not target.exists():
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix('.partial')
    decontaminate.EvalIndex.build(suites(paths)).save(partial)
    os.replace(partial, target)


class Evaluation:
  """Says whether a document holds a problem.

  Args:
    index: file that `save` wrote.
    paths: the evaluation sets, for their embeddings.
    meaning: how texts are embedded; None to compare words alone.
  """

  def __init__(self, index: str, paths: tuple[str, ...], meaning: Semantic | None):
    self._index = decontaminate.EvalIndex.load(pathlib.Path(index))
    self._embedded = None
    if meaning and paths:
      self._embedded = semantic.EmbeddedProblems(endpoint(meaning), suites(paths), meaning.contamination)

  def match(self, text: str) -> Match | None:
    found = self._index.match(text)
    if found is None and self._embedded:
      (found,) = self._embedded.match([text])
    return found


# A process runs many tasks.
opened = functools.lru_cache(maxsize=1)(Evaluation)


def endpoint(meaning: Semantic) -> EndpointEmbed:
  return EndpointEmbed(meaning.endpoint, meaning.model, meaning.key_env)
