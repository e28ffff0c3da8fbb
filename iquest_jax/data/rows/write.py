"""Writes packed rows: shards, each by a task of its own, and segments, which join shards to a TFDS dataset.

A shard and a segment appear by one rename, so what was killed leaves nothing that looks finished. Imports no TensorFlow.
"""

import contextlib
import errno
import os
import pathlib
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from iquest_jax.data.rows import lock, record
from iquest_jax.data.rows.manifest import (
    SPLITS,
    VERSION,
    Manifest,
    is_whole,
    segment_hash,
    segments_of,
    shard_name,
    stamp,
)
from iquest_jax.data.rows.packing import Row
from iquest_jax.run_folder import write_whole

# What a sweep may remove: segments, whole or not, and the folders of earlier versions.
_SWEPT = re.compile(rf'\.?({"|".join(SPLITS)})-[0-9a-f]{{16}}|\d+\.\d+\.\d+')


def write_shard(path: str | pathlib.Path, rows: Iterable[Row], context: int) -> dict[str, Any]:
  """Writes one ArrayRecord file of rows atomically; the same rows give the same bytes.

  Args:
    rows: of T = `context` tokens, written as they come.

  Returns:
    {'rows', 'tokens', 'loss_weight', 'bytes', 'sha256'}. The loss weight is that of the tokens that are predicted, which
    the first of a document is not.

  Raises:
    OSError: the disk is full or not writable.
  """
  from array_record.python import array_record_module

  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  partial = path.with_name(path.name + '.partial')
  counts = {'rows': 0, 'tokens': 0, 'loss_weight': 0.0}
  with _disk_errors(path):
    # One row per chunk: a run reads them in any order.
    writer = array_record_module.ArrayRecordWriter(str(partial), 'group_size:1')
    try:
      for row in rows:
        assert len(row['tokens']) == context, f'a row of {len(row["tokens"])} tokens among those of {context}'
        writer.write(record.serialize(row))
        counts['rows'] += 1
        counts['tokens'] += int((row['segment_ids'] > 0).sum())
        counts['loss_weight'] += float(row['loss_weights'][row['positions'] > 0].sum(dtype='float64'))
    finally:
      writer.close()
  with open(partial, 'rb') as file:
    os.fsync(file.fileno())
  written = stamp(partial)
  os.replace(partial, path)
  _sync(path.parent)
  return counts | written


def seal_segment(
    rows_dir: str | pathlib.Path,
    source: str,
    split: str,
    shards: Sequence[tuple[str | pathlib.Path, Mapping[str, Any]]],
    context: int,
) -> dict[str, Any]:
  """Makes a segment of shards: a folder that `tfds.builder_from_directory` opens; returns its entry of the manifest.

  The shards stay where they are, linked into the segment. Repeated, it changes nothing.

  Args:
    shards: (path, what `write_shard` returned) of each, in order.

  Raises:
    OSError: a shard is missing, or the disk is full or not writable.
  """
  counts = [{name: of_shard[name] for name in ('rows', 'bytes', 'sha256')} for _, of_shard in shards]
  digest = segment_hash(source, split, context, counts)
  folder = pathlib.Path(rows_dir) / source / f'{split}-{digest[:16]}'
  description = {
      'features.json': record.features(),
      'dataset_info.json': record.dataset_info(
          source, split, VERSION, [shard['rows'] for shard in counts], sum(shard['bytes'] for shard in counts)
      ),
  }
  partial = folder.with_name(f'.{folder.name}')
  shutil.rmtree(partial, ignore_errors=True)
  partial.mkdir(parents=True)
  for name, text in description.items():
    write_whole(partial / name, text)
  segment = {
      'folder': f'{source}/{folder.name}',
      'sha256': digest,
      'shards': counts,
      'description': {name: stamp(partial / name) for name in description},
      **{name: sum(of_shard[name] for _, of_shard in shards) for name in ('rows', 'tokens', 'loss_weight')},
  }
  if is_whole(rows_dir, source, split, segment):
    shutil.rmtree(partial)
    return segment
  for number, (path, _) in enumerate(shards):
    _link(path, partial / shard_name(source, split, number, len(shards)))
  _sync(partial)
  shutil.rmtree(folder, ignore_errors=True)
  os.replace(partial, folder)
  _sync(folder.parent)
  return segment


def sweep(rows_dir: str | pathlib.Path, manifest: Manifest) -> bool:
  """Removes the segments that a manifest does not name, unless a run holds the rows; returns whether it did.

  Only folders that have the name of a segment are removed, `<rows_dir>/<source>/<split>-<hash>`.
  """
  with lock.alone(rows_dir) as locked:
    if not locked:
      return False
    named = {
        segment['folder']
        for source in manifest['sources'] for split in SPLITS for segment in segments_of(manifest, source, split)
    }  # fmt: skip
    for folder in pathlib.Path(rows_dir).glob('*/*/'):
      if _SWEPT.fullmatch(folder.name) and f'{folder.parent.name}/{folder.name}' not in named:
        shutil.rmtree(folder, ignore_errors=True)
  return True


def _link(path: str | pathlib.Path, to: pathlib.Path) -> None:
  try:
    os.link(path, to)
  except FileNotFoundError:
    raise
  except OSError:  # another file system, or one without links
    shutil.copyfile(path, to)
    with open(to, 'rb') as file:
      os.fsync(file.fileno())


def _sync(folder: pathlib.Path) -> None:
  opened = os.open(folder, os.O_RDONLY)
  try:
    os.fsync(opened)
  finally:
    os.close(opened)


@contextlib.contextmanager
def _disk_errors(path: pathlib.Path) -> Iterator[None]:
  """Turns the RuntimeErrors of the ArrayRecord writer into OSErrors: only their text says that the disk is full."""
  try:
    yield
  except RuntimeError as error:
    for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.ENOENT):
      if os.strerror(code) in str(error):
        raise OSError(code, os.strerror(code), str(path)) from error
    raise
