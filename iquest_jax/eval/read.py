"""Reads the files of benchmarks, each record checked for the fields that its suite needs."""

import gzip
import json
import pathlib
import zlib
from collections.abc import Mapping
from typing import Any

from iquest_jax.errors import UserError

_NAMES = {
    str: 'a string', list: 'a list', dict: 'an object', int: 'a whole number', float: 'a number', bool: 'true or false',
}  # fmt: skip


def find(folder: pathlib.Path, *names: str) -> pathlib.Path:
  """The first of these files that exists below a folder, at its top or in any folder below; names may be patterns.

  Raises:
    UserError: there is none.
  """
  for name in names:
    if (folder / name).is_file():
      return folder / name
    if found := sorted(path for path in folder.rglob(name) if path.is_file()):
      return found[0]
  raise UserError(f'--data: {folder} has no {" or ".join(names)}; download the benchmark there')


def records(path: pathlib.Path, fields: Mapping[str, type | tuple[type, ...]]) -> list[dict[str, Any]]:
  """The records of a JSON list or of JSON lines, either of them plain or gzipped.

  Args:
    fields: those that every record must have, with their types; more may be there.

  Raises:
    UserError: the file cannot be read, or a record lacks a field or has one of another type.
  """
  try:
    data = path.read_bytes()
    text = (gzip.decompress(data) if path.suffix == '.gz' else data).decode()
  except OSError as error:
    raise UserError(f'{path}: {error.strerror or error}; download it again') from None
  except (EOFError, zlib.error, UnicodeDecodeError) as error:
    raise UserError(f'{path}: {error}; download it again') from None
  found = []
  if text.lstrip().startswith('['):
    items = [(f'{path}: record {number}', item) for number, item in enumerate(_parsed(path, text), start=1)]
  else:
    lines = [(f'{path}: line {number}', line) for number, line in enumerate(text.split('\n'), start=1) if line.strip()]
    items = [(where, _parsed(where, line)) for where, line in lines]
  for where, item in items:
    if not isinstance(item, dict):
      raise UserError(f'{where}: must be an object, got {type(item).__name__}; is it the official file?')
    for name, kind in fields.items():
      kinds = kind if isinstance(kind, tuple) else (kind,)
      if name not in item:
        raise UserError(f'{where}: field "{name}" is missing; this reads the version of the file that has it')
      if not isinstance(item[name], kinds):
        wanted, got = ' or '.join(_NAMES[kind] for kind in kinds), type(item[name]).__name__
        raise UserError(f'{where}: field "{name}" must be {wanted}, got {got}; is it the official file?')
    found.append(item)
  if not found:
    raise UserError(f'{path}: has no records; download it again')
  return found


def _parsed(where: str | pathlib.Path, text: str) -> Any:
  try:
    return json.loads(text)
  except ValueError as error:
    raise UserError(f'{where}: not JSON: {error}; download it again') from None
