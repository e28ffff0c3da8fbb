"""`small_pieces SHARD_BYTES PIECE_BYTES FILE -m MODULE FLAGS`: small shards and pieces; FILE gets the bytes moved.

As JSON: of tensors read from published files, of pieces read from a checkpoint, of rows written to published files.
"""

import json
import pathlib
import sys

from iquest_jax.checkpoint import stream
from iquest_jax.convert import files

from tests.programs import wrap

if __name__ == '__main__':
  shard_bytes, piece_bytes, file, *command = sys.argv[1:]
  files.SHARD_BYTES, stream.PIECE_BYTES = int(shard_bytes), int(piece_bytes)
  moved = {'tensors': 0, 'pieces': 0, 'rows': 0}

  def rows(inner):
    def counted(*args, **kwargs):
      out = inner(*args, **kwargs)
      moved['tensors'] += out.nbytes
      return out

    return counted

  def pieces(inner):
    def counted(*args, **kwargs):
      generator = inner(*args, **kwargs)
      try:
        while True:
          path, start, piece = next(generator)
          moved['pieces'] += piece.nbytes
          yield path, start, piece
      except StopIteration as end:
        return end.value

    return counted

  def append(inner):
    def counted(self, name, rows):
      moved['rows'] += rows.nbytes
      return inner(self, name, rows)

    return counted

  wrap.replace('iquest_jax.convert.files:Stored.rows', rows)
  wrap.replace('iquest_jax.checkpoint.stream:pieces', pieces)
  wrap.replace('iquest_jax.convert.files:Shards.append', append)
  try:
    wrap.run(command)
  finally:
    pathlib.Path(file).write_text(json.dumps(moved))
