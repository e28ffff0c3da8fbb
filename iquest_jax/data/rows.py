"""Packed rows on disk: one TFDS dataset (ArrayRecord) a source, a manifest beside them, random access to them.

`<rows_dir>/<source>/` appears whole, by one rename; `<rows_dir>/manifest.json` appears when every source is there. A
preparation that was killed leaves `.incomplete/` and nothing that looks finished. Reading imports no TensorFlow.
"""

import bisect
import contextlib
import errno
import hashlib
import io
import itertools
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from absl import logging
from ml_collections import ConfigDict

from iquest_jax.data.packing import FIELDS, TOO_LONG, Counts, Row
from iquest_jax.errors import UserError

MANIFEST = 'manifest.json'
# Raised when formats, packing or the layout on disk change, so that older rows are made again.
VERSION = '1.0.0'
SPLITS = ('train', 'held_out')
_RECORD = 'source.json'
_INCOMPLETE = '.incomplete'


def folder(config: ConfigDict, workdir: str | pathlib.Path) -> pathlib.Path:
  """Where the rows of a stage lie: data.rows_dir, or below the run folder where that is ''."""
  return pathlib.Path(config.data.rows_dir or pathlib.Path(workdir) / 'rows' / config.stage)


def command(config: ConfigDict, workdir: str | pathlib.Path) -> str:
  """The command line that prepares a stage, for error messages."""
  return f'python -m launch.prepare --exp={config.stage}:size={config.size} --workdir={workdir}'


class Rows:
  """Random access to the rows of a split: `[i] -> {field: [T]}`, `len()`. Several threads may read at once."""

  def __init__(self, rows_dir: str | pathlib.Path, source: str, split: str, command: str):
    """Opens the rows; UserError, naming the command that makes them, where they are damaged, also as they are read."""
    import tensorflow_datasets as tfds  # here and not above: half a second that `--help` need not pay

    self._command = command
    try:
      builder = tfds.builder_from_directory(str(_dataset(rows_dir, source)))
      self._rows, self._shards = builder.as_data_source(split), builder.info.splits[split]
    except Exception as error:  # whatever the parsers of its description raise
      raise self._damaged(_dataset(rows_dir, source), error) from error
    self._ends = list(itertools.accumulate(self._shards.shard_lengths))

  def __len__(self) -> int:
    return len(self._rows)

  def __getitem__(self, row: int) -> Row:
    try:
      return self._rows[row]
    except (RuntimeError, OSError) as error:  # ArrayRecord checks the hash of every block that it reads
      raise self._damaged(self._shards.filepaths[bisect.bisect_right(self._ends, row)], error) from error

  def _damaged(self, path: os.PathLike, error: Exception) -> UserError:
    reason = ' '.join(str(error).split())
    return UserError(f'rows: {path} cannot be read ({reason}); prepare the rows again by {self._command}')


def write_source(
    rows_dir: str | pathlib.Path,
    source: str,
    context: int,
    inputs: str,
    splits: dict[str, Callable[[Counts], Iterable[Row]]],
) -> dict[str, Any]:
  """Writes the rows of a source, whole or not at all, in place of those that are there.

  Args:
    rows_dir: folder of the stage's rows.
    source: name of the source.
    context: T, tokens in a row.
    inputs: hash of everything the rows depend on; `finished` asks for it again.
    splits: for each split, gives its rows, writing counts along the way.

  Returns:
    The source's entry of the manifest.

  Raises:
    UserError: a split has no rows.
    OSError: the disk is full or refuses.
  """
  import tensorflow_datasets as tfds

  tfds.disable_progress_bar()
  incomplete = pathlib.Path(rows_dir) / _INCOMPLETE
  shutil.rmtree(incomplete / source, ignore_errors=True)
  tallies = {split: _Tally(source, split, context) for split in splits}
  builder = tfds.dataset_builders.AdhocBuilder(
      name=source,
      version=VERSION,
      features=tfds.features.FeaturesDict({
          name: tfds.features.Tensor(shape=(context,), dtype=dtype, encoding=tfds.features.Encoding.BYTES)
          for name, dtype in FIELDS.items()
      }),
      split_datasets={split: enumerate(tallies[split].count(rows)) for split, rows in splits.items()},
      data_dir=str(incomplete),
      description=f'Packed rows of {source}.',
      file_format='array_record',
      disable_shuffling=True,
  )
  with _quietly(), _same_bytes(), _disk_errors(rows_dir):
    builder.download_and_prepare()
  record = {
      'inputs': inputs,
      **{split: tally.record() for split, tally in tallies.items()},
      'files': {path.name: _stamp(path) for path in sorted(pathlib.Path(builder.data_dir).glob('*array_record*'))},
      'builder': {'tensorflow_datasets': tfds.__version__, 'rows': VERSION},
  }
  write_json(incomplete / source / _RECORD, record)
  final = pathlib.Path(rows_dir) / source
  shutil.rmtree(final, ignore_errors=True)
  os.replace(incomplete / source, final)
  shutil.rmtree(incomplete)
  return record


def finished(rows_dir: str | pathlib.Path, source: str, inputs: str) -> dict[str, Any] | None:
  """The entry of a source that was written from the same inputs; None where it has to be made.

  Checks the hash of every file, since the command that errors name must not keep what is damaged: half a second a
  gigabyte (measured), and making them takes far longer. A start of training checks names and sizes alone
  (`check_manifest`): hours of hashing on every host would find nothing that ArrayRecord does not find as it reads (`Rows`).
  """
  try:
    record = json.loads((pathlib.Path(rows_dir) / source / _RECORD).read_text())
    if record['inputs'] != inputs:
      return None
    for split in SPLITS:
      Rows(rows_dir, source, split, command='')
    whole = all(_stamp(_dataset(rows_dir, source) / name) == stamp for name, stamp in record['files'].items())
  except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError, UserError):
    return None
  return record if whole else None


def manifest_hash(rows_dir: str | pathlib.Path) -> str:
  """SHA-256 (hex) of the manifest file, which holds the hashes of the rows."""
  return _sha256(pathlib.Path(rows_dir) / MANIFEST)


def check_manifest(
    rows_dir: str | pathlib.Path, *, sources: Iterable[str], context: int, tokenizer_fingerprint: str, command: str
) -> dict[str, Any]:
  """Checks that a stage may train on the rows of a folder.

  Args:
    rows_dir: folder of the stage's rows.
    sources: names of the sources the stage draws from.
    context: T of the stage.
    tokenizer_fingerprint: of the run folder's tokenizer.
    command: makes the rows; named in every error.

  Returns:
    The manifest.

  Raises:
    UserError: rows missing, files missing or of another size, made with another tokenizer or context length, or an
      empty source.
  """
  path = pathlib.Path(rows_dir) / MANIFEST
  try:
    manifest = json.loads(path.read_text())
  except FileNotFoundError:
    raise UserError(f'rows: {path} is missing; prepare the rows by {command}') from None
  except ValueError as error:  # no JSON, or no text
    raise UserError(f'rows: {path} is damaged ({error}); prepare the rows again by {command}') from None
  again = f'prepare them again by {command}'
  try:
    manifest['tokenizer'], manifest['context']
    files = {
        source: {name: stamp['bytes'] for name, stamp in entry['files'].items()}
        for source, entry in manifest['sources'].items()
    }
    counts = {(source, split): entry[split]['rows'] for source, entry in manifest['sources'].items() for split in SPLITS}
  except (KeyError, TypeError, AttributeError):
    raise UserError(f'rows: {path} is damaged (it lacks what a manifest holds); {again}') from None
  if manifest['tokenizer'] != tokenizer_fingerprint:
    was, now = manifest['tokenizer'][:12], tokenizer_fingerprint[:12]
    raise UserError(f'rows: {rows_dir} were made with another tokenizer ({was}, the run has {now}); {again}')
  if manifest['context'] != context:
    raise UserError(f'rows: {rows_dir} have context {manifest["context"]}, the stage has {context}; {again}')
  for source in sources:
    if source not in manifest['sources'] or not _dataset(rows_dir, source).is_dir():
      raise UserError(f'rows: {rows_dir} has no rows of "{source}"; {again}')
    for name, size in files[source].items():
      file = _dataset(rows_dir, source) / name
      if not file.is_file():
        raise UserError(f'rows: {file} is missing; {again}')
      if file.stat().st_size != size:
        raise UserError(f'rows: {file} has {file.stat().st_size:,} bytes, not the {size:,} it was written with; {again}')
    for split in SPLITS:
      if not counts[source, split]:
        raise UserError(f'rows: "{source}" has no {split} rows in {rows_dir}; give it documents and {again}')
  return manifest


def write_json(path: pathlib.Path, content: dict[str, Any]) -> None:
  """Writes a JSON file, whole or not at all."""
  partial = path.with_name(path.name + '.incomplete')
  with open(partial, 'w', encoding='utf-8') as file:
    file.write(json.dumps(content, indent=1, sort_keys=True) + '\n')
    file.flush()
    os.fsync(file.fileno())
  os.replace(partial, path)


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
  """TFDS prints and logs what it downloads, which here is nothing."""
  verbosity = logging.get_verbosity()
  logging.set_verbosity(logging.WARNING)
  try:
    with contextlib.redirect_stdout(io.StringIO()):
      yield
  finally:
    logging.set_verbosity(verbosity)


@contextlib.contextmanager
def _same_bytes() -> Iterator[None]:
  """TFDS writes the fields of a row in an order that changes from process to process; here it is always the same."""
  from tensorflow_datasets.core.example_serializer import ExampleSerializer

  def serialize(self, example):
    return self.get_tf_example(example).SerializeToString(deterministic=True)

  plain, ExampleSerializer.serialize_example = ExampleSerializer.serialize_example, serialize
  try:
    yield
  finally:
    ExampleSerializer.serialize_example = plain


@contextlib.contextmanager
def _disk_errors(path: str | pathlib.Path) -> Iterator[None]:
  """The ArrayRecord writer tells of the disk in the text of a RuntimeError only."""
  try:
    yield
  except RuntimeError as error:
    for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES):
      if os.strerror(code) in str(error):
        raise OSError(code, os.strerror(code), str(path)) from error
    raise


class _Tally:
  """Rows and tokens of a split, counted as they are written."""

  def __init__(self, source: str, split: str, context: int):
    self._source, self._split, self._context = source, split, context
    self._counts = Counts()
    self._rows, self._tokens = 0, 0

  def count(self, rows: Callable[[Counts], Iterable[Row]]) -> Iterator[Row]:
    for row in rows(self._counts):
      self._rows += 1
      self._tokens += int(np.count_nonzero(row['segment_ids']))
      yield row
    if not self._rows:
      raise self._no_rows()  # said here since TFDS fails on a split without rows

  def _no_rows(self) -> UserError:
    says, drops = f'rows: "{self._source}" has no {self._split} rows', self._counts.drops
    if drops.keys() == {TOO_LONG}:
      count = f'{drops[TOO_LONG]:,} documents, all longer than a row of {self._context} tokens'
      return UserError(f'{says}: {count}; raise data.context')
    dropped = ', '.join(f'{count:,} {reason}' for reason, count in drops.items()) or 'none dropped'
    return UserError(f'{says} ({dropped}); give it more documents or widen data.buckets')

  def record(self) -> dict[str, Any]:
    drops = dict(sorted(self._counts.drops.items()))
    return {'rows': self._rows, 'tokens': self._tokens, 'documents': self._counts.documents, 'drops': drops}


def _dataset(rows_dir: str | pathlib.Path, source: str) -> pathlib.Path:
  return pathlib.Path(rows_dir) / source / VERSION


def _stamp(path: pathlib.Path) -> dict[str, Any]:
  return {'bytes': path.stat().st_size, 'sha256': _sha256(path)}


def _sha256(path: pathlib.Path) -> str:
  with open(path, 'rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()
