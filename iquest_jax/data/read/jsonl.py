"""Documents of JSONL and Parquet: lines of our own documents, and corpora whose lines have a text.

Fields of such a corpus, the first that a line has:
  text      text, content, code
  id        id, hexsha, blob_id; otherwise a hash of the content
  path      path, max_stars_repo_path, file_path, filename; otherwise a name that ends in .ext, or in .txt for `text`
  repo      repo, repo_name, repository_name, max_stars_repo_name
  licence   licence, license, licenses, max_stars_repo_licenses, detected_licenses; of a list, all apply
Source: the fields of The Stack v1 and v2, StarCoder's data, github-code, FineWeb and Dolma.
"""

import dataclasses
import os
from collections.abc import Iterator
from typing import Any

from iquest_jax.data.documents import KINDS, Document, Drop, File, content_id, from_json, from_record
from iquest_jax.data.read import chats, compressed, problems
from iquest_jax.data.read.records import Record, field, id_of, records
from iquest_jax.errors import UserError

_TEXT = ('text', 'content', 'code')
_ID = ('id', 'hexsha', 'blob_id')
_PATH = ('path', 'max_stars_repo_path', 'file_path', 'filename')
_REPO = ('repo', 'repo_name', 'repository_name', 'max_stars_repo_name')
_LICENCE = ('licence', 'license', 'licenses', 'max_stars_repo_licenses', 'detected_licenses')
_OWN = {'kind', *(one.name for kind in KINDS.values() for one in dataclasses.fields(kind))}
_COLUMNS = (*_TEXT, *_ID, *_PATH, *_REPO, *_LICENCE, 'ext', *sorted(_OWN))


def read_documents(path: str | os.PathLike) -> Iterator[Document | Drop]:
  """The documents of a file of .jsonl, .jsonl.gz, .jsonl.zst or .parquet; a malformed line is a Drop in its place.

  Memory is bounded by compressed.LINE_BYTES, the longest line that is read.

  Raises:
    UserError: the file is missing, a folder, or unreadable.
  """
  for where, record in records(path, _COLUMNS):
    yield record if isinstance(record, Drop) else _document(record, where)


def read_objects(path: str | os.PathLike) -> Iterator[Record]:
  """The objects of a file of JSONL or Parquet, all of which are needed.

  Raises:
    UserError: the file cannot be read, or a line is not an object.
  """
  for _, record in records(path):
    if isinstance(record, Drop):
      raise UserError(f'{record.evidence or path}: {record.rule}; fix or remove it')
    yield record


def read_shard(path: str | os.PathLike) -> Iterator[Document]:
  """The documents of a shard that preparation has written; raises UserError if it is damaged."""
  for number, line in compressed.lines(path):
    try:
      if isinstance(line, Drop):
        raise ValueError(line.rule)
      yield from_json(line.decode())
    except ValueError as error:
      raise UserError(f'documents: {path}:{number} is damaged ({error}); remove the folder and prepare it again') from None


def _document(record: Record, where: str) -> Document | Drop:
  name = record.get('kind')
  if not (isinstance(name, str) and name in KINDS):
    return _file(record, where)
  if name == 'conversation':
    return chats.read(record, where)
  if name == 'problem':
    return problems.read(record, where)
  try:
    # A row of Parquet has every column.
    return from_record({name: value for name, value in record.items() if value is not None})
  except ValueError as error:
    return Drop('line: not a document', f'{where}: {error}')


def _file(record: Record, where: str) -> File | Drop:
  text = field(record, _TEXT)
  if not isinstance(text, str) or not text.strip():
    return Drop('line: no text', f'{where}: none of {", ".join(_TEXT)}')
  path, repo = _string(field(record, _PATH)), _string(field(record, _REPO))
  if not path:
    # ours: without a name, `text` is prose and the others are code of a language unknown.
    extension = _string(record.get('ext')) or ('txt' if record.get('text') is text else '')
    path = f'document.{extension}' if extension else ''
  id = id_of(record, _ID) or content_id(repo, path, text)
  return File(id, path, text, repo, _licence(field(record, _LICENCE)))


def _string(value: Any) -> str:
  return str(value) if isinstance(value, (str, int)) else ''


def _licence(value: Any) -> str:
  """An SPDX expression of one licence or of several that all apply."""
  if isinstance(value, list):
    named = dict.fromkeys(one for one in value if isinstance(one, str) and one)
    return ' AND '.join(f'({one})' if ' ' in one and len(named) > 1 else one for one in named)
  return _string(value)
