"""Safetensors files: which file holds a tensor, its rows, and shards that are written row by row.

The library checks a file, but it maps whole files to read them, whose pages count as memory of the process, and writes
whole shards. So rows are read and written here: a file is the length of its header, the header in JSON, the tensors.
"""

import json
import math
import os
import pathlib
import re
from typing import NamedTuple

import jax
import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from iquest_jax.convert import names
from iquest_jax.errors import UserError

SINGLE = 'model.safetensors'
INDEX = 'model.safetensors.index.json'
SHARD_BYTES = 5 * 10**9
DTYPES = {'float32': np.dtype(np.float32), 'bfloat16': np.dtype(ml_dtypes.bfloat16)}
_CODES = {DTYPES['float32']: 'F32', DTYPES['bfloat16']: 'BF16'}
# Every value of these is exact in float32.
_READABLE = {'F32': DTYPES['float32'], 'BF16': DTYPES['bfloat16'], 'F16': np.dtype(np.float16)}
# LoopCoder-v2 stores a gate in its layer, under either name.
_GATE_IN_LAYER = re.compile(r'model\.layers\.(\d+)\.self_attn\.(?:plt_gate|loop_gate_proj)\.')


class Stored(NamedTuple):
  """Where a tensor is stored: its name there, what the header says of it, and where in the file it begins."""

  path: pathlib.Path
  name: str
  shape: tuple[int, ...]
  code: str
  offset: int

  def rows(self, start: int = 0, stop: int | None = None) -> np.ndarray:
    """Rows [start, stop) of the tensor, all by default, as a new array.

    Raises:
      UserError: the file is missing or has changed since it was found.
    """
    stop, dtype = self.shape[0] if stop is None else stop, _READABLE[self.code]
    row = math.prod(self.shape[1:])
    try:
      rows = np.fromfile(self.path, dtype, row * (stop - start), offset=self.offset + start * row * dtype.itemsize)
      return rows.reshape(stop - start, *self.shape[1:])
    except (OSError, ValueError) as error:
      raise _damaged(self.path, error) from None

  def check(self, shape: tuple[int, ...]) -> None:
    """Raises UserError unless the tensor has this shape and a type that float32 holds exactly."""
    if self.shape != shape:
      raise UserError(
          f'{self.path}: tensor {self.name} must be {shape} by config.json, got {self.shape}; fix one of them'
      )
    if self.code not in _READABLE:
      raise UserError(f'{self.path}: tensor {self.name} must be one of {", ".join(_READABLE)}, got {self.code}')


def find(model_dir: pathlib.Path) -> dict[str, Stored]:
  """{tensor name: where it is stored}; gates by the name that the released loop gives them. Reads headers only.

  Raises:
    UserError: a file is missing or damaged, or two files hold the same tensor.
  """
  found = {}
  for path in _weight_files(model_dir):
    for stored in _tensors(path):
      known = _GATE_IN_LAYER.sub(names.GATES + r'\1.', stored.name)
      if known in found:
        both = f'{found[known].path.name} and {path.name}'
        raise UserError(f'{model_dir}: tensor {stored.name} is in both {both}; fetch the files again')
      found[known] = stored
  return found


def _tensors(path: pathlib.Path) -> list[Stored]:
  """The tensors of a file, whose header the library has checked against its length."""
  try:
    with safe_open(path, framework='numpy'), open(path, 'rb') as file:
      length = int.from_bytes(file.read(8), 'little')
      header = json.loads(file.read(length))
  except (OSError, SafetensorError) as error:
    raise _damaged(path, error) from None
  header.pop('__metadata__', None)
  return [
      Stored(path, name, tuple(entry['shape']), entry['dtype'], 8 + length + entry['data_offsets'][0])
      for name, entry in header.items()
  ]


def _damaged(path: pathlib.Path, error: Exception) -> UserError:
  return UserError(f'{path}: missing or damaged ({error}); fetch the file again')


def _weight_files(model_dir: pathlib.Path) -> list[pathlib.Path]:
  """The files that hold the tensors: those in the index, if one exists."""
  index = model_dir / INDEX
  if not index.exists():
    return [model_dir / SINGLE]
  try:
    files = sorted(set(json.loads(index.read_text())['weight_map'].values()))
  except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
    raise UserError(f'{index}: not an index of shards ({error}); fetch the file again') from error
  # A name with folders in it would read outside the checkpoint.
  for name in files:
    if not isinstance(name, str) or pathlib.PurePath(name).name != name:
      raise UserError(f'{index}: shard "{name}" is not a file name; fetch the file again')
  return [model_dir / name for name in files]


def writers(shapes: dict[str, tuple[int, ...]], dtype: np.dtype) -> dict[str, int]:
  """{tensor name: the process that writes its file}: files go to the processes in turn."""
  files = enumerate(_headers(shapes, dtype).values())
  return {name: number % jax.process_count() for number, headers in files for name in headers}


class Shards:
  """Writes tensors into safetensors files, in the order that was announced and some rows at a time.

  Of several processes, each writes the files that `writers` gives it.
  """

  def __init__(self, folder: pathlib.Path, shapes: dict[str, tuple[int, ...]], dtype: np.dtype):
    """Takes the shapes of all tensors by name; files hold at most SHARD_BYTES, or one tensor that is larger."""
    self._folder, self._headers, whose = folder, _headers(shapes, dtype), writers(shapes, dtype)
    self._order = [
        (file, name, header)
        for file, headers in self._headers.items()
        for name, header in headers.items()
        if whose[name] == jax.process_index()
    ]
    self._file, self._written = None, 0  # bytes of the tensor at the front of _order

  def append(self, name: str, rows: np.ndarray) -> None:
    """Writes the next rows, contiguous, of the tensor whose turn it is."""
    file, expected, header = self._order[0]
    assert name == expected, (name, expected)
    if not self._file:
      self._open(file)
    self._file.write(rows.reshape(-1).view(np.uint8))
    self._written += rows.nbytes
    start, stop = header['data_offsets']
    if self._written >= stop - start:
      assert self._written == stop - start, name
      self._order.pop(0)
      self._written = 0
      if not self._order or self._order[0][0] != file:
        self.close()

  def finish(self) -> None:
    """Has the first process write the index, if there are several files; all tensors must have been written."""
    assert not self._order
    if len(self._headers) > 1 and jax.process_index() == 0:
      stops = [list(headers.values())[-1]['data_offsets'][1] for headers in self._headers.values()]
      weight_map = {name: file for file, headers in self._headers.items() for name in headers}
      index = {'metadata': {'total_size': sum(stops)}, 'weight_map': weight_map}
      (self._folder / INDEX).write_text(json.dumps(index, indent=2) + '\n')

  def close(self) -> None:
    """Closes the open file, if any, when its bytes are on the disk."""
    if self._file:
      self._file.flush()
      os.fsync(self._file.fileno())
      self._file.close()
      self._file = None

  def _open(self, name: str) -> None:
    # transformers requires this mark of PyTorch's layout: matrices as [outputs, inputs].
    header = json.dumps({'__metadata__': {'format': 'pt'}} | self._headers[name], separators=(',', ':'))
    header = header.encode().ljust(8 * math.ceil(len(header) / 8))
    self._file = open(self._folder / name, 'wb')
    self._file.write(len(header).to_bytes(8, 'little') + header)


def _headers(shapes: dict[str, tuple[int, ...]], dtype: np.dtype) -> dict[str, dict[str, dict]]:
  """{file name: {tensor name: its entry in the header}}."""
  shards = [{}]
  for name, shape in shapes.items():
    start = max((entry['data_offsets'][1] for entry in shards[-1].values()), default=0)
    size = math.prod(shape) * dtype.itemsize
    if shards[-1] and start + size > SHARD_BYTES:
      shards.append({})
      start = 0
    shards[-1][name] = {'dtype': _CODES[dtype], 'shape': list(shape), 'data_offsets': [start, start + size]}
  if len(shards) == 1:
    return {SINGLE: shards[0]}
  return {f'model-{number:05d}-of-{len(shards):05d}.safetensors': shard for number, shard in enumerate(shards, 1)}
