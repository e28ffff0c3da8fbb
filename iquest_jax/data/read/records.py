"""Objects of JSONL and rows of Parquet, one by one: what is not an object of well-formed text is a Drop in its place."""

import dataclasses
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from iquest_jax.data.documents import DIFFICULTIES, Document, Drop, checked
from iquest_jax.data.read import compressed, parquet

Record = dict[str, Any]
DEPTH = 100
_TOO_DEEP = f'nested deeper than {DEPTH}'
# Half of a surrogate pair, as JSON may write it; halves that belong together are joined by the parser.
_SURROGATE = re.compile(rb'\\u[dD][89a-fA-F]')


def records(path: str | os.PathLike, fields: Sequence[str] | None = None) -> Iterator[tuple[str, Record | Drop]]:
  """(where, record) of a file of JSONL or Parquet; `where` is FILE:LINE.

  Args:
    fields: the only columns of Parquet that are read; all if None. Lines of JSON are read whole.

  Raises:
    UserError: the file is missing, a folder, or unreadable.
  """
  read = parquet.rows(path, fields) if os.fspath(path).endswith('.parquet') else _objects(path)
  for number, record in read:
    yield f'{path}:{number}', record


def _objects(path: str | os.PathLike) -> Iterator[tuple[int, Record | Drop]]:
  for number, line in compressed.lines(path):
    yield number, line if isinstance(line, Drop) else _object(line, f'{path}:{number}')


def _object(line: bytes, where: str) -> Record | Drop:
  try:
    record = json.loads(line.decode())
    if not isinstance(record, dict):
      return Drop('line: not a JSON object', f'{where}: {type(record).__name__}')
    return well_formed(record) if _SURROGATE.search(line) else record
  except UnicodeDecodeError as error:
    return Drop('line: not UTF-8', f'{where}: byte {error.start}')
  except json.JSONDecodeError as error:
    return Drop('line: not JSON', f'{where}: {error.msg}, column {error.colno}')
  except (ValueError, RecursionError) as error:  # a number of too many digits, nested too deeply
    return Drop('line: not JSON', f'{where}: {error}')


def parsed(value: Any) -> Any:
  """A JSON value, given as such or as its text, without lone surrogates; ValueError if it is none, or nested too deeply."""
  try:
    return well_formed(json.loads(value) if isinstance(value, str) else value)
  except RecursionError:
    raise ValueError(_TOO_DEEP) from None


def well_formed(value: Any, depth: int = DEPTH) -> Any:
  """A JSON value in which every lone surrogate, which no encoding can write, is U+FFFD.

  Raises:
    ValueError: it is nested deeper than `depth`, which what writes it again may not bear.
  """
  if isinstance(value, str):
    return value if value.isascii() else value.encode('utf-16', 'surrogatepass').decode('utf-16', 'replace')
  if isinstance(value, (list, tuple, dict)) and not depth:
    raise ValueError(_TOO_DEEP)
  if isinstance(value, (list, tuple)):
    return [well_formed(item, depth - 1) for item in value]
  if isinstance(value, dict):
    return {well_formed(key): well_formed(item, depth - 1) for key, item in value.items()}
  return value


def field(record: Mapping[str, Any], names: Sequence[str]) -> Any:
  """The first of some fields that a record has with a value; None if it has none of them."""
  return next((record[name] for name in names if record.get(name) is not None), None)


def with_fields(document: Document, record: Record, names: Sequence[str], where: str) -> Document | Drop:
  """A document with those of some fields that the record has, or why they are malformed.

  Lists may be JSON text, as in a column of Parquet. Others grade difficulty on scales of their own, which are ignored.
  """
  given = {name: record[name] for name in names if record.get(name) is not None}
  if given.get('difficulty') not in DIFFICULTIES:
    given.pop('difficulty', None)
  try:
    lists = {name: parsed(given[name]) for name in ('tests', 'checks') if name in given}
    return dataclasses.replace(document, **checked(given | lists))
  except ValueError as error:
    return Drop('line: not a document', f'{where}: {error}')


def id_of(record: Mapping[str, Any], names: Sequence[str]) -> str:
  """The id of a record, which may be a number; '' if it has none."""
  id = field(record, names)
  return str(id) if isinstance(id, (str, int)) else ''
