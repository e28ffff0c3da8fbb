"""What each step measured of its prompts, in `<stage>/measured.jsonl`, for the curriculum of later steps.

A step's line is on disk before its update, and names no prompts if the step is passed over. A resume keeps the lines up
to its checkpoint, and a line that a crash of the machine lost is made again from the roll-outs.
"""

import json
from collections.abc import Iterator, Sequence

import jax
from etils import epath

from iquest_jax import journal
from iquest_jax.hosts import from_first
from iquest_jax.rl.curriculum import Measurement
from iquest_jax.rl.store import Store
from iquest_jax.rl.types import Group, Trajectory

# Components that are shares of what was asked; the first one that a trajectory has is its pass rate.
_SHARES = ('pass_rate', 'instructions', 'tool_values')


class Measured:
  """The measurements of a stage. Every process has them; the first one writes."""

  def __init__(self, path: epath.Path, store: Store, done: int):
    """Follows what was measured in the first `done` steps, and forgets the rest."""
    self._writes = jax.process_index() == 0
    lines = from_first('measured', _read(path, done) if self._writes else {})
    self._steps: dict[int, list[tuple[str, float]]] = {int(step): prompts for step, prompts in lines.items()}
    for step in range(1, done + 1):
      if step not in self._steps:
        self._steps[step] = _pass_rates(store.read(step).values())
    if self._writes:
      lines = [_line(step, prompts) for step, prompts in sorted(self._steps.items())]
      self._lines = journal.Lines.begin(path, b''.join(lines))

  def add(self, step: int, groups: Sequence[Group]) -> None:
    """Notes the groups of a step; on return they are on disk."""
    self._steps[step] = _pass_rates(groups)
    if self._writes:
      self._lines.append(_line(step, self._steps[step]))

  def __iter__(self) -> Iterator[Measurement]:
    return (Measurement(step, id, rate) for step, prompts in self._steps.items() for id, rate in prompts)


def pass_rate(trajectory: Trajectory) -> float:
  """The share of what was asked that a trajectory did, in [0, 1]; of one without such a share, its reward cut to that."""
  found = (trajectory.rewards[name] for name in _SHARES if name in trajectory.rewards)
  return min(max(next(found, trajectory.reward), 0.0), 1.0)


def _pass_rates(groups: Sequence[Group]) -> list[tuple[str, float]]:
  mean = lambda group: sum(map(pass_rate, group.trajectories)) / len(group.trajectories)
  return [(group.prompt.id, mean(group)) for group in groups]


def _line(step: int, prompts: Sequence[tuple[str, float]]) -> bytes:
  return json.dumps({'step': step, 'prompts': prompts}).encode() + b'\n'


def _read(path: epath.Path, done: int) -> dict[int, list]:
  """{step: prompts} of whole lines; what is damaged is made again from the store."""
  found = {}
  for line in journal.read(path).splitlines():
    try:
      record = json.loads(line)
      step, prompts = record['step'], [(str(id), float(rate)) for id, rate in record['prompts']]
    except (ValueError, KeyError, TypeError):
      continue
    if 1 <= step <= done:
      found[step] = prompts
  return found
