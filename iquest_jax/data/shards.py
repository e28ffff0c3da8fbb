"""Writes documents as JSON lines in a zstd file that appears complete or not at all."""

import os
import pathlib

from iquest_jax.data.documents import Document, to_json

_LEVEL = 3


class ShardWriter:
  """Writes documents one by one; the file exists once `close(complete=True)` has returned."""

  def __init__(self, path: pathlib.Path):
    import zstandard

    path.parent.mkdir(parents=True, exist_ok=True)
    self._path, self._partial = path, path.with_name(path.name + '.partial')
    self._file = open(self._partial, 'wb')
    self._stream = zstandard.ZstdCompressor(level=_LEVEL).stream_writer(self._file, closefd=False)

  def write(self, document: Document) -> None:
    self._stream.write((to_json(document) + '\n').encode())

  def close(self, complete: bool) -> None:
    """Finishes the file, or removes what was written of it."""
    try:
      if complete:
        self._stream.close()
        self._file.flush()
        os.fsync(self._file.fileno())
    finally:
      self._file.close()
    if complete:
      os.replace(self._partial, self._path)
    else:
      self._partial.unlink(missing_ok=True)
