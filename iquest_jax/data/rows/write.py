"""Writes packed rows: one TFDS dataset (ArrayRecord) per source.

`<rows_dir>/<source>/` appears atomically, by one rename; `<rows_dir>/manifest.json` is written once every source exists. A
preparation that was killed leaves `.incomplete/` and nothing that looks finished.
"""

import contextlib
import errno
import io
import json
import os
import pathlib
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from absl import logging

from iquest_jax.data.rows.manifest import SPLITS, VERSION, dataset, stamp, to_json
from iquest_jax.data.rows.packing import FIELDS, TOO_LONG, Counts, Row
from iquest_jax.data.rows.read import Rows
from iquest_jax.errors import UserError
from iquest_jax.run_folder import write_whole

_RECORD = 'source.json'
_INCOMPLETE = '.incomplete'


def write_source(
    rows_dir: str | pathlib.Path,
    source: str,
    context: int,
    inputs: str,
    splits: dict[str, Callable[[Counts], Iterable[Row]]],
) -> dict[str, Any]:
  """Writes the rows of a source atomically, replacing those that exist; returns its entry of the manifest.

  Args:
    context: T, tokens in a row.
    inputs: hash of everything the rows depend on; `entry_if_current` compares it.
    splits: {split: function that yields its rows and updates the counts}.

  Raises:
    UserError: a split has no rows.
    OSError: the disk is full or not writable.
  """
  import tensorflow_datasets as tfds

  tfds.disable_progress_bar()
  incomplete = pathlib.Path(rows_dir) / _INCOMPLETE
  shutil.rmtree(incomplete / source, ignore_errors=True)
  counts = {split: Counts() for split in splits}

  def counted(split: str) -> Iterator[Row]:
    count = counts[split]
    for row in splits[split](count):
      count.rows += 1
      count.tokens += int(np.count_nonzero(row['segment_ids']))
      yield row
    if not count.rows:  # TFDS would fail on a split without rows, with an error of its own
      raise _no_rows(f'rows: "{source}" has no {split} rows', context, count.drops)

  builder = tfds.dataset_builders.AdhocBuilder(
      name=source,
      version=VERSION,
      features=tfds.features.FeaturesDict({
          name: tfds.features.Tensor(shape=(context,), dtype=dtype, encoding=tfds.features.Encoding.BYTES)
          for name, dtype in FIELDS.items()
      }),
      split_datasets={split: enumerate(counted(split)) for split in splits},
      data_dir=str(incomplete),
      description=f'Packed rows of {source}.',
      file_format='array_record',
      disable_shuffling=True,
  )
  with _quietly(), _same_bytes(), _disk_errors(rows_dir):
    builder.download_and_prepare()
  record = {
      'inputs': inputs,
      **{split: vars(count) for split, count in counts.items()},
      'files': {path.name: stamp(path) for path in sorted(pathlib.Path(builder.data_dir).glob('*array_record*'))},
      'builder': {'tensorflow_datasets': tfds.__version__, 'rows': VERSION},
  }
  write_whole(incomplete / source / _RECORD, to_json(record))
  final = pathlib.Path(rows_dir) / source
  shutil.rmtree(final, ignore_errors=True)
  os.replace(incomplete / source, final)
  shutil.rmtree(incomplete)
  return record


def entry_if_current(rows_dir: str | pathlib.Path, source: str, inputs: str) -> dict[str, Any] | None:
  """The entry of a source if it was written from the same inputs and is undamaged, otherwise None.

  Checks the hash of every file, since the command that errors name must not keep damaged rows. This takes half a second
  per gigabyte (measured), far less than writing them. Training checks only names and sizes when it starts
  (`check_manifest`): hours of hashing on every host would find nothing that ArrayRecord does not find as it reads.
  """
  try:
    record = json.loads((pathlib.Path(rows_dir) / source / _RECORD).read_text())
    if record['inputs'] != inputs:
      return None
    for split in SPLITS:
      Rows(rows_dir, source, split, command='')
    whole = all(stamp(dataset(rows_dir, source) / name) == was for name, was in record['files'].items())
  except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError, UserError):
    return None
  return record if whole else None


@contextlib.contextmanager
def without_stderr() -> Iterator[None]:
  """Closes standard error: TensorFlow's C++ code prints a greeting to it when imported, whatever the settings."""
  sys.stderr.flush()
  kept = os.dup(2)
  with open(os.devnull, 'wb') as nowhere:
    os.dup2(nowhere.fileno(), 2)
  try:
    yield
  finally:
    os.dup2(kept, 2)
    os.close(kept)


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
  """Silences TFDS, which prints and logs what it downloads although there is nothing to download."""
  verbosity = logging.get_verbosity()
  logging.set_verbosity(logging.WARNING)
  try:
    with contextlib.redirect_stdout(io.StringIO()):
      yield
  finally:
    logging.set_verbosity(verbosity)


@contextlib.contextmanager
def _same_bytes() -> Iterator[None]:
  """Makes TFDS write the fields of a row in a fixed order; its own changes from process to process."""
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
  """Turns the RuntimeErrors of the ArrayRecord writer into OSErrors: only their text says that the disk is full."""
  try:
    yield
  except RuntimeError as error:
    for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES):
      if os.strerror(code) in str(error):
        raise OSError(code, os.strerror(code), str(path)) from error
    raise


def _no_rows(problem: str, context: int, drops: Mapping[str, int]) -> UserError:
  if drops.keys() == {TOO_LONG}:
    count = f'{drops[TOO_LONG]:,} documents, all longer than a row of {context} tokens'
    return UserError(f'{problem}: {count}; raise data.context')
  dropped = ', '.join(f'{count:,} {reason}' for reason, count in drops.items()) or 'none dropped'
  return UserError(f'{problem} ({dropped}); give it more documents or widen data.buckets')
