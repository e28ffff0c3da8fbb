"""Lines of files that anyone may have written: plain, gzip or zstd, of any size, within bounds of memory and time."""

import glob
import os
import pathlib
import zlib
from collections.abc import Callable, Iterator
from typing import Any

from etils import epath

from iquest_jax.data.documents import Drop
from iquest_jax.errors import UserError

SUFFIXES = ('.jsonl', '.jsonl.gz', '.jsonl.zst', '.parquet')
# Longest line or text that is read; what is longer is passed over without being held.
LINE_BYTES = 64 << 20
# A compressed file may grow to so many bytes, or to so many times its size. Text grows 3 to 20 times, a bomb 1,000 times.
EXPANSION_BYTES, EXPANSION = 256 << 20, 200
_CHUNK = 1 << 18
# A block of zstd has at least 4 bytes and at most 128 KiB of content, so this much input gives at most 32 MiB.
_ZSTD_INPUT = 1 << 10
_BOM = b'\xef\xbb\xbf'


def input_files(path: str | os.PathLike, suffixes: tuple[str, ...] = SUFFIXES) -> tuple[pathlib.Path, ...]:
  """The files at a path, sorted: a file, all files below a folder, or what a glob finds; () if there are none.

  Links to files are followed, links to folders only where the path itself names them, so that no loop is entered.
  """
  pattern, found = os.fspath(path), set()
  for name in [pattern] if os.path.lexists(pattern) else glob.glob(pattern, recursive=True):
    if os.path.isdir(name):
      found |= {os.path.join(folder, file) for folder, _, files in os.walk(name) for file in files}
    else:
      found.add(name)
  return tuple(sorted(pathlib.Path(name) for name in found if name.endswith(suffixes) and os.path.isfile(name)))


def lines(path: str | os.PathLike) -> Iterator[tuple[int, bytes | Drop]]:
  """(number, line) of a file whose name may end in .gz or .zst, without blank lines and a byte order mark.

  A line longer than LINE_BYTES is a Drop in its place. A compressed file that is cut off, damaged or a bomb ends with a
  Drop; the whole lines before are given.

  Raises:
    UserError: the file is missing, a folder, or unreadable.
  """
  chunks, number, parts, size, is_first = _chunks(path), 0, [], 0, True
  for chunk in chunks:
    if isinstance(chunk, Drop):
      yield number + 1, chunk
      return
    if is_first:
      chunk, is_first = chunk.removeprefix(_BOM), False
    *ended, rest = chunk.split(b'\n')
    for piece in ended:
      number += 1
      line = _joined(path, number, [*parts, piece] if parts else [piece], size + len(piece))
      parts, size = [], 0
      if isinstance(line, Drop) or line and not line.isspace():
        yield number, line
    if rest:
      size += len(rest)
      parts = [*parts, rest] if size <= LINE_BYTES else [b'']
  if parts:
    line = _joined(path, number + 1, parts, size)
    if isinstance(line, Drop) or not line.isspace():
      yield number + 1, line


def _joined(path: str | os.PathLike, number: int, parts: list[bytes], size: int) -> bytes | Drop:
  if size > LINE_BYTES:
    return Drop('line: too long', f'{path}:{number}: {size:,} bytes, at most {LINE_BYTES:,}')
  return b''.join(parts)


def _chunks(path: str | os.PathLike) -> Iterator[bytes | Drop]:
  """The content of a file, decompressed, in pieces of bounded size; ends with a Drop if it is damaged."""
  try:
    with epath.Path(path).open('rb') as file:
      raw = iter(lambda: file.read(_CHUNK), b'')
      name = os.fspath(path)
      if name.endswith('.gz'):
        yield from _expanded(path, raw, _gzip_member, zlib.error)
      elif name.endswith('.zst'):
        import zstandard

        yield from _expanded(path, raw, _zstd_frame, zstandard.ZstdError)
      else:
        yield from raw
  except OSError as error:
    raise UserError(f'documents: {path} cannot be read: {error.strerror or error}; fix or remove it') from None


class _Input:
  """Compressed bytes, of which a part may be given back."""

  def __init__(self, chunks: Iterator[bytes]):
    self._chunks, self._rest, self.size = chunks, b'', 0

  def take(self) -> bytes:
    """The next piece; b'' at the end."""
    piece, self._rest = self._rest or next(self._chunks, b''), b''
    self.size += len(piece)
    return piece

  def give_back(self, piece: bytes) -> None:
    self._rest = piece + self._rest
    self.size -= len(piece)


def _expanded(
    path: str | os.PathLike, raw: Iterator[bytes], member: Callable[[_Input], Iterator[bytes]], error: type[Exception]
) -> Iterator[bytes | Drop]:
  """The members of a compressed file, one after another."""
  given, size = _Input(raw), 0
  try:
    while piece := given.take():
      given.give_back(piece)
      for content in member(given):
        size += len(content)
        if size > EXPANSION_BYTES and size > EXPANSION * given.size:
          yield Drop('file: expands too far', f'{path}: more than {EXPANSION} times its size')
          return
        if content:
          yield content
  except EOFError:
    yield Drop('file: compression is cut off', f'{path}')
  except error as reason:
    yield Drop('file: compression is damaged', f'{path}: {reason}')


def _gzip_member(given: _Input) -> Iterator[bytes]:
  piece = given.take()
  # Archivers pad with zeros.
  if not (stripped := piece.lstrip(b'\0')):
    return
  given.give_back(stripped)
  stream = zlib.decompressobj(zlib.MAX_WBITS | 16)
  while not stream.eof:
    if not (piece := given.take()):
      raise EOFError
    yield stream.decompress(piece, _CHUNK * 4)
    while stream.unconsumed_tail:
      yield stream.decompress(stream.unconsumed_tail, _CHUNK * 4)
  given.give_back(stream.unused_data)


def _zstd_frame(given: _Input) -> Iterator[bytes]:
  import zstandard

  # A frame that asks for a window above 128 MiB is refused.
  stream: Any = zstandard.ZstdDecompressor().decompressobj()
  while not stream.eof:
    if not (piece := given.take()):
      raise EOFError
    for start in range(0, len(piece), _ZSTD_INPUT):
      yield stream.decompress(piece[start : start + _ZSTD_INPUT])
      if stream.eof:
        given.give_back(stream.unused_data + piece[start + _ZSTD_INPUT :])
        break
