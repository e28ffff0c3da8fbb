"""Rows of Parquet files, a few at a time, so that memory depends on the size of a page and not on that of the file."""

import os
from collections.abc import Iterator, Sequence
from typing import Any

from iquest_jax.data.documents import Drop
from iquest_jax.data.read.compressed import LINE_BYTES
from iquest_jax.errors import UserError

# Rows that are held at a time, and bytes of them, as far as a file's own counts tell.
_BATCH, _BATCH_BYTES = 64, 32 << 20
_BUFFER = 1 << 20


def rows(path: str | os.PathLike, fields: Sequence[str] | None = None) -> Iterator[tuple[int, dict[str, Any] | Drop]]:
  """(number, row) of a file; a row longer than LINE_BYTES or with text that is not UTF-8 is a Drop in its place.

  A file that is damaged ends with a Drop.

  Args:
    fields: names of the columns to read, as far as there are such; all if None.

  Raises:
    UserError: the file is missing, a folder, or unreadable.
  """
  import pyarrow
  import pyarrow.parquet

  try:
    with open(path, 'rb'):
      pass
  except OSError as error:
    raise UserError(f'documents: {path} cannot be read: {error.strerror or error}; fix or remove it') from None
  number = 0
  try:
    with pyarrow.parquet.ParquetFile(path, buffer_size=_BUFFER, pre_buffer=False) as file:
      columns = None if fields is None else [name for name in file.schema_arrow.names if name in set(fields)]
      is_plain = _is_plain(file.schema_arrow)
      for batch in file.iter_batches(_batch_rows(file.metadata), columns=columns, use_threads=False):
        for row in _converted(batch, f'{path}', number, is_plain):
          number += 1
          yield number, row
  except (pyarrow.ArrowException, OSError, ValueError) as error:
    yield number + 1, Drop('file: not readable as Parquet', f'{path}: {" ".join(str(error).split())[:200]}')


def _converted(batch: Any, path: str, number: int, is_plain: bool) -> Iterator[dict[str, Any] | Drop]:
  """The rows of a batch. One row that cannot be read does not take the others with it."""
  convert = (lambda batch: batch.to_pylist()) if is_plain else (lambda batch: _as_json(batch.to_pylist()))
  if batch.nbytes <= LINE_BYTES:
    try:
      yield from convert(batch)
      return
    except UnicodeDecodeError:
      pass
  for place in range(batch.num_rows):
    row, where = batch.slice(place, 1), f'{path}:{number + place + 1}'
    if row.nbytes > LINE_BYTES:
      yield Drop('line: too long', f'{where}: {row.nbytes:,} bytes, at most {LINE_BYTES:,}')
      continue
    try:
      yield convert(row)[0]
    except UnicodeDecodeError as error:
      yield Drop('line: not UTF-8', f'{where}: byte {error.start}')


def _batch_rows(metadata: Any) -> int:
  groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
  longest = max((group.total_byte_size // max(group.num_rows, 1) for group in groups), default=0)
  return max(1, min(_BATCH, _BATCH_BYTES // max(longest, 1)))


def _is_plain(schema: Any) -> bool:
  """Whether all values are such as JSON has; bytes, times and decimals are not."""
  from pyarrow import types

  def plain(type: Any) -> bool:
    if types.is_map(type):
      return False
    if type.num_fields:
      return all(plain(type.field(number).type) for number in range(type.num_fields))
    is_number = types.is_integer(type) or types.is_floating(type) or types.is_boolean(type) or types.is_null(type)
    return is_number or types.is_string(type) or types.is_large_string(type)

  return all(plain(field.type) for field in schema)


def _as_json(value: Any) -> Any:
  """A value of Parquet as JSON would have it; raises UnicodeDecodeError for bytes that are not text."""
  match value:
    case bytes():
      return value.decode()
    case dict():
      return {key: _as_json(item) for key, item in value.items()}
    case list() | tuple():
      return [_as_json(item) for item in value]
    case str() | int() | float() | None:
      return value
  return str(value)
