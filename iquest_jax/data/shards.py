"""Writes documents as JSON lines in a zstd file that appears complete or not at all."""

import os
import pathlib

from iquest_jax.data.documents import Document, to_json

_LEVEL = 3


class ShardWriter:
  """Writes documents one by one; a context manager. The file exists once it has been left without an error."""

  def __init__(self, path: pathlib.Path):
    self._path, self._partial = path, path.with_name(path.name + '.partial')

  def __enter__(self):
    import zstandard

    self._path.parent.mkdir(parents=True, exist_ok=True)
    self._file = open(self._partial, 'wb')
    self._stream = zstandard.ZstdCompressor(level=_LEVEL).stream_writer(self._file, closefd=False)
    return self

  def write(self, document: Document) -> None:
    self._stream.write((to_json(document) + '\n').encode())

  def __exit__(self, failed, *_):
    with self._file:
      if failed:
        self._partial.unlink()
        return
      self._stream.close()
      self._file.flush()
      os.fsync(self._file.fileno())
    os.replace(self._partial, self._path)
