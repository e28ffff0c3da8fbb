"""The manifest of a stage's rows: what was written from which inputs, and whether a stage may train on it.

Imports no TensorFlow.
"""

import hashlib
import json
import pathlib
from collections.abc import Iterable
from typing import Any

from ml_collections import ConfigDict

from iquest_jax.errors import UserError
from iquest_jax.run_folder import RunFolder

MANIFEST = 'manifest.json'
# Raise it when formats, packing or the layout on disk change, so that older rows are prepared again.
VERSION = '1.0.0'
SPLITS = ('train', 'held_out')


def command(config: ConfigDict, run: RunFolder) -> str:
  """The command line that prepares a stage, for error messages."""
  return f'python -m launch.prepare --exp={config.stage}:size={config.size} --workdir={run.path}'


def check_manifest(
    rows_dir: str | pathlib.Path, sources: Iterable[str], context: int, tokenizer_fingerprint: str, command: str
) -> dict[str, Any]:
  """The manifest of the rows in a folder, after checks that a stage may train on them.

  Raises:
    UserError: the rows are missing, a file is missing or has another size, they were made with another tokenizer or
      context length, or a source is empty; every line names `command`, which prepares the rows.
  """
  path, again = pathlib.Path(rows_dir) / MANIFEST, f'prepare them again with {command}'
  try:
    manifest = json.loads(path.read_text())
    manifest['tokenizer'], manifest['context']
    files = {
        source: {name: stamp['bytes'] for name, stamp in entry['files'].items()}
        for source, entry in manifest['sources'].items()
    }
    counts = {(source, split): entry[split]['rows'] for source, entry in manifest['sources'].items() for split in SPLITS}
  except FileNotFoundError:
    raise UserError(f'rows: {path} is missing; prepare the rows with {command}') from None
  except ValueError as error:  # not JSON, or not text
    raise UserError(f'rows: {path} is damaged ({error}); {again}') from None
  except (KeyError, TypeError, AttributeError):
    raise UserError(f'rows: {path} is damaged (a field is missing); {again}') from None
  if manifest['tokenizer'] != tokenizer_fingerprint:
    was, now = manifest['tokenizer'][:12], tokenizer_fingerprint[:12]
    raise UserError(f'rows: {rows_dir} were made with another tokenizer ({was}, the run has {now}); {again}')
  if manifest['context'] != context:
    raise UserError(f'rows: {rows_dir} have context {manifest["context"]}, the stage has {context}; {again}')
  for source in sources:
    if source not in manifest['sources'] or not dataset(rows_dir, source).is_dir():
      raise UserError(f'rows: {rows_dir} has no rows of "{source}"; {again}')
    for name, size in files[source].items():
      file = dataset(rows_dir, source) / name
      if not file.is_file():
        raise UserError(f'rows: {file} is missing; {again}')
      if file.stat().st_size != size:
        raise UserError(f'rows: {file} must have {size:,} bytes, got {file.stat().st_size:,}; {again}')
    for split in SPLITS:
      if not counts[source, split]:
        raise UserError(f'rows: "{source}" has no {split} rows in {rows_dir}; give it documents and {again}')
  return manifest


def dataset(rows_dir: str | pathlib.Path, source: str) -> pathlib.Path:
  """The folder of a source's TFDS dataset."""
  return pathlib.Path(rows_dir) / source / VERSION


def stamp(path: pathlib.Path) -> dict[str, Any]:
  """Size and hash of a file."""
  return {'bytes': path.stat().st_size, 'sha256': _sha256(path)}


def _sha256(path: pathlib.Path) -> str:
  with open(path, 'rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()


def to_json(content: dict[str, Any]) -> str:
  """The text of a manifest or a source record."""
  return json.dumps(content, indent=1, sort_keys=True) + '\n'
