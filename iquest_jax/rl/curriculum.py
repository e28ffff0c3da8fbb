"""Which prompts a step takes, and in which order: a pure function of the seed, the step and what was measured before it.

Every prompt of the window is taken once before any is taken again, in a random order that is another in each round. Dynamic
sampling simply reads on. Because the order follows from measurements of earlier steps alone, a resumed step reads the same
prompts, whatever it had finished when it was killed.
"""

import dataclasses
import hashlib
import heapq
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

from iquest_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Measurement:
  """What one group showed, also one that dynamic sampling dropped: the mean pass rate of its trajectories in `step`."""

  step: int
  prompt_id: str
  pass_rate: float


@dataclasses.dataclass(frozen=True)
class Window:
  """The pass rates that are worth sampling: too low teaches nothing, nor does too high.

  Attributes:
    low, high: a prompt is taken if its last pass rate is in [low, high], or if it has none.
    forget_after: steps after which a measurement no longer excludes its prompt, since the model has changed. ours.

  Raises:
    UserError: the window is empty, or forget_after is not positive.
  """

  low: float = 0.0
  high: float = 1.0
  forget_after: int = 100

  def __post_init__(self):
    if not 0 <= self.low <= self.high <= 1:
      raise UserError(f'curriculum: the window must satisfy 0 <= low <= high <= 1, got [{self.low}, {self.high}]')
    if self.forget_after < 1:
      raise UserError(f'curriculum: forget_after must be at least 1 step, got {self.forget_after}')


def order(
    ids: Sequence[str], seed: int, step: int, measured: Iterable[Measurement], window: Window = Window()
) -> Iterator[str]:
  """Yields the prompts of a step, without end: those taken least so far first.

  Args:
    ids: of all prompts, distinct, in any order.
    measured: in any order; those of this step and later ones are ignored.

  Raises:
    UserError: no prompt is in the window.
  """
  earlier = sorted((one for one in measured if one.step < step), key=lambda one: (one.step, one.prompt_id))
  rates: dict[str, dict[int, list[float]]] = {}
  for one in earlier:
    rates.setdefault(one.prompt_id, {}).setdefault(one.step, []).append(one.pass_rate)
  allowed = [id for id in ids if _allowed(rates.get(id, {}), step, window)]
  if not allowed:
    raise UserError(
        f'curriculum: none of {len(ids)} prompts has a pass rate in [{window.low}, {window.high}] at step {step}; '
        'widen the window, lower forget_after or add problems'
    )
  return _from_rounds(_rounds(allowed, earlier), seed)


def _allowed(rates: Mapping[int, Sequence[float]], step: int, window: Window) -> bool:
  last = max(rates, default=None)
  if last is None or step - last > window.forget_after:
    return True
  # An exact sum, which the order of finishing does not change.
  return window.low <= math.fsum(rates[last]) / len(rates[last]) <= window.high


def _rounds(ids: Sequence[str], earlier: Sequence[Measurement]) -> dict[str, int]:
  """The round in which each prompt is taken next; one that comes back to the window does not make up for what it missed."""
  next_round: dict[str, int] = {}
  newest = floor = 0
  for _, group in itertools.groupby(earlier, key=lambda one: one.step):
    for one in group:
      next_round[one.prompt_id] = max(next_round.get(one.prompt_id, 0), floor) + 1
      newest = max(newest, next_round[one.prompt_id])
    floor = newest - 1  # prompts that are left of the running round are one behind
  return {id: max(next_round.get(id, 0), floor) for id in ids}


def _from_rounds(rounds: Mapping[str, int], seed: int) -> Iterator[str]:
  place = lambda id, round: (round, hashlib.sha256(f'{seed}\0{round}\0{id}'.encode()).digest(), id)
  heap = [place(id, round) for id, round in rounds.items()]
  heapq.heapify(heap)
  while True:
    round, _, id = heap[0]
    heapq.heapreplace(heap, place(id, round + 1))
    yield id
