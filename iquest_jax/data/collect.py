"""The first task of a corpus: reads one input shard, cleans its documents, and notes what deduplication needs of each.

A task writes, per kind of document, `<kind>.jsonl.zst` and an index with one record per document: its digest, its MinHash
signature and its quality. Its result counts what was read, dropped by which rule, and kept.
"""

import collections
import contextlib
import dataclasses
import functools
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from iquest_jax.data import evaluation, languages, split
from iquest_jax.data.build import transitions
from iquest_jax.data.clean import checks, duplicates, encoding, index, licence, minhash, quality, secrets, semantic
from iquest_jax.data.documents import (
    Commit,
    Conversation,
    Document,
    Drop,
    File,
    Problem,
    Repository,
    Transition,
    texts,
)
from iquest_jax.data.funnel import Funnel
from iquest_jax.data.inputs import Input, Semantic
from iquest_jax.data.read import chats, commits, git, jsonl, problems, repositories
from iquest_jax.data.shards import ShardWriter
from iquest_jax.run_folder import write_whole

# Raise it when reading or cleaning changes, so that documents are collected again.
VERSION = 1
RESULT, PLACES = 'result.json', 'places.json'
_EVIDENCE = 20  # contaminated documents that a task reports with their evidence


@dataclasses.dataclass(frozen=True)
class Settings:
  """What a task needs beside its input, and its result depends on.

  Attributes:
    held_out: documents to hold out per input and kind, so places of so many are reported.
    licences: allowed ones, SPDX.
    evaluation: files of texts that must not occur.
    index: their index; see evaluation.py.
    semantic: how texts are embedded, if they are.
  """

  held_out: int
  licences: tuple[str, ...]
  evaluation: tuple[str, ...]
  index: str
  semantic: Semantic | None


def collect(given: Input, paths: Sequence[tuple[str, str]], settings: Settings, folder: str) -> dict[str, Any]:
  """Reads and cleans the documents of some files or repositories, (name, path) each, of an input.

  Returns:
    {'documents', 'kinds': {kind: counts}, 'funnels': {step: funnel}, 'histories': {repository: key}, 'contaminated':
    [evidence]}; the counts of a kind are 'documents', 'characters' and 'languages'. The file PLACES has, by kind of
    document and of unit, what split.smallest returns.

  Raises:
    UserError: an input cannot be read at all.
    OSError: the disk is full or not writable.
  """
  task = _Collection(given, settings, pathlib.Path(folder))
  with task:
    for name, path in paths:
      if given.read == 'git':
        task.repository(name, path)
      else:
        reader = {'documents': jsonl.read_documents, 'chats': chats.read_chats, 'problems': problems.read_problems}
        for document in reader[given.read](path):
          task.add(document)
  return task.result()


class _Collection:
  """The outputs and counts of one task."""

  def __init__(self, given: Input, settings: Settings, folder: pathlib.Path):
    self._input, self._settings, self._folder = given, settings, folder
    self._evaluation = evaluation.opened(settings.index, settings.evaluation, settings.semantic)
    self._outputs: dict[str, _Output] = {}
    self._funnels = {'read': Funnel(), 'clean': Funnel(), 'decontaminate': Funnel()}
    self._histories: dict[str, str] = {}
    # The files of a repository tell which of them are duplicates of others.
    self._kinds = (*given.kinds, File) if given.read == 'git' and Repository in given.kinds else given.kinds
    self._contaminated: list[dict[str, str]] = []
    self._closing = contextlib.ExitStack()

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
    """Cleans a document and writes it; returns what was written, None if it was dropped."""
    if not isinstance(document, (Drop, *self._kinds)):
      document = Drop('read: kind not used by this input', type(document).__name__.lower())
    if isinstance(document, Drop):
      self._funnels['read'].drop(document)
      return None
    self._funnels['read'].keep()
    if is_clean:
      self._funnels['clean'].keep()
    else:
      document = clean(document, self._input.filter, self._settings.licences, self._funnels['clean'].seen)
      if isinstance(document, Drop):
        self._funnels['clean'].drop(document)
        return None
      self._funnels['clean'].keep()
    if found := self._evaluation.match('\n'.join(texts(document))):
      self._funnels['decontaminate'].drop(found.drop())
      if len(self._contaminated) < _EVIDENCE:
        self._contaminated.append({'document': document.id, 'problem': found.problem, 'evidence': found.evidence})
      return None
    self._funnels['decontaminate'].keep()
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
        'funnels': {step: funnel.to_json() for step, funnel in self._funnels.items()},
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
    if isinstance(document, File):
      language = languages.language_of(document.path) or 'other'
      self._languages[language] = self._languages.get(language, 0) + characters

  def counts(self) -> dict[str, Any]:
    return {'documents': self.documents, 'characters': self._characters, 'languages': self._languages}

  def places(self, held_out: int) -> dict[str, list[tuple[float, int]]]:
    return {unit: split.smallest(places, held_out) for unit, places in self._places.items()}

  def __enter__(self):
    return self

  def __exit__(self, *failure):
    self._closing.__exit__(*failure)


def clean(
    document: Document, rules: bool, licences: Sequence[str], seen: collections.Counter
) -> Document | Drop:
  """A document with its texts repaired, or why it is left out.

  Args:
    rules: whether the rules on quality apply, beside the repair of encoding and secrets.
    licences: allowed ones.
    seen: counts what was changed, and files dropped within documents.
  """
  checked = lambda path, text, table: checks.clean(path, text, table, seen)
  match document:
    case File():
      if drop := licence.check(document, licences):
        return drop
      text = checked(document.path, document.text, checks.of_file(document.path) if rules else checks.CHAT)
      return text if isinstance(text, Drop) else dataclasses.replace(document, text=text)
    case Repository():
      if drop := licence.check(document, licences):
        return drop
      table = lambda path: checks.of_file(path) if rules else checks.CHAT
      licensed = ((path, licence.check_header(path, text, licences)) for path, text in document.files)
      repaired = [(path, text if isinstance(text, Drop) else checked(path, text, table(path))) for path, text in licensed]
      files = tuple((path, text) for path, text in repaired if not isinstance(text, Drop))
      seen['files of repositories, dropped'] += len(document.files) - len(files)
      return dataclasses.replace(document, files=files) if files else Drop('repository: no file is left')
    case Commit():
      return _fields(document, {'message': checks.CHAT, 'patch': checks.PATCH}, seen)
    case Transition():
      return _transition(_fields(document, {'message': checks.CHAT, 'patch': checks.PATCH}, seen), seen)
    case Problem():
      return _fields(document, {'statement': checks.CHAT, 'solution': checks.CHAT}, seen)
    case Conversation():
      return _conversation(document, seen)
  raise TypeError(type(document))


def _fields(document: Document, tables: Mapping[str, Sequence], seen: collections.Counter) -> Document | Drop:
  """A document with some of its texts checked, each by a table of its own."""
  changes = {}
  for name, table in tables.items():
    if text := getattr(document, name):
      changes[name] = checks.clean('', text, table, seen)
      if isinstance(changes[name], Drop):
        return changes[name]
  return dataclasses.replace(document, **changes)


def _transition(document: Transition | Drop, seen: collections.Counter) -> Transition | Drop:
  """Its files, cleaned as the patch was, so that the patch still applies to them."""
  if isinstance(document, Drop):
    return document
  parts = {}
  for part in ('files', 'context'):
    cleaned = [(path, checks.clean(path, text, checks.PATCHED, seen)) for path, text in getattr(document, part)]
    if part == 'files' and (drops := [text for _, text in cleaned if isinstance(text, Drop)]):
      return drops[0]
    parts[part] = tuple((path, text) for path, text in cleaned if not isinstance(text, Drop))
  return dataclasses.replace(document, **parts)


def _conversation(document: Conversation, seen: collections.Counter) -> Conversation | Drop:
  messages = []
  for message in document.messages:
    message = dict(message)
    for part in ('thinking', 'content'):
      if message.get(part):
        message[part] = checks.clean('', message[part], checks.CHAT, seen)
        if isinstance(message[part], Drop):
          return message[part]
    if calls := message.get('tool_calls'):
      message['tool_calls'] = _without_secrets(calls, seen)
    messages.append(message)
  tools = tuple(_without_secrets(document.tools, seen))
  return dataclasses.replace(document, messages=tuple(messages), tools=tools)


def _without_secrets(value: Any, seen: collections.Counter) -> Any:
  """What JSON can hold, with the secrets of all its strings replaced."""
  if isinstance(value, str):
    replaced = secrets.replace('', value)
    seen['secrets: texts changed'] += replaced != value
    return replaced
  if isinstance(value, Mapping):
    return {key: _without_secrets(entry, seen) for key, entry in value.items()}
  if isinstance(value, (list, tuple)):
    return [_without_secrets(entry, seen) for entry in value]
  return value
