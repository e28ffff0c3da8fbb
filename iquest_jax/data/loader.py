"""From packed rows to batches, as a pure function of (seed, step, row).

Row i of step s is global row s * batch_rows + i. The mixture says which source it comes from and which draw of that source
it is; Grain's indexed shuffle says which row on disk that draw is. No state is kept, so a resume at any step is a
subtraction, and hosts and devices do not enter: each process reads the rows its devices hold.
"""

import hashlib
import pathlib
from collections.abc import Iterator, Sequence

import grain
import jax
import numpy as np

from iquest_jax.batch import Batch
from iquest_jax.data import rows as rows_lib
from iquest_jax.data.mixture import Mixture, Schedule
from iquest_jax.data.packing import FIELDS, Row

# Batches read ahead: enough to ride out a slow read, little enough for long contexts.
_THREADS = 2
_READ_AHEAD = 4

NumpyBatch = dict[str, np.ndarray]


class Loader:
  """Reads the batches of a stage.

  Attributes:
    sources: sorted source names; `source_ids` index them.
    manifest: of the rows folder.
  """

  def __init__(
      self,
      rows_dir: str | pathlib.Path,
      schedule: Schedule,
      *,
      context: int,
      batch_rows: int,
      seed: int,
      tokenizer_fingerprint: str,
      command: str = 'python -m launch.prepare',
  ):
    """Opens the rows.

    Args:
      rows_dir: folder of the stage's rows.
      schedule: ((from_step, ((source, weight), ...)), ...).
      context: T, tokens in a row.
      batch_rows: B, rows of a whole batch over all hosts.
      seed: of the order in which a source's rows are drawn.
      tokenizer_fingerprint: of the tokenizer the rows must have been made with.
      command: makes the rows; named in errors.

    Raises:
      UserError: the schedule is wrong, or the rows are missing, empty, or made for something else.
    """
    mixture = Mixture(schedule, batch_rows)
    self.sources = mixture.sources
    self._context, self._batch_rows = context, batch_rows
    self.manifest = rows_lib.check_manifest(
        rows_dir, sources=self.sources, context=context, tokenizer_fingerprint=tokenizer_fingerprint, command=command
    )
    drawn = []
    for index, source in enumerate(self.sources):
      rows = grain.MapDataset.source(rows_lib.open_rows(rows_dir, source, 'train'))
      shuffled = rows.seed(_seed_of(seed, source)).shuffle().repeat()
      drawn.append(shuffled.map(lambda row, index=index: {**row, 'source_ids': np.int32(index)}))
    self._rows = grain.MapDataset.select(drawn, mixture)
    self._held_out = [rows_lib.open_rows(rows_dir, source, 'held_out') for source in self.sources]

  def batches(self, start_step: int, end_step: int, rows: Sequence[int] | None = None) -> Iterator[NumpyBatch]:
    """Batches of steps start_step .. end_step - 1, read ahead in threads.

    Args:
      start_step: first step.
      end_step: one past the last.
      rows: sorted indices of the rows of the batch to read, R of them; all where None.

    Yields:
      {tokens, targets, loss_weights, segment_ids, positions [R, T], source_ids [R]}; see batch.Batch.
    """
    rows = range(self._batch_rows) if rows is None else rows
    steps = grain.MapDataset.range(start_step, end_step)
    read = steps.map(lambda step: self._batch([self._rows[int(step) * self._batch_rows + row] for row in rows]))
    options = grain.ReadOptions(num_threads=_THREADS, prefetch_buffer_size=_READ_AHEAD)
    return iter(read.to_iter_dataset(options))

  def held_out(self, rows_per_source: int, rows: Sequence[int] | None = None) -> list[NumpyBatch]:
    """The first held-out rows of every source, source by source, in batches like those of training.

    Args:
      rows_per_source: at most this many of each source.
      rows: as in `batches`.

    Returns:
      Batches in a fixed order. The last is filled up with rows of padding, which weigh nothing.
    """
    chosen = [
        (index, row) for index, held in enumerate(self._held_out) for row in range(min(rows_per_source, len(held)))
    ]
    batches = []
    for start in range(0, len(chosen), self._batch_rows):
      batch = chosen[start : start + self._batch_rows]
      wanted = [batch[row] if row < len(batch) else None for row in (range(self._batch_rows) if rows is None else rows)]
      batches.append(self._batch([self._held_out_row(place) for place in wanted]))
    return batches

  def _held_out_row(self, place: tuple[int, int] | None) -> Row:
    if place is None:
      return {**{name: np.zeros(self._context, dtype) for name, dtype in FIELDS.items()}, 'source_ids': np.int32(0)}
    index, row = place
    return {**self._held_out[index][row], 'source_ids': np.int32(index)}

  def _batch(self, rows: list[Row]) -> NumpyBatch:
    """Stacks rows and makes targets: what follows in the same document, with the weight of learning it."""
    batch = {name: np.stack([row[name] for row in rows]) for name in (*FIELDS, 'source_ids')}
    follows = np.zeros_like(batch['tokens'], bool)
    follows[:, :-1] = (batch['segment_ids'][:, 1:] == batch['segment_ids'][:, :-1]) & (batch['segment_ids'][:, 1:] > 0)
    batch['targets'] = np.where(follows, np.roll(batch['tokens'], -1, axis=1), 0)
    batch['loss_weights'] = np.where(follows, np.roll(batch['loss_weights'], -1, axis=1), np.float32(0))
    return batch


def local_rows(sharding: jax.sharding.NamedSharding, batch_rows: int, context: int) -> tuple[int, ...]:
  """Sorted indices of the rows of a [B, T] batch that devices of this process hold."""
  places = sharding.addressable_devices_indices_map((batch_rows, context)).values()
  return tuple(sorted({row for rows, _ in places for row in range(batch_rows)[rows]}))


def place(batch: NumpyBatch, rows: Sequence[int], batch_rows: int, sharding: jax.sharding.NamedSharding) -> Batch:
  """Makes global arrays out of the rows that this process has read.

  Args:
    batch: [R, T] and [R] arrays.
    rows: the R sorted row indices of `batch`; they contain `local_rows(sharding, ...)`.
    batch_rows: B.
    sharding: of the [B, T] arrays; source_ids [B] follow its first axis.
  """
  rows = np.asarray(rows)
  by_row = jax.sharding.NamedSharding(sharding.mesh, jax.sharding.PartitionSpec(*sharding.spec[:1]))

  def put(values: np.ndarray) -> jax.Array:
    def shard(index: tuple[slice, ...]) -> np.ndarray:
      held = np.searchsorted(rows, np.arange(batch_rows)[index[0]])
      return values[(held, *index[1:])]

    shape = (batch_rows, *values.shape[1:])
    return jax.make_array_from_callback(shape, sharding if values.ndim == 2 else by_row, shard)

  return Batch(**{name: put(values) for name, values in batch.items()})


def _seed_of(seed: int, source: str) -> int:
  """32 bits for a source: adding a source to a stage leaves the order of the others alone."""
  return int.from_bytes(hashlib.sha256(f'{seed}:{source}'.encode()).digest()[:4], 'big')
