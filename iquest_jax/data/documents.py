"""The one plain type every kind of training text comes in, its JSONL form, and how documents are split.

A document is text or code (one file), a repository (several files), a commit (the files `message` and `patch`) or a
conversation (messages).
"""

import dataclasses
import gzip
import hashlib
import itertools
import json
import math
import pathlib
from collections.abc import Iterator
from typing import Any

from iquest_jax.errors import UserError

HELD_OUT_SHARE = 1 / 16
# So many documents in a row of which nothing comes into a row of tokens, and an endless generator counts as read to its
# end. Documents in files end by themselves: there, any number may be passed over.
PATIENCE = 10_000
ROLES = ('system', 'user', 'assistant', 'tool')


@dataclasses.dataclass(frozen=True)
class Document:
  """One unit of training text.

  Attributes:
    id: unique within the source; decides bucket and, without a repo, split.
    source: name of the source, e.g. 'code'.
    files: ((path, text), ...); a commit has the two files ('message', ...) and ('patch', ...).
    messages: ({'role': ..., 'content': ..., 'tool_calls': ({'name': ..., 'arguments': {...}}, ...)}, ...);
      tool_calls may be absent.
    repo: name of the repository the files come from; '' where there is none.
  """

  id: str
  source: str
  files: tuple[tuple[str, str], ...] = ()
  messages: tuple[dict[str, Any], ...] = ()
  repo: str = ''

  def to_json(self) -> str:
    """One line of JSONL."""
    return json.dumps(dataclasses.asdict(self), ensure_ascii=False)

  @classmethod
  def from_json(cls, line: str) -> 'Document':
    """Parses one line of JSONL; raises ValueError with the reason where it is not a document."""
    record = json.loads(line)
    if not isinstance(record, dict):
      raise ValueError(f'a document is an object, not {type(record).__name__}')
    if unknown := record.keys() - {field.name for field in dataclasses.fields(cls)}:
      raise ValueError(f'unknown field "{min(unknown)}"')
    for name in ('id', 'source', 'repo'):
      if not isinstance(record.setdefault(name, ''), str):
        raise ValueError(f'"{name}" is not a string')
    if not record['id']:
      raise ValueError('"id" is missing')
    files, messages = _checked_files(record.get('files', [])), _checked_messages(record.get('messages', []))
    if bool(files) == bool(messages):
      raise ValueError('a document has either files or messages')
    return cls(record['id'], record['source'], files, messages, record['repo'])


def content_id(*parts: str) -> str:
  """An id that is equal for equal content, so that a generated document met twice stays on one side of the split."""
  return hashlib.sha256('\0'.join(parts).encode()).hexdigest()[:16]


def bucket(document: Document) -> float:
  """Place of a document in [0, 1), by its id: stages that take disjoint ranges see disjoint documents."""
  return _unit_hash('bucket', document.id)


def is_held_out(document: Document) -> bool:
  """Whether a document is kept from training. A repository is held out whole, at file and repository level alike."""
  return _unit_hash('held_out', document.repo or document.id) < HELD_OUT_SHARE


def select(
    documents: Iterator[Document], split: str, buckets: tuple[float, float], patience: float = math.inf
) -> Iterator[Document]:
  """The documents of one split ('train' or 'held_out') whose bucket lies in [low, high).

  Ends after `patience` documents in a row that do not.
  """
  low, high = buckets
  passed = 0
  for document in documents:
    if is_held_out(document) == (split == 'held_out') and low <= bucket(document) < high:
      passed = 0
      yield document
    else:
      passed += 1
      if passed >= patience:
        return


def jsonl_files(directory: str | pathlib.Path, source: str) -> tuple[pathlib.Path, ...]:
  """The files `<directory>/<source>/*.jsonl[.gz]`, sorted; UserError where there are none."""
  folder = pathlib.Path(directory) / source
  files = tuple(sorted(itertools.chain(folder.glob('*.jsonl'), folder.glob('*.jsonl.gz'))))
  if not files:
    raise UserError(f'documents: no *.jsonl or *.jsonl.gz in {folder}; put the documents of "{source}" there')
  return files


def read_jsonl(directory: str | pathlib.Path, source: str) -> Iterator[Document]:
  """Reads the documents of a source in the order of file names and lines.

  Raises:
    UserError: naming file and line, on a line that is not a document.
  """
  for path in jsonl_files(directory, source):
    number = 0
    try:
      with (gzip.open if path.suffix == '.gz' else open)(path, 'rt', encoding='utf-8') as lines:
        for line in lines:
          number += 1
          if line.strip():
            yield dataclasses.replace(Document.from_json(line), source=source)
    except json.JSONDecodeError as error:
      raise UserError(f'{path}:{number}: not JSON ({error.msg}, column {error.colno}); one document a line') from error
    except (ValueError, EOFError, gzip.BadGzipFile) as error:
      raise UserError(f'{path}:{max(number, 1)}: not a document: {error}; mend or remove the line') from error


def _checked_files(files: Any) -> tuple[tuple[str, str], ...]:
  pairs = isinstance(files, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in files)
  if not pairs or not all(isinstance(part, str) for pair in files for part in pair):
    raise ValueError('"files" is not a list of [path, text]')
  return tuple((path, text) for path, text in files)


def _checked_messages(messages: Any) -> tuple[dict[str, Any], ...]:
  if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
    raise ValueError('"messages" is not a list of objects')
  for message in messages:
    if message.get('role') not in ROLES:
      raise ValueError(f'role "{message.get("role")}" is none of {", ".join(ROLES)}')
    if not isinstance(message.get('content'), str):
      raise ValueError('"content" of a message is not a string')
    calls = message.get('tool_calls', [])
    if not isinstance(calls, list) or not all(isinstance(c, dict) and {'name', 'arguments'} <= c.keys() for c in calls):
      raise ValueError('"tool_calls" is not a list of {"name", "arguments"}')
  return tuple(messages)


def _unit_hash(*parts: str) -> float:
  digest = hashlib.sha256('\0'.join(parts).encode()).digest()
  return int.from_bytes(digest[:6], 'big') / 2**48
