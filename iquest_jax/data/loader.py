"""From packed rows to batches, as a pure function of (seed, step, row).

Row i of step s is global row s * batch_rows + i. The mixture says which source it comes from and which draw of that
source it is; Grain's indexed shuffle maps that draw to a row on disk. No state is kept, so a resume at any step is
immediate and independent of hosts and devices: each process reads the rows its devices hold.
"""

import hashlib
import pathlib
from collections.abc import Iterator, Mapping, Sequence

import grain
import jax
import numpy as np
from ml_collections import ConfigDict

from iquest_jax import bucket
from iquest_jax.batch import Batch, zigzag
from iquest_jax.data.rows import fetch, lock
from iquest_jax.data.rows import manifest as manifest_lib
from iquest_jax.data.rows.mixture import Mixture, Schedule, scaled
from iquest_jax.data.rows.packing import FIELDS, Row
from iquest_jax.data.rows.read import OpenShards, Rows
from iquest_jax.errors import UserError
from iquest_jax.run_folder import RunFolder
from iquest_jax.text.tokenizer import Tokenizer

# Batches read ahead: enough to hide a slow read, few enough for long contexts. More threads would only wait for the
# interpreter's lock.
_READ_AHEAD = 4
_THREADS = 1

NumpyBatch = dict[str, np.ndarray]


class Loader:
  """Reads the batches of a stage.

  Attributes:
    sources: sorted source names; `source_ids` index them.
    manifest_hash: SHA-256 (hex) of the rows of the manifest.
    tokenizer: fingerprint of the one that they were made with.
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
      command: str,
      cache_dir: str = '',
  ):
    """Opens the rows of [B, T] batches: B = `batch_rows` over all hosts, T = `context`; errors name `command`.

    Args:
      cache_dir: where shards are copied to from gs://; see rows/fetch.py.

    Raises:
      UserError: the schedule is malformed, or the rows are missing, damaged, empty, or made for another context or
        tokenizer. Damage may also be found later, as rows are read.
    """
    self.sources = Mixture(schedule, batch_rows).sources
    # Held as long as the loader lives, and before the manifest is read: what it names is not swept.
    self._lock = lock.hold(rows_dir)
    manifest = manifest_lib.check_manifest(rows_dir, self.sources, context, tokenizer_fingerprint, command)
    self.tokenizer = tokenizer_fingerprint
    self._manifest, self.manifest_hash = manifest, manifest_lib.rows_hash(manifest)
    self._counts = {name: manifest['sources'][name]['train']['rows'] for name in self.sources}
    self._configured, self._context, self._batch_rows = schedule, context, batch_rows
    cache = fetch.Cache(rows_dir, cache_dir, manifest, self.sources) if bucket.is_bucket(rows_dir) else None
    self._drawn, opened = [], OpenShards(rows_dir, cache)
    for index, source in enumerate(self.sources):
      segments = Rows(rows_dir, source, 'train', command, manifest, opened).segments
      shuffled = [
          grain.MapDataset.source(segment).shuffle(seed=_seed_of(seed, source, number))
          for number, segment in enumerate(segments)
          if len(segment)
      ]
      rows = grain.MapDataset.concatenate(shuffled).repeat()
      self._drawn.append(rows.map(lambda row, index=index: {**row, 'source_ids': np.int32(index)}))
    self.follow(())
    self._held_out = [Rows(rows_dir, source, 'held_out', command, manifest, opened) for source in self.sources]

  @classmethod
  def of_stage(cls, config: ConfigDict, run: RunFolder) -> 'Loader':
    """The loader of a stage in a run folder; reads config.stage, size, seed, data and train.batch_rows."""
    command = manifest_lib.command(config, run)
    if not run.tokenizer.exists():
      raise UserError(f'rows: {run.tokenizer} is missing; prepare it and the rows with {command}')
    return cls(
        run.rows(config.stage, config.data.rows_dir),
        config.data.mixture,
        context=config.data.context,
        batch_rows=config.train.batch_rows,
        seed=config.seed,
        tokenizer_fingerprint=Tokenizer.load(run.tokenizer).fingerprint,
        command=command,
        cache_dir=config.data.get('cache_dir', ''),  # configurations of earlier runs have none
    )

  def follow(self, factors: Sequence[tuple[int, Mapping[str, float]]]) -> None:
    """Multiplies the weights of sources from given steps on; what is drawn before a step does not depend on it.

    Args:
      factors: of all steps, as `mixture.scaled` takes them; they replace those followed before.
    """
    self._mixture = Mixture(scaled(self._configured, factors), self._batch_rows)
    self._rows = grain.MapDataset.select_from_datasets(self._drawn, self._mixture)

  def weights(self, step: int) -> dict[str, float]:
    """{source: its weight in the schedule} at a step, without the factors that are followed."""
    by_source = dict([weights for start, weights in self._configured if start <= step][-1])
    return {name: float(by_source.get(name, 0.0)) for name in self.sources}

  def extends(self, manifest_hash: str) -> bool:
    """Whether rows of this hash are the first segments of these: every draw from them is the same."""
    return manifest_lib.is_extension_of(self._manifest, manifest_hash)

  def shares(self, steps: int) -> dict[str, dict[str, float]]:
    """{source: {'rows', 'loss_weight'}}: its shares of the rows of `steps` steps, and of what is learned from them."""
    return manifest_lib.shares(self._manifest, self._mixture.drawn_before(steps * self._batch_rows))

  def epochs(self, steps: int) -> dict[str, float]:
    """How often the rows of each source are read in `steps` steps; above 1 they repeat."""
    drawn = self._mixture.drawn_before(steps * self._batch_rows)
    return {name: rows / self._counts[name] for name, rows in drawn.items()}

  def batches(self, start_step: int, end_step: int, shardings: Batch) -> Iterator[Batch]:
    """Global batches of steps start_step .. end_step - 1; this process reads the rows its devices hold."""
    mine = local_rows(shardings, self._batch_rows, self._context)
    for batch in self.numpy_batches(start_step, end_step, mine):
      yield to_global(batch, mine, self._batch_rows, shardings)

  def numpy_batches(self, start_step: int, end_step: int, rows: Sequence[int]) -> Iterator[NumpyBatch]:
    """R rows, at these sorted indices, of the batches of steps start_step .. end_step - 1, read ahead in a thread.

    Yields:
      {tokens, targets, loss_weights, segment_ids, positions [R, T], source_ids [R]}; see batch.Batch.
    """
    steps, drawn = grain.MapDataset.range(start_step, end_step), self._rows
    read = steps.map(lambda step: _stack([drawn[int(step) * self._batch_rows + row] for row in rows]))
    return iter(read.to_iter_dataset(grain.ReadOptions(num_threads=_THREADS, prefetch_buffer_size=_READ_AHEAD)))

  def held_out(self, rows_per_source: int, batch_rows: int, shardings: Batch) -> list[Batch]:
    """The first held-out rows, at most `rows_per_source` of each source; padding of weight 0 fills up the last batch."""
    mine = local_rows(shardings, batch_rows, self._context)
    sizes = [min(rows_per_source, len(rows)) for rows in self._held_out]
    chosen = [(index, row) for index, size in enumerate(sizes) for row in range(size)]
    padding = {name: np.zeros(self._context, dtype) for name, dtype in FIELDS.items()} | {'source_ids': np.int32(0)}

    def read(number: int) -> Row:
      if number >= len(chosen):
        return padding
      index, row = chosen[number]
      return {**self._held_out[index][row], 'source_ids': np.int32(index)}

    starts = range(0, len(chosen), batch_rows)
    return [to_global(_stack([read(start + row) for row in mine]), mine, batch_rows, shardings) for start in starts]


def local_rows(shardings: Batch, batch_rows: int, context: int) -> tuple[int, ...]:
  """Sorted indices of the rows of a [B, T] batch that devices of this process hold."""
  shards = shardings.tokens.addressable_devices_indices_map((batch_rows, context)).values()
  return tuple(sorted({row for rows, _ in shards for row in range(batch_rows)[rows]}))


def to_global(batch: NumpyBatch, rows: Sequence[int], batch_rows: int, shardings: Batch) -> Batch:
  """Global arrays from the rows that this process has read, with positions in the order of the mesh's context axis.

  Args:
    batch: [R, T] and [R] arrays, in natural order.
    rows: the R sorted row indices of `batch`, among them `local_rows(...)`.
  """
  rows = np.asarray(rows)
  ways = shardings.tokens.mesh.shape.get('context', 1)
  if ways > 1:
    order = zigzag(batch['tokens'].shape[1], ways)
    batch = {name: values[:, order] if values.ndim == 2 else values for name, values in batch.items()}

  def put(values: np.ndarray, sharding: jax.sharding.NamedSharding) -> jax.Array:
    def shard(index: tuple[slice, ...]) -> np.ndarray:
      held = np.searchsorted(rows, np.arange(batch_rows)[index[0]])
      return values[(held, *index[1:])]

    return jax.make_array_from_callback((batch_rows, *values.shape[1:]), sharding, shard)

  return jax.tree.map(put, type(shardings)(**batch), shardings)


def _stack(rows: list[Row]) -> NumpyBatch:
  """Stacks rows and makes targets: the next token of the same document, with its loss weight."""
  batch = {name: np.stack([row[name] for row in rows]) for name in (*FIELDS, 'source_ids')}
  segments = batch['segment_ids']
  follows = np.zeros_like(segments, bool)
  follows[:, :-1] = (segments[:, 1:] == segments[:, :-1]) & (segments[:, 1:] > 0)
  batch['targets'] = np.where(follows, np.roll(batch['tokens'], -1, axis=1), 0)
  batch['loss_weights'] = np.where(follows, np.roll(batch['loss_weights'], -1, axis=1), np.float32(0))
  return batch


def _seed_of(seed: int, source: str, segment: int) -> int:
  """A 32-bit seed that depends on the name of a source: adding a source to a stage keeps the order of the others."""
  return int.from_bytes(hashlib.sha256(f'{seed}:{source}:{segment}'.encode()).digest()[:4], 'big')
