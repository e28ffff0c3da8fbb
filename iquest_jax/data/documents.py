"""What training text comes in: one frozen record per kind of document, and its JSONL form.

A line of JSONL is a record with its kind, {"kind": "file", "id": "a#0", "path": "a.py", "text": "x = 1"}; fields with a
default may be left out. The last two records are what builders hand to formats.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

ROLES = ('system', 'user', 'assistant', 'tool')
DIFFICULTIES = ('easy', 'medium', 'hard')
# What the quality of a text is graded by, and the scale: information density, educational value, toxicity.
SCORES = ('density', 'education', 'toxicity')
LOWEST, HIGHEST = 0, 5


@dataclasses.dataclass(frozen=True)
class File:
  """Text or code; `repo` names the repository or folder it comes from, '' if there is none.

  The id of every kind of document is unique within its source.
  """

  id: str
  path: str
  text: str
  repo: str = ''
  licence: str = ''  # SPDX expression; '' if unknown


@dataclasses.dataclass(frozen=True)
class Repository:
  """Several files of a repository, ((path, text), ...), in reading order: a file comes after those it depends on."""

  id: str
  name: str
  files: tuple[tuple[str, str], ...]
  licence: str = ''


@dataclasses.dataclass(frozen=True)
class Commit:
  """A commit without its author; `patch` is a unified diff."""

  id: str
  message: str
  patch: str
  repo: str = ''


@dataclasses.dataclass(frozen=True)
class Transition:
  """A repository before a change, and the change: the triplet (R_old, P, R_new), of which R_new follows.

  Attributes:
    message: what the change does, from the messages of its commits.
    patch: unified diff from the old state to the new one.
    files: ((path, text), ...) of the old state that the patch changes or deletes.
    context: ((path, text), ...) of the old state beside them, the most useful first.
    span: ids of the first and the last state.
  """

  id: str
  repo: str
  message: str
  patch: str
  files: tuple[tuple[str, str], ...]
  context: tuple[tuple[str, str], ...] = ()
  span: tuple[str, str] = ('', '')


@dataclasses.dataclass(frozen=True)
class Problem:
  """A programming problem with tests.

  Attributes:
    tests: {'input', 'output'} each; text of standard input and output, or, with `function`, JSON of arguments and result.
    function: name of the function that the tests call; '' if they run a program.
    language: of the solution, as sandbox/languages.py names it.
    difficulty: one of DIFFICULTIES, '' if unknown.
    checks: what the solution passed; see Fact.
  """

  id: str
  statement: str
  tests: tuple[Mapping[str, Any], ...]
  solution: str = ''
  function: str = ''
  language: str = 'python'
  difficulty: str = ''
  checks: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Conversation:
  """A chat.

  Attributes:
    messages: as in text/chat.py.
    tools: definitions of those that the assistant may call.
    repo: the repository it is about, '' if there is none.
    tests, function: what code in the last answer must pass, as of a Problem; () if there are none.
    difficulty: one of DIFFICULTIES, '' if unknown.
    checks: what its answers passed; see Fact.
  """

  id: str
  messages: tuple[Mapping[str, Any], ...]
  tools: tuple[Mapping[str, Any], ...] = ()
  repo: str = ''
  tests: tuple[Mapping[str, Any], ...] = ()
  function: str = ''
  difficulty: str = ''
  checks: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Fact:
  """A question about code with one right answer.

  Attributes:
    path: the file it is about; its name tells the language.
    checks: names of what it was held against and could have failed, as in ('answer in source', 'one answer'); a document
      that was made, not found, has at least one.
  """

  id: str
  question: str
  answer: str
  path: str = ''
  repo: str = ''
  checks: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Parallel:
  """One function in several languages.

  Attributes:
    sides: ((language, code), ...), at least two, named as in sandbox/languages.py.
    tests, function: what every side must pass, as of a Problem.
    checks: see Fact.
  """

  id: str
  sides: tuple[tuple[str, str], ...]
  tests: tuple[Mapping[str, Any], ...]
  function: str = ''
  checks: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Preference:
  """Two answers to the same messages, one of which is better.

  Attributes:
    messages: as in text/chat.py, up to the answer.
    chosen, rejected: the better and the worse answer, as the assistant's turn has them: thinking and tool calls in tags.
    rule: why it is better.
    tools: definitions of those that the assistant may call.
  """

  id: str
  messages: tuple[Mapping[str, Any], ...]
  chosen: str
  rejected: str
  rule: str = ''
  tools: tuple[Mapping[str, Any], ...] = ()


Document = File | Repository | Commit | Transition | Problem | Conversation | Fact | Parallel | Preference
_KINDS = (File, Repository, Commit, Transition, Problem, Conversation, Fact, Parallel, Preference)
KINDS = {kind.__name__.lower(): kind for kind in _KINDS}


@dataclasses.dataclass(frozen=True)
class Drop:
  """Why a document, or a file of one, is left out: what a step returns in its place.

  Attributes:
    rule: names the rule; drops are counted by it, so it holds no number and no name of a file.
    evidence: what the rule saw, for people.
  """

  rule: str
  evidence: str = ''


@dataclasses.dataclass(frozen=True)
class LogEntry:
  """A commit of a first-parent history, as far as the search for transitions needs it.

  Attributes:
    time: when it was committed, in seconds.
    changes: (path, lines added, lines deleted) of the first files it changes against its first parent; -1 lines: binary.
    files: how many files it changes.
  """

  hash: str
  parents: int
  time: int
  message: str
  changes: tuple[tuple[str, int, int], ...]
  files: int


@dataclasses.dataclass(frozen=True)
class FimSplit:
  """A text cut in three: prefix + middle + suffix is the text. `suffix_first` says in which order it is shown."""

  prefix: str
  middle: str
  suffix: str
  suffix_first: bool = False


@dataclasses.dataclass(frozen=True)
class RepositoryView:
  """What one example shows of a repository: files as context, ((path, text), ...), then the target.

  The target is completed in the middle if it is cut, otherwise read to its end.
  """

  name: str
  context: tuple[tuple[str, str], ...]
  path: str
  target: FimSplit | str


def texts(document: Document) -> tuple[str, ...]:
  """All text of a document but paths; a tool call is its JSON."""
  match document:
    case File():
      return (document.text,)
    case Repository():
      return tuple(text for _, text in document.files)
    case Commit():
      return (document.message, document.patch)
    case Transition():
      return (document.message, document.patch, *(text for _, text in (*document.files, *document.context)))
    case Problem():
      return (document.statement, document.solution)
    case Fact():
      return (document.question, document.answer)
    case Parallel():
      return tuple(code for _, code in document.sides)
  found = [document.chosen, document.rejected] if isinstance(document, Preference) else []
  for message in document.messages:
    found += [message[part] for part in ('thinking', 'content') if part in message]
    found += [json.dumps(call, ensure_ascii=False) for call in message.get('tool_calls', ())]
  return tuple(found)


def to_json(document: Document) -> str:
  """One line of JSONL."""
  return json.dumps({'kind': type(document).__name__.lower(), **vars(document)}, ensure_ascii=False)


def from_json(line: str) -> Document:
  """Parses one line of JSONL; raises ValueError with the reason if it is not a document."""
  record = json.loads(line)
  if not isinstance(record, dict):
    raise ValueError(f'a document must be a JSON object, got {type(record).__name__}')
  return from_record(record)


def from_record(record: Mapping[str, Any]) -> Document:
  """The document of a parsed line of JSONL; raises ValueError with the reason if it is none."""
  record = dict(record)
  name = record.pop('kind', None)
  kind = KINDS.get(name) if isinstance(name, str) else None
  if kind is None:
    raise ValueError(f'"kind" must be one of {", ".join(KINDS)}, got {json.dumps(name)}')
  fields = dataclasses.fields(kind)
  if unknown := record.keys() - {field.name for field in fields}:
    raise ValueError(f'a {name} has no field "{min(unknown)}"')
  required = [field.name for field in fields if field.default is dataclasses.MISSING]
  full = _NEVER_EMPTY - ({'files'} if kind is Transition else set())  # a patch may only add files
  if missing := [field for field in required if field not in record or field in full and not record[field]]:
    raise ValueError(f'"{missing[0]}" is missing or empty')
  return kind(**checked(record))


def checked(fields: Mapping[str, Any]) -> dict[str, Any]:
  """Values of fields as a record holds them; raises ValueError for one of another type."""
  return {field: _CHECKED.get(field, _string)(field, value) for field, value in fields.items()}


def content_id(*parts: str) -> str:
  """An id that is equal for equal content, so that two copies of a document are on the same side of the split."""
  return hashlib.sha256('\0'.join(parts).encode()).hexdigest()[:16]


def _string(field: str, value: Any) -> str:
  if not isinstance(value, str):
    raise ValueError(f'"{field}" must be a string, got {type(value).__name__}')
  return value


def _files(field: str, value: Any) -> tuple[tuple[str, str], ...]:
  pairs = isinstance(value, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in value)
  if not pairs or not all(isinstance(part, str) for pair in value for part in pair):
    raise ValueError(f'"{field}" must be a list of [path, text]')
  return tuple((path, text) for path, text in value)


def _pair(field: str, value: Any) -> tuple[str, str]:
  if not isinstance(value, list) or len(value) != 2 or not all(isinstance(part, str) for part in value):
    raise ValueError(f'"{field}" must be two strings')
  return tuple(value)


def _objects(field: str, value: Any) -> tuple[dict[str, Any], ...]:
  if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
    raise ValueError(f'"{field}" must be a list of objects')
  return tuple(value)


def _messages(field: str, value: Any) -> tuple[dict[str, Any], ...]:
  for message in (messages := _objects(field, value)):
    if message.get('role') not in ROLES:
      raise ValueError(f'the role of a message must be one of {", ".join(ROLES)}, got "{message.get("role")}"')
    if not isinstance(message.get('content'), str) or not isinstance(message.get('thinking', ''), str):
      raise ValueError('"content" and "thinking" of a message must be strings')
    calls = message.get('tool_calls', [])
    if not isinstance(calls, list) or not all(isinstance(c, dict) and {'name', 'arguments'} <= c.keys() for c in calls):
      raise ValueError('"tool_calls" must be a list of {"name", "arguments"}')
  return messages


def _strings(field: str, value: Any) -> tuple[str, ...]:
  if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
    raise ValueError(f'"{field}" must be a list of strings')
  return tuple(value)


def _sides(field: str, value: Any) -> tuple[tuple[str, str], ...]:
  if len(sides := _files(field, value)) < 2:
    raise ValueError(f'"{field}" must have at least two languages')
  return sides


def _difficulty(field: str, value: Any) -> str:
  if value not in ('', *DIFFICULTIES):
    raise ValueError(f'"{field}" must be one of {", ".join(DIFFICULTIES)}, got {json.dumps(value)}')
  return value


_NEVER_EMPTY = {'id', 'files', 'messages', 'tests', 'sides', 'chosen', 'rejected'}
_CHECKED = {
    'files': _files, 'context': _files, 'span': _pair, 'messages': _messages, 'tools': _objects, 'tests': _objects,
    'checks': _strings, 'sides': _sides, 'difficulty': _difficulty,
}  # fmt: skip
