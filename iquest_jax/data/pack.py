"""The task of a stage: one shard of documents to one shard of packed rows. Imports neither TensorFlow nor jax."""

import collections
import dataclasses
import pathlib
from collections.abc import Iterator
from typing import Any

from iquest_jax.data import languages, sources, split
from iquest_jax.data.documents import Document, Drop, Fact, File, Repository
from iquest_jax.data.read import jsonl
from iquest_jax.data.rows import packing, write
from iquest_jax.text.example import Example
from iquest_jax.text.tokenizer import Tokenizer

# Examples of a shard that are kept to be read by people, and characters of each.
_SAMPLES, _SAMPLE_CHARACTERS = 10, 2000


@dataclasses.dataclass(frozen=True)
class Packing:
  """What the rows of a source depend on beside its documents and the tokenizer.

  Attributes:
    buckets: the documents the stage may see; see data/split.py.
  """

  stage: str
  source: str
  buckets: tuple[float, float]
  rendering: sources.Rendering

  context = property(lambda self: self.rendering.context)


def pack_shard(how: Packing, is_held_out: bool, documents: str, tokenizer: str, target: str) -> dict[str, Any]:
  """Formats, tokenises and packs the documents of a shard.

  Args:
    is_held_out: whether every document gives at most one row, so that a few rows are not all pieces of one document.
    documents, tokenizer, target: paths; the last is the ArrayRecord file.

  Returns:
    What write.write_shard returns, with {'examples', 'drops', 'languages': {language: tokens}, 'checks': {check: documents
    that passed it}, 'samples'}.

  Raises:
    UserError: the tokenizer is missing.
    OSError: the disk is full or not writable.
  """
  counts, tokens_by_language, samples = packing.Counts(), collections.Counter(), _Samples()
  checks = collections.Counter()
  encoder = Tokenizer.load(tokenizer)
  source = sources.get(how.source)
  whole = source.whole

  def examples() -> Iterator[Example]:
    for document in split.in_buckets(jsonl.read_shard(pathlib.Path(documents)), how.buckets):
      if not source.has(document):
        continue
      rendered = sources.render(how.source, document, encoder, how.rendering)
      if isinstance(rendered, Drop):
        counts.drops[rendered.rule] += 1
        continue
      for number, example in enumerate(rendered[:1] if is_held_out else rendered):
        if is_held_out and not whole:
          example = example.head(how.context)
        if not whole or len(example.tokens) <= how.context:
          tokens_by_language[_language(document)] += len(example.tokens)
          checks.update(getattr(document, 'checks', ()))
          samples.offer(f'{document.id}:{number}', example)
        yield example

  rows = packing.pack(examples(), how.context, whole, counts)
  written = write.write_shard(pathlib.Path(target), rows, how.context)
  return {
      **written,
      'examples': counts.examples,
      'drops': dict(counts.drops),
      'languages': dict(tokens_by_language),
      'checks': dict(checks),
      'samples': samples.texts(encoder),
  }


def _language(document: Document) -> str:
  """The language of a file, or of the largest file of a repository; 'other' for chats and changes."""
  match document:
    case File():
      path, text = document.path, document.text
    case Fact():
      path, text = document.path, ''
    case Repository():
      path, text = max(document.files, key=lambda file: len(file[1]))
    case _:
      return 'other'
  return languages.language_of(path, text) or 'other'


class _Samples:
  """A few examples, chosen by the hash of their documents' ids, so that they do not depend on the order."""

  def __init__(self):
    self._chosen: list[tuple[float, Example]] = []

  def offer(self, id: str, example: Example) -> None:
    place = split.unit_hash('sample', id)
    if len(self._chosen) < _SAMPLES or place < self._chosen[-1][0]:
      self._chosen = sorted([*self._chosen, (place, example)], key=lambda one: one[0])[:_SAMPLES]

  def texts(self, tokenizer: Tokenizer) -> list[str]:
    return [tokenizer.decode(example.tokens[:_SAMPLE_CHARACTERS])[:_SAMPLE_CHARACTERS] for _, example in self._chosen]
