"""Reads the documents of a source from JSONL: `<directory>/<source>/*.jsonl[.gz]`, one per line."""

import gzip
import json
import pathlib
from collections.abc import Iterator

from iquest_jax.data.documents import Document, from_json
from iquest_jax.errors import UserError


def jsonl_files(directory: str | pathlib.Path, source: str) -> tuple[pathlib.Path, ...]:
  """The files of a source, sorted; raises UserError if there are none."""
  folder = pathlib.Path(directory) / source
  files = tuple(sorted((*folder.glob('*.jsonl'), *folder.glob('*.jsonl.gz'))))
  if not files:
    raise UserError(f'documents: no *.jsonl or *.jsonl.gz in {folder}; put the documents of "{source}" there')
  return files


def read_jsonl(directory: str | pathlib.Path, source: str) -> Iterator[Document]:
  """Reads the documents of a source in the order of file names and lines.

  Raises:
    UserError: the source has no files, or a line is not a document (names the file and the line).
  """
  for path in jsonl_files(directory, source):
    number = 0
    try:
      with (gzip.open if path.suffix == '.gz' else open)(path, 'rt', encoding='utf-8') as lines:
        for line in lines:
          number += 1
          if line.strip():
            yield from_json(line)
    except json.JSONDecodeError as error:
      reason = f'not JSON ({error.msg}, column {error.colno})'
      raise UserError(f'{path}:{number}: {reason}; write one document per line') from error
    except (ValueError, EOFError, gzip.BadGzipFile) as error:
      raise UserError(f'{path}:{max(number, 1)}: not a document: {error}; fix or remove the line') from error
