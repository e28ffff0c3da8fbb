"""Deals documents into shards, each a sample of all documents, in two passes that hold little in memory.

First every input shard is dealt: its documents are written to one file in pieces, each a zstd frame of one target shard,
with a sorted index of where the pieces lie. Then every target shard is gathered: its pieces of all files are joined by
copying bytes, since joined frames are one valid file.
"""

import hashlib
import os
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from iquest_jax.data.documents import Document, to_json

# Text that is held before its pieces are written: more makes larger pieces, which compress better.
_HELD_CHARACTERS = 64 * 2**20
_LEVEL = 3


def deal(path: pathlib.Path, documents: Iterable[tuple[int, Document]]) -> int:
  """Writes (target shard, document) pairs to a file and its index; returns how many documents.

  Raises:
    OSError: the disk is full or not writable.
  """
  import zstandard

  compressor = zstandard.ZstdCompressor(level=_LEVEL)
  path.parent.mkdir(parents=True, exist_ok=True)
  index: list[tuple[int, int, int, int]] = []
  pieces: dict[int, list[str]] = {}
  held = 0
  partial = path.with_name(path.name + '.partial')
  with open(partial, 'wb') as file:

    def flush() -> None:
      for shard in sorted(pieces):
        frame = compressor.compress(''.join(pieces[shard]).encode())
        index.append((shard, file.tell(), len(frame), len(pieces[shard])))
        file.write(frame)
      pieces.clear()

    for shard, document in documents:
      line = to_json(document) + '\n'
      pieces.setdefault(shard, []).append(line)
      held += len(line)
      if held >= _HELD_CHARACTERS:
        flush()
        held = 0
    flush()
    file.flush()
    os.fsync(file.fileno())
  os.replace(partial, path)
  pieces_by_shard = np.asarray(sorted(index), np.int64).reshape(-1, 4)
  np.save(index_of(path), pieces_by_shard)
  return int(pieces_by_shard[:, 3].sum())


def index_of(path: pathlib.Path) -> pathlib.Path:
  """Index of a dealt file: int64 [pieces, 4] of (shard, offset, length, documents), sorted."""
  return path.with_name(path.name + '.npy')


def gather(target: pathlib.Path, shard: int, dealt: Sequence[pathlib.Path]) -> dict[str, Any]:
  """Joins the pieces of a shard from dealt files, in order.

  Returns:
    {documents, bytes, sha256} of the file.

  Raises:
    OSError: the disk is full or not writable.
  """
  digest, documents = hashlib.sha256(), 0
  target.parent.mkdir(parents=True, exist_ok=True)
  partial = target.with_name(target.name + '.partial')
  with open(partial, 'wb') as output:
    for path in dealt:
      index = np.load(index_of(path), mmap_mode='r')
      first, last = np.searchsorted(index[:, 0], (shard, shard + 1))
      if first < last:
        with open(path, 'rb') as file:
          for _, offset, length, count in index[first:last].tolist():
            file.seek(offset)
            frame = file.read(length)
            digest.update(frame)
            output.write(frame)
            documents += count
    output.flush()
    os.fsync(output.fileno())
    size = output.tell()
  os.replace(partial, target)
  return {'documents': documents, 'bytes': size, 'sha256': digest.hexdigest()}
