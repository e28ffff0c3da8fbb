"""Trajectories with their advantages as packed rows. Legend: B rows, T positions.

Every process packs the same rows from the same trajectories, then keeps those of its own devices. A trajectory lies whole
in one row, and what the loss is divided by is known per row, so the loss does not depend on packing or micro-batches.
"""

import hashlib
from collections.abc import Mapping, Sequence

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from iquest_jax import sharding
from iquest_jax.batch import Batch
from iquest_jax.data.loader import NumpyBatch, local_rows, to_global
from iquest_jax.errors import UserError, check_name
from iquest_jax.rl.types import Trajectory

LOSS_AGGS = ('token_mean', 'seq_mean', 'seq_sum')

# A sequence as int32 `tokens` [n] and float32 [n] values of each token *as a target*, as in Row of data/rows.
Piece = Mapping[str, np.ndarray]


@flax.struct.dataclass
class PolicyBatch(Batch):
  """Rows of trajectories; all rows are of source 0. `loss_weights` is above 0 exactly where `targets` was sampled.

  Attributes:
    row_weights: float32 [B], the share of each row in what the loss is divided by.
    advantages: float32 [B, T], that of the trajectory at each sampled target.
    sampler_logps: float32 [B, T], log-probabilities of the targets as the sampler reported them.
    old_logps: float32 [B, T], the same under the trainer's parameters of the roll-out. None: they are the parameters that
      this update starts from.
    reference_logps: float32 [B, T], the same under those of the KL divergence's reference. None: there is none.
  """

  row_weights: jax.Array
  advantages: jax.Array
  sampler_logps: jax.Array
  old_logps: jax.Array | None = None
  reference_logps: jax.Array | None = None

  def weight(self) -> jax.Array:
    return jnp.sum(self.row_weights)


def mini_batches(groups: int, count: int, *, seed: int, step: int) -> list[list[int]]:
  """Splits the groups of a step into at most `count` mini-batches: a shuffle by hash of (seed, step), group by group.

  Returns:
    Indices of groups per mini-batch, as even as possible; none is empty.
  """
  order = sorted(range(groups), key=lambda group: hashlib.sha256(f'{seed}:{step}:{group}'.encode()).digest())
  return [part.tolist() for part in np.array_split(np.asarray(order, int), count) if len(part)]


def policy_rows(
    trajectories: Sequence[Trajectory],
    advantages: Sequence[float],
    *,
    context: int,
    unit: int,
    loss_agg: str,
    length_divisor: float | None = None,
) -> NumpyBatch:
  """The fields of a PolicyBatch of one update, in natural order; a trajectory without sampled tokens is left out.

  Args:
    trajectories: of all groups of the update.
    advantages: one per trajectory.
    context: T.
    unit: B is a multiple of this; see `padded_rows`.
    loss_agg: how the losses of tokens become one number.
      token_mean: the mean over all sampled tokens (DAPO, arXiv 2503.14476).
      seq_mean: the mean over trajectories of their means (GRPO, arXiv 2402.03300).
      seq_sum: the mean over trajectories of their sums, divided by the constant `length_divisor` (Dr. GRPO, arXiv
        2503.20783).
    length_divisor: tokens, by convention the longest answer that is allowed; for seq_sum only.

  Raises:
    UserError: a trajectory is longer than a row, or loss_agg and length_divisor do not fit.
  """
  check_name('rl: loss_agg', loss_agg, LOSS_AGGS)
  if (loss_agg == 'seq_sum') != (length_divisor is not None) or (length_divisor is not None and length_divisor <= 0):
    raise UserError(f'rl: length_divisor must be above 0 with loss_agg seq_sum and None otherwise, got {length_divisor}')
  items, row_weights = [], []
  for trajectory, advantage in zip(trajectories, advantages, strict=True):
    sampled = np.asarray(trajectory.sampled, np.float32)
    if not (count := np.count_nonzero(sampled)):
      continue
    # Nothing is learned from what follows the last sampled token.
    length = int(np.flatnonzero(sampled)[-1]) + 1
    if length > context:
      raise UserError(
          f'rl: a trajectory must fit into a row of data.context = {context} tokens, got {length} (sample '
          f'{trajectory.sample} of "{trajectory.prompt_id}"); raise it or lower the tokens of a roll-out'
      )
    piece = {
        'tokens': np.asarray(trajectory.tokens, np.int32),
        'loss_weights': sampled / np.float32(count) if loss_agg == 'seq_mean' else sampled,
        'advantages': sampled * np.float32(advantage),
        'sampler_logps': np.asarray(trajectory.logps, np.float32),
    }
    items.append([{name: values[:length] for name, values in piece.items()}])
    row_weights.append({'token_mean': float(count), 'seq_mean': 1.0, 'seq_sum': length_divisor}[loss_agg])
  return pack(items, row_weights, context, unit, ('loss_weights', 'advantages', 'sampler_logps'))


def pack(
    items: Sequence[Sequence[Piece]], row_weights: Sequence[float], context: int, unit: int, fields: Sequence[str]
) -> NumpyBatch:
  """Packs items into rows, longest first, each into the fullest row that still holds it.

  Args:
    items: pieces that must lie in one row, one after the other, each a segment of its own; at most T tokens in all.
    row_weights: of each item.
    context: T.
    unit: B is a multiple of this.
    fields: the float32 fields of a piece.

  Returns:
    {tokens, targets, segment_ids, positions int32, and the fields float32 [B, T], row_weights float32, source_ids int32
    [B]}. Values of a token stand where it is the target. Padding is 0 throughout.
  """
  rows = _best_fit([sum(len(piece['tokens']) for piece in item) for item in items], context)
  shape = (padded_rows(len(rows), unit), context)
  batch = {name: np.zeros(shape, np.int32) for name in ('tokens', 'targets', 'segment_ids', 'positions')}
  batch |= {name: np.zeros(shape, np.float32) for name in fields}
  batch |= {'row_weights': np.zeros(shape[0], np.float32), 'source_ids': np.zeros(shape[0], np.int32)}
  for row, members in enumerate(rows):
    batch['row_weights'][row] = sum(row_weights[item] for item in members)
    start = 0
    for segment, piece in enumerate([piece for item in members for piece in items[item]], 1):
      end = start + len(piece['tokens'])
      batch['tokens'][row, start:end] = piece['tokens']
      batch['segment_ids'][row, start:end] = segment
      batch['positions'][row, start:end] = np.arange(end - start)
      batch['targets'][row, start : end - 1] = piece['tokens'][1:]
      for name in fields:
        batch[name][row, start : end - 1] = piece[name][1:]
      start = end
  return batch


def padded_rows(rows: int, unit: int) -> int:
  """The least allowed number of rows: a multiple of `unit`, with four sizes per doubling above eight units.

  Each size is compiled once, and less than a quarter of the rows is padding.
  """
  units = max(1, -(-rows // unit))
  grain = 1 << max(0, (units - 1).bit_length() - 3)
  return -(-units // grain) * grain * unit


def _best_fit(lengths: Sequence[int], context: int) -> list[list[int]]:
  """Indices of items per row, in the order in which they lie in it."""
  rows: list[list[int]] = []
  rooms: list[int] = []
  for item in sorted(range(len(lengths)), key=lambda item: (-lengths[item], item)):
    fitting = [(room, row) for row, room in enumerate(rooms) if room >= lengths[item]]
    if not fitting:
      fitting = [(context, len(rows))]
      rows.append([])
      rooms.append(context)
    _, row = min(fitting)
    rows[row].append(item)
    rooms[row] -= lengths[item]
  return rows


def place(kind: type[Batch], batch: NumpyBatch, mesh: Mesh) -> Batch:
  """The global arrays of a `kind` of batch on a mesh, with positions in the order of its context axis.

  Args:
    batch: all rows, on every process; optional fields may be absent.
  """
  shardings = sharding.batch_shardings(mesh)
  placed = kind(**{name: shardings.tokens if x.ndim == 2 else shardings.source_ids for name, x in batch.items()})
  rows, context = batch['tokens'].shape
  mine = local_rows(placed, rows, context)
  return to_global({name: values[list(mine)] for name, values in batch.items()}, mine, rows, placed)
