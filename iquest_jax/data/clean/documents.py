"""Cleans documents: which texts of a kind go through which checks."""

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from iquest_jax.data.clean import checks, licence, secrets
from iquest_jax.data.documents import (
    Commit,
    Conversation,
    Document,
    Drop,
    Fact,
    File,
    Parallel,
    Problem,
    Repository,
    Transition,
)


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
      document = dataclasses.replace(document, tests=tuple(_without_secrets(document.tests, seen)))
      return _fields(document, {'statement': checks.CHAT, 'solution': checks.CHAT}, seen)
    case Fact():
      return _fields(document, {'question': checks.CHAT, 'answer': checks.CHAT}, seen)
    case Parallel():
      sides = [(language, checks.clean('', code, checks.CHAT, seen)) for language, code in document.sides]
      drop = next((code for _, code in sides if isinstance(code, Drop)), None)
      tests = tuple(_without_secrets(document.tests, seen))
      return drop or dataclasses.replace(document, sides=tuple(sides), tests=tests)
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
  tools, tests = (tuple(_without_secrets(part, seen)) for part in (document.tools, document.tests))
  return dataclasses.replace(document, messages=tuple(messages), tools=tools, tests=tests)


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
