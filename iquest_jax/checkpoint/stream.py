"""Parameters that are never in memory whole: written to a checkpoint, and read from one, in pieces.

Orbax's own calls take whole leaves. Here a type handler of Orbax writes the pieces, so that format and commit stay
Orbax's, and TensorStore reads them from where Orbax says they are. Of several processes, each reads and writes its own.
"""

import concurrent.futures
import dataclasses
import itertools
import math
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorstore as ts
from etils import epath

from iquest_jax import hosts
from iquest_jax.checkpoint import fingerprint

# Of a stored chunk, and of a piece; but a piece is at least one layer.
PIECE_BYTES = 64 << 20


@dataclasses.dataclass(eq=False)
class Source:
  """A float32 leaf that is read piece by piece while its checkpoint is written.

  Attributes:
    shape: of the whole leaf.
    axis: along which it is cut.
    read: (start, stop) to a new float32 array, the piece [start, stop) along `axis`.
    fingerprint: of the whole leaf, once it is written.
  """

  shape: tuple[int, ...]
  axis: int
  read: Callable[[int, int], np.ndarray]
  fingerprint: str = ''

  dtype = np.dtype(np.float32)


class _Writer(ocp.type_handlers.NumpyHandler):
  """Writes Sources and takes their fingerprints. In memory are the piece being written and the next."""

  async def serialize(self, values: Sequence[Source], infos, args=None):
    process, numbers, sums = jax.process_index(), itertools.count(), []
    # As Orbax does it: the first process creates an array, and the others write chunks of it without looking for it.
    mode = {'assume_metadata': True} if process else {'create': True}
    with concurrent.futures.ThreadPoolExecutor(2) as threads:
      for leaf, info, arg in zip(values, infos, args, strict=True):
        where = ocp.type_handlers.get_json_tspec_write(
            info, True, leaf.shape, leaf.shape, leaf.dtype, process_index=process, arg=arg
        )
        store = ts.open(ts.Spec(where), open=True, context=info.ts_context, **mode).result()
        begin = lambda start, stop, leaf=leaf: threads.submit(leaf.read, start, stop)
        own = [cut for cut in _cuts(store, leaf.axis) if next(numbers) % jax.process_count() == process]
        sums.append(np.zeros(2, np.uint32))
        for start, stop, piece in _ahead(begin, own):
          hashed = threads.submit(fingerprint.host_sums, piece, _corner(leaf.shape, leaf.axis, start))
          _piece(store, leaf.axis, start, stop).write(piece).result()
          sums[-1] += hashed.result()
          del piece, hashed  # before the next but one is read
    for leaf, total in zip(values, over_processes(sums), strict=True):
      leaf.fingerprint = total
    return []  # nothing is left to wait for


def over_processes(sums: Sequence[np.ndarray]) -> list[str]:
  """The fingerprints of leaves from what each process summed up of them, uint32 [2] each; all call it together."""
  gathered = np.asarray(hosts.gather('fingerprints', np.asarray(sums, np.uint32).tolist()), np.uint32)
  return [fingerprint.of_sums(gathered[:, leaf]) for leaf in range(len(sums))]


def handler() -> ocp.PyTreeCheckpointHandler:
  """Orbax's handler for trees of Source. It does not compress, which would take as long as everything else together."""
  # Orbax warns of a registry without arrays.
  arrays = ocp.type_handlers.get_type_handler(jax.Array)
  registry = ocp.type_handlers.create_type_handler_registry((Source, _Writer()), (jax.Array, arrays))
  return ocp.PyTreeCheckpointHandler(type_handler_registry=registry, use_compression=False)


def layout(params: Any) -> Any:
  """Tree of Orbax's arguments that store every layer in chunks of its own, so that it can be read alone."""

  def arguments(path, _):
    stacked = fingerprint.leaf_path(path).startswith('layers/')
    return ocp.SaveArgs(chunk_byte_size=PIECE_BYTES, shard_axes=(0,) if stacked else ())

  return jax.tree_util.tree_map_with_path(arguments, params)


def pieces(
    folder: epath.Path, path: str, axis: int, readers: Callable[[int, int], Sequence[int]]
) -> Generator[tuple[str, int, np.ndarray], None, np.ndarray]:
  """Reads the leaf `path` of the parameters in `folder`.

  Two pieces are in memory, the one that was yielded, which must not be changed, and the next. Where chunks extend
  further along `axis` than a piece should, as in checkpoints written without `layout`, a piece is as long as a chunk.

  Args:
    axis: along which it is cut; a leaf without axes is one piece.
    readers: (start, stop) of a piece to the processes that read it; the first of them hashes it.

  Yields:
    (path, where the piece starts along `axis`, the piece) of those that this process reads.

  Returns:
    What this process adds to the sums of the leaf's fingerprint, uint32 [2].
  """
  context = ocp.type_handlers.get_ts_context()
  info = ocp.type_handlers.ParamInfo(
      name=path.replace('/', '.'), parent_dir=folder, is_ocdbt_checkpoint=True, ts_context=context
  )
  store = ts.open(ts.Spec(ocp.type_handlers.get_json_tspec_read(info, True)), context=context).result()
  total, process = np.zeros(2, np.uint32), jax.process_index()
  own = [cut for cut in _cuts(store, axis) if process in readers(*cut)]
  with concurrent.futures.ThreadPoolExecutor(1) as thread:
    for start, stop, piece in _ahead(lambda start, stop: _piece(store, axis, start, stop).read(), own):
      hashed = None
      if readers(start, stop)[0] == process:
        hashed = thread.submit(fingerprint.host_sums, piece, _corner(store.shape, axis, start))
      yield path, start, piece
      if hashed:
        total += hashed.result()
      del piece, hashed  # before the next but one is read
  return total


def _cuts(store: ts.TensorStore, axis: int) -> list[tuple[int, int]]:
  """(start, stop) along `axis` of pieces that are whole chunks and, as far as that allows, PIECE_BYTES large."""
  if not store.shape:
    return [(0, 1)]
  chunk = store.chunk_layout.write_chunk.shape[axis]
  chunk_bytes = chunk * math.prod(store.shape) // store.shape[axis] * store.dtype.numpy_dtype.itemsize
  step = chunk * max(1, PIECE_BYTES // chunk_bytes)
  return [(start, min(start + step, store.shape[axis])) for start in range(0, store.shape[axis], step)]


def _piece(store: ts.TensorStore, axis: int, start: int, stop: int) -> ts.TensorStore:
  return store[(slice(None),) * axis + (slice(start, stop),)] if store.shape else store


def _corner(shape: Sequence[int], axis: int, start: int) -> list[int]:
  """Coordinates of the first element of a piece."""
  return [start if axis == other else 0 for other in range(len(shape))]


def _ahead(begin: Callable[[int, int], Any], cuts: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int, Any]]:
  """(start, stop, what `begin(start, stop)` promised) per cut; the next has begun before one is yielded."""
  waiting = []
  for cut in (*cuts, None):
    waiting += [(*cut, begin(*cut))] if cut else []
    if len(waiting) == 2 or (waiting and not cut):
      start, stop, promised = waiting.pop(0)
      result = promised.result()
      del promised
      yield start, stop, result
      del result
