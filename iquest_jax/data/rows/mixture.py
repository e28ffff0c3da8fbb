"""Which source a row comes from, in closed form: global row number -> (source, how many of its rows came before).

A phase of the schedule repeats a block of rows in which each source has its share, evenly spread. So counting the rows of
a source among the first n needs no scan, a resume costs the same at any step, and when the weights change a source
continues with its next row.
"""

import bisect
from collections.abc import Mapping, Sequence
from typing import Any

import grain
import numpy as np

from iquest_jax.errors import UserError

# Rows in a block: weights are exact to 1/4096.
BLOCK = 4096

# ((from_step, ((source, weight), ...)), ...)
Schedule = Sequence[tuple[int, Sequence[tuple[str, float]]]]


class Mixture(grain.transforms.DatasetSelectionMap):
  """`mixture[row] -> (index into sources, draw number within the source)`, endless.

  Attributes:
    sources: sorted names of all sources of the schedule.
  """

  def __init__(self, schedule: Schedule, batch_rows: int):
    """Raises UserError for a malformed schedule (see `validate`)."""
    validate(schedule)
    self.sources = source_names(schedule)
    self._phases: list[_Phase] = []
    drawn = np.zeros(len(self.sources), np.int64)
    for step, weights in schedule:
      start = step * batch_rows
      if self._phases:
        drawn = self._phases[-1].drawn_before(start)
      by_name = dict(weights)
      quotas = quantise(np.asarray([by_name.get(name, 0.0) for name in self.sources], np.float64))
      self._phases.append(_Phase(start, drawn, quotas))
    self._starts = [phase.start for phase in self._phases]

  def __len__(self) -> int:
    return np.iinfo(np.int64).max

  def __getitem__(self, row: int) -> tuple[int, int]:
    return self._phase(row).draw(row)

  def drawn_before(self, row: int) -> dict[str, int]:
    """Rows drawn from each source among the first `row` rows of training."""
    return dict(zip(self.sources, map(int, self._phase(max(row - 1, 0)).drawn_before(row))))

  def _phase(self, row: int) -> '_Phase':
    return self._phases[bisect.bisect_right(self._starts, row) - 1]


def rows_needed(schedule: Schedule, steps: int, batch_rows: int) -> dict[str, int]:
  """Rows drawn from each source in `steps` steps of `batch_rows` rows."""
  return Mixture(schedule, batch_rows).drawn_before(steps * batch_rows)


def rows_at_most(schedule: Schedule, steps: int, batch_rows: int, closed_loop: Mapping[str, Any]) -> dict[str, int]:
  """Rows that may be drawn from each source in `steps` steps, whatever the closed loop decides.

  The weight of a source rises at each decision from the second on, up to the cap, while all others keep theirs.

  Args:
    closed_loop: data.closed_loop.
  """
  needed = rows_needed(schedule, steps, batch_rows)
  if not (every := closed_loop['every']):
    return needed
  ramp, factor, cap = [], 1.0, closed_loop['cap']
  for step in range(every, steps, every):
    factor = min(cap, factor * closed_loop['rise'])
    ramp.append((step, factor))
    if factor == cap:
      break
  for source, _ in closed_loop['benchmarks']:
    risen = scaled(schedule, [(step, {source: factor}) for step, factor in ramp])
    needed[source] = rows_needed(risen, steps, batch_rows)[source]
  # A block is exact to 1/BLOCK per source, and a phase that ends inside a block to one row per source.
  sources, phases = len(needed), 2 * len(schedule) + steps // every + len(ramp)
  slack = -(-steps * batch_rows * (sources + 1) // BLOCK) + sources * phases
  return {source: min(rows + slack, steps * batch_rows) for source, rows in needed.items()}


def scaled(schedule: Schedule, factors: Sequence[tuple[int, Mapping[str, float]]]) -> Schedule:
  """The schedule with the weights of sources multiplied from given steps on.

  Phases that are not changed stay as they are, so that factors of 1 change no draw.

  Args:
    factors: ((from_step, {source: factor}), ...), steps ascending; a source that is not named has factor 1.
  """
  validate(schedule)
  last = lambda steps, step: bisect.bisect_right(steps, step) - 1
  configured, decided = [step for step, _ in schedule], [step for step, _ in factors]
  phases = []
  for start in sorted({*configured, *decided}):
    _, weights = schedule[last(configured, start)]
    by_source = factors[last(decided, start)][1] if decided and decided[0] <= start else {}
    weights = tuple((name, weight * by_source.get(name, 1.0)) for name, weight in weights)
    if start in configured or weights != phases[-1][1]:
      phases.append((start, weights))
  return tuple(phases)


def rates(schedule: Schedule) -> list[list]:
  """[[from_step, {source: rate}], ...]: the rates of SeqIO's Mixture of each phase; see data/tasks.py."""
  return [[step, {name: float(weight) for name, weight in weights}] for step, weights in schedule]


def source_names(schedule: Schedule) -> tuple[str, ...]:
  """Sorted names of all sources of a schedule; `source_ids` of a batch index them."""
  return tuple(sorted({name for _, weights in schedule for name, _ in weights}))


def validate(schedule: Schedule) -> None:
  """Raises UserError unless a schedule is a well-formed ((from_step, ((source, weight), ...)), ...)."""
  try:
    phases = [(step, [(name, float(weight)) for name, weight in weights]) for step, weights in schedule]
    if not all(isinstance(name, str) for _, weights in phases for name, _ in weights):
      raise TypeError('the name of a source must be a string')
  except (TypeError, ValueError):
    raise UserError(f'data.mixture must be ((from_step, ((source, weight), ...)), ...), got {schedule!r}') from None
  if not phases or phases[0][0] != 0:
    raise UserError('data.mixture: the first phase must start at step 0')
  previous = -1
  for step, weights in phases:
    if not isinstance(step, int) or step <= previous:
      raise UserError(f'data.mixture: the steps of the phases must increase, got {step} after {previous}')
    previous = step
    names = [name for name, _ in weights]
    if len(set(names)) != len(names):
      raise UserError(f'data.mixture: the phase from step {step} names a source twice; add up its weights')
    for name, weight in weights:
      if not 0 <= weight < float('inf'):
        raise UserError(f'data.mixture: the weight of "{name}" from step {step} must be at least 0, got {weight}')
    if not any(weight for _, weight in weights):
      raise UserError(f'data.mixture: no source has a weight above 0 from step {step}; raise one')
    if len(names) > BLOCK:
      raise UserError(f'data.mixture: at most {BLOCK} sources per phase, got {len(names)} from step {step}; join some')


def quantise(weights: np.ndarray) -> np.ndarray:
  """Weights [S] -> int64 [S] that add up to BLOCK, by largest remainder; a positive weight keeps at least 1."""
  exact = weights / weights.max()
  exact = exact / exact.sum() * BLOCK
  quotas = np.where(weights > 0, np.maximum(np.floor(exact), 1), 0).astype(np.int64)
  by_remainder = np.argsort(quotas - exact, kind='stable')
  by_remainder = by_remainder[weights[by_remainder] > 0]
  while (missing := BLOCK - quotas.sum()) > 0:
    quotas[by_remainder[:missing]] += 1
  while quotas.sum() > BLOCK:
    # Many tiny weights were raised to 1: the largest quota gives way.
    quotas[quotas.argmax()] -= 1
  return quotas


class _Phase:
  """Rows from `start` on with fixed quotas; `drawn` rows of each source came before."""

  def __init__(self, start: int, drawn: np.ndarray, quotas: np.ndarray):
    self.start = start
    self._drawn, self._quotas = drawn, quotas
    source = np.repeat(np.arange(len(quotas)), quotas)
    rank = np.concatenate([np.arange(quota) for quota in quotas])
    # Draw k of q is at (k + 1/2) / q of the block, so that a source comes at even distances.
    order = np.lexsort((source, (rank + 0.5) / quotas[source]))
    self._source, self._rank = source[order], rank[order]
    chosen = self._source[:, None] == np.arange(len(quotas))
    self._before = np.concatenate([np.zeros((1, len(quotas)), np.int64), np.cumsum(chosen, axis=0)])

  def draw(self, row: int) -> tuple[int, int]:
    block, place = divmod(row - self.start, BLOCK)
    source = self._source[place]
    return int(source), int(self._drawn[source] + block * self._quotas[source] + self._rank[place])

  def drawn_before(self, row: int) -> np.ndarray:
    block, place = divmod(row - self.start, BLOCK)
    return self._drawn + block * self._quotas + self._before[place]
