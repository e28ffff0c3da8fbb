"""Random access to packed rows on disk. Imports no TensorFlow."""

import bisect
import itertools
import os
import pathlib

from iquest_jax.data.rows.manifest import dataset
from iquest_jax.data.rows.packing import Row
from iquest_jax.errors import UserError


class Rows:
  """Random access to the rows of a split: `[i] -> {field: [T]}`, `len()`. Thread-safe."""

  def __init__(self, rows_dir: str | pathlib.Path, source: str, split: str, command: str):
    """Opens the rows. If they are damaged, this or a later read raises UserError, which names `command`."""
    import tensorflow_datasets as tfds  # imported here since it costs half a second, which `--help` need not pay

    self._command = command
    try:
      builder = tfds.builder_from_directory(str(dataset(rows_dir, source)))
      self._rows, self._shards = builder.as_data_source(split), builder.info.splits[split]
    except Exception as error:  # whatever the parsers of the description raise
      raise self._damaged(dataset(rows_dir, source), error) from error
    self._ends = list(itertools.accumulate(self._shards.shard_lengths))

  def __len__(self) -> int:
    return len(self._rows)

  def __getitem__(self, row: int) -> Row:
    try:
      return self._rows[row]
    except (RuntimeError, OSError) as error:  # ArrayRecord checks the hash of every block it reads
      raise self._damaged(self._shards.filepaths[bisect.bisect_right(self._ends, row)], error) from error

  def _damaged(self, path: os.PathLike, error: Exception) -> UserError:
    reason = ' '.join(str(error).split())
    return UserError(f'rows: {path} cannot be read ({reason}); prepare the rows again with {self._command}')
