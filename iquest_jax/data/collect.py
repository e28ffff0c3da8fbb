"""The first task of a corpus: reads one input shard, cleans its documents, and notes what deduplication needs of each.

Of clean documents, those below the thresholds of the input's classifier are dropped; then others are made of them, if the
input says so, and what carries tests is executed. A task writes, per kind of document, `<kind>.jsonl.zst` and an index with
one record per document: its digest, its MinHash signature and its quality. Its result counts, for every step, what came in,
what was dropped by which rule, and what was kept.
"""

import collections
import contextlib
import dataclasses
import functools
import json
import pathlib
from collections.abc import Sequence
from typing import Any

from iquest_jax.data import evaluation, languages, makers, produced, split
from iquest_jax.data.build import transitions
from iquest_jax.data.clean import (
  classifier,
  documents,
  duplicates,
  encoding,
  index,
  licence,
  minhash,
  quality,
  semantic,
)
from iquest_jax.data.documents import Document, Drop, File, Repository, texts
from iquest_jax.data.funnel import Funnel
from iquest_jax.data.inputs import Input, Semantic
from iquest_jax.data.read import chats, commits, git, jsonl, problems, repositories, trajectories
from iquest_jax.data.shards import ShardWriter
from iquest_jax.run_folder import write_whole

# Raise it when reading or cleaning changes, so that documents are collected again.
VERSION = 2
STEPS = ('read', 'clean', 'quality', 'make', 'verify', 'decontaminate')
RESULT, PLACES = 'result.json', 'places.json'
_EVIDENCE = 20  # contaminated documents that a task reports with their evidence


@dataclasses.dataclass(frozen=True)
class Settings:
  """What a task needs beside its input, and its result depends on.

  Attributes:
    seed: of what is made and generated.
    held_out: documents to hold out per input and kind, so places of so many are reported.
    licences: allowed ones, SPDX.
    evaluation: files of texts that must not occur.
    index: their index; see evaluation.py.
    semantic: how texts are embedded, if they are.
  """

  seed: int
  held_out: int
  licences: tuple[str, ...]
  evaluation: tuple[str, ...]
  index: str
  semantic: Semantic | None


def collect(given: Input, paths: Sequence[tuple[str, str]], settings: Settings, folder: str) -> dict[str, Any]:
  """Reads and cleans the documents of some files or repositories, (name, path) each, of an input.

  Args:
    paths: of an input that is generated, the numbers of samples: (first, last + 1).

  Returns:
    {'documents', 'kinds': {kind: counts}, 'funnels': {step: funnel}, 'histories': {repository: key}, 'contaminated':
    [evidence]}; the counts of a kind are 'documents', 'characters', 'languages' and 'checks'. The file PLACES has, by kind
    of document and of unit, what split.smallest returns.

  Raises:
    UserError: an input cannot be read at all.
    OSError: the disk is full or not writable.
  """
  task, how = _Collection(given, settings, pathlib.Path(folder)), (settings.seed, given.thinking)
  with task:
    for name, path in paths:
      if given.read == 'git':
        task.repository(name, path)
      elif given.read == 'generated':
        for document in makers.GENERATORS[given.generator](range(int(name), int(path)), *how):
          task.add(document)
      else:
        believed = produced.are_checks_believed(path)
        for document in task.reader(path):
          task.add(document if believed else _without_checks(document))
  return task.result()


def _without_checks(document: Document | Drop) -> Document | Drop:
  """A document of a file that anybody may have written."""
  return dataclasses.replace(document, checks=()) if getattr(document, 'checks', ()) else document


class _Collection:
  """The outputs and counts of one task."""

  def __init__(self, given: Input, settings: Settings, folder: pathlib.Path):
    self._input, self._settings, self._folder = given, settings, folder
    self._evaluation = evaluation.opened(settings.index, settings.evaluation, settings.semantic)
    self._outputs: dict[str, _Output] = {}
    self._funnels = {step: Funnel() for step in STEPS}
    self._histories: dict[str, str] = {}
    # The files of a repository tell which of them are duplicates of others.
    self._kinds = (*given.reads, File) if given.read == 'git' and Repository in given.reads else given.reads
    self._how = settings.seed, given.thinking
    self._contaminated: list[dict[str, str]] = []
    self._closing = contextlib.ExitStack()
    self._sandboxes = self._closing.enter_context(makers.Sandboxes())
    self.reader = {
        'documents': jsonl.read_documents,
        'chats': chats.read_chats,
        'trajectories': functools.partial(trajectories.read_trajectories, seen=self._funnels['read'].seen),
        'problems': problems.read_problems,
    }.get(given.read)

  def __enter__(self):
    return self

  def __exit__(self, *failure):
    self._closing.__exit__(*failure)

  def repository(self, name: str, path: str) -> None:
    """Adds what a repository holds of the kinds that the input's sources are made of."""
    try:
      with git.Store(path, name) as store:
        self._histories[name] = commits.history_key(store)
        spdx = licence.licence_of(repositories.named_files(store, licence.says_licence))
        if not licence.is_allowed(spdx, self._settings.licences):
          self._funnels['read'].drop(Drop('licence: not allowed', f'{name}: {spdx}'))
          return
    except git.GitError as error:
      self._funnels['read'].drop(Drop(error.rule, str(error)))
      return
    kept: dict[str, str] = {}
    changes = functools.partial(transitions.transitions, by=self._input.life)
    for document in repositories.read_repository(path, self._kinds, name, encoding.decode, changes):
      if isinstance(document, File):
        if (file := self.add(dataclasses.replace(document, licence=spdx))) is not None:
          kept[file.path] = file.text
      elif isinstance(document, Repository):
        # Of the files that come before it, those that were kept.
        files = tuple((path, kept[path]) for path, _ in document.files if path in kept)
        whole = dataclasses.replace(document, files=files, licence=spdx)
        self.add(whole if files else Drop('repository: no file is left'), is_clean=True)
        kept.clear()
      else:
        self.add(document)

  def add(self, document: Document | Drop, is_clean: bool = False) -> Document | None:
    """Cleans a document and writes it, or what is made of it; returns what was written, None if it was dropped or used."""
    if not isinstance(document, (Drop, *self._kinds)):
      document = Drop('read: kind not used by this input', type(document).__name__.lower())
    if (document := self._passed('read', document)) is None:
      return None
    if is_clean:
      document = self._passed('clean', document)
    else:
      seen = self._funnels['clean'].seen
      document = self._passed('clean', documents.clean(document, self._input.filter, self._settings.licences, seen))
    if document is None:
      return None
    if self._input.quality:
      drop = classifier.check('\n'.join(texts(document)), self._input.quality)
      if self._passed('quality', drop or document) is None:
        return None
    if not self._input.make:
      return self._write(document)
    self._funnels['make'].seen['documents that others were made of'] += 1
    for made in makers.MAKERS[self._input.make].make(document, self._sandboxes, *self._how):
      if (made := self._passed('make', made)) is not None:
        self._write(made)
    return None

  def _passed(self, step: str, document: Document | Drop) -> Document | None:
    """Counts what became of a document in a step."""
    if isinstance(document, Drop):
      self._funnels[step].drop(document)
      return None
    self._funnels[step].keep()
    return document

  def _write(self, document: Document) -> Document | None:
    """Writes a document that passes its tests and holds no problem of an evaluation set."""
    if makers.must_pass(document):
      document = self._passed('verify', makers.verified(document, self._sandboxes))
    if document is None:
      return None
    found = self._evaluation.match('\n'.join(texts(document)))
    if found and len(self._contaminated) < _EVIDENCE:
      self._contaminated.append({'document': document.id, 'problem': found.problem, 'evidence': found.evidence})
    if self._passed('decontaminate', found.drop() if found else document) is None:
      return None
    kind = type(document).__name__.lower()
    if kind not in self._outputs:
      output = _Output(self._folder, kind, self._input.near, self._settings.semantic)
      self._outputs[kind] = self._closing.enter_context(output)
    self._outputs[kind].write(document, self._histories)
    return document

  def result(self) -> dict[str, Any]:
    for funnel in self._funnels.values():
      funnel.check()
    places = {kind: output.places(self._settings.held_out) for kind, output in sorted(self._outputs.items())}
    write_whole(self._folder / PLACES, json.dumps(places))
    return {
        'documents': sum(output.documents for output in self._outputs.values()),
        'kinds': {kind: output.counts() for kind, output in sorted(self._outputs.items())},
        'funnels': {step: funnel.to_json() for step, funnel in self._funnels.items() if funnel.read},
        'histories': self._histories,
        'contaminated': self._contaminated,
    }


class _Output:
  """The documents of one kind, their index, and their counts."""

  def __init__(self, folder: pathlib.Path, kind: str, near: bool, meaning: Semantic | None):
    """Opens the files; without `near`, only exact copies of a document are duplicates."""
    self._near, self._closing = near, contextlib.ExitStack()
    self._writer = self._closing.enter_context(ShardWriter(folder / f'{kind}.jsonl.zst'))
    self._index = self._closing.enter_context(index.IndexWriter(folder / f'{kind}.index', duplicates.TEXT))
    self._meanings = None
    if meaning:
      embed = evaluation.endpoint(meaning)
      self._meanings = self._closing.enter_context(semantic.Index(folder / f'{kind}.meanings', embed))
    self.documents = self._characters = 0
    self._places: dict[str, dict[float, int]] = {'repository': {}, 'document': {}}
    self._languages: dict[str, int] = {}
    self._checks = collections.Counter()

  def write(self, document: Document, histories: dict[str, str]) -> None:
    parts = texts(document)
    characters = sum(map(len, parts))
    self._writer.write(document)
    text = '\n'.join(parts)
    score = quality.quality(document.path if isinstance(document, File) else '', text)
    vector = minhash.signature(text) if self._near else None
    digest = minhash.exact_digest(text)
    self._index.add(document.id, digest, score, vector)
    if self._meanings:
      self._meanings.add(document.id, digest, score, text)
    self.documents += 1
    self._characters += characters
    kind, place = split.unit(document, histories)
    self._places[kind][place] = self._places[kind].get(place, 0) + 1
    self._checks.update(getattr(document, 'checks', ()))
    if isinstance(document, File):
      language = languages.language_of(document.path) or 'other'
      self._languages[language] = self._languages.get(language, 0) + characters

  def counts(self) -> dict[str, Any]:
    counts = {'languages': self._languages, 'checks': dict(self._checks)}
    return {'documents': self.documents, 'characters': self._characters, **counts}

  def places(self, held_out: int) -> dict[str, list[tuple[float, int]]]:
    return {unit: split.smallest(places, held_out) for unit, places in self._places.items()}

  def __enter__(self):
    return self

  def __exit__(self, *failure):
    self._closing.__exit__(*failure)
