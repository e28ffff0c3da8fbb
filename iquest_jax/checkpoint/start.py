"""What a stage starts from: its own newest checkpoint, its parent's last one, an imported model, or nothing."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
from ml_collections import ConfigDict

from iquest_jax import hosts
from iquest_jax.checkpoint.store import Checkpoints, Damaged
from iquest_jax.errors import UserError
from iquest_jax.run_folder import RunFolder


@dataclasses.dataclass(frozen=True)
class Start:
  """Where a stage starts; see `choose`.

  Attributes:
    kind: 'resume', 'parent', 'imported' or 'random'.
    checkpoints: what to restore from, the stage's own or its parent's; None when random.
    step: the step to restore; 0 when random. Training continues at it when kind is 'resume', otherwise at 0.
    lineage: stored with that step; {} when random.
  """

  kind: str
  checkpoints: Checkpoints | None = None
  step: int = 0
  lineage: dict[str, Any] = dataclasses.field(default_factory=dict)

  @property
  def summary(self) -> str:
    """The start in words, after the name of the stage."""
    if self.kind == 'random':
      return 'starts from random parameters'
    if self.kind == 'resume':
      return 'resumes'
    return f'starts from {self.checkpoints.stage.name}' + (', imported' if self.kind == 'imported' else '')

  def carried(self, carry: Sequence[str]) -> tuple[str, ...]:
    """What of init.carry the parent's checkpoint really holds: an imported model has no optimizer state."""
    if self.kind != 'parent':
      return ()
    return tuple(item for item in carry if item == 'params' or self.checkpoints.has_optimizer(self.step))


def choose(config: ConfigDict, run_folder: RunFolder, checkpoints: Checkpoints) -> Start:
  """Chooses what a stage starts from. The order is the contract of the chain; only this function knows it.

  First removes leftovers of killed saves of this stage, whose `checkpoints` these are. The first process chooses and tells
  the others, whose view of the folder may be older. The caller, who knows the models, transforms the parameters
  (init.transform) and selects what to carry over (init.carry).

  Raises:
    UserError: the parent has no finished checkpoint, and no imported one replaces it.
    RunStopped: a process does not see, within hosts.VISIBLE_S, the files that the first one chose.
  """
  checkpoints.clear_leftovers()
  if jax.process_count() == 1:
    return _choose(config, run_folder, checkpoints)

  def find():
    start = _choose(config, run_folder, checkpoints)
    stage = start.checkpoints.stage.name if start.checkpoints else ''
    return [start.kind, stage, start.step, start.lineage, start.checkpoints.seal_hash(start.step) if stage else '']

  kind, stage, step, lineage, seal = found_by_first('start', run_folder, find)
  if not stage:
    return Start(kind)
  source = checkpoints if stage == checkpoints.stage.name else Checkpoints(run_folder.stage(stage))
  _see(source, step, seal)
  return Start(kind, source, step, lineage)


def newest(checkpoints: Checkpoints) -> int | None:
  """The newest step that the first process sees, on all processes, once all of them see its files; None without one.

  Raises:
    RunStopped: a process does not see them within hosts.VISIBLE_S.
  """
  step = checkpoints.latest_step()
  if jax.process_count() == 1:
    return step
  own = [step, None if step is None else checkpoints.seal_hash(step)]
  step, seal = hosts.from_first('newest checkpoint', own)
  if step is not None:
    _see(checkpoints, step, seal)
  return step


def _see(checkpoints: Checkpoints, step: int, seal: str) -> None:
  """Waits until this process, and all others, see a checkpoint whose files have this hash."""
  end = time.monotonic() + hosts.VISIBLE_S
  while (seen := checkpoints.seal_hash(step)) != seal and time.monotonic() < end:
    time.sleep(1)
  hosts.agree(f'{checkpoints.stage.name}: hash of the files of step {step}', seen)


def found_by_first(what: str, run_folder: RunFolder, find: Callable[[], Any]) -> Any:
  """JSON data that the first process finds in checkpoints, on all processes.

  Raises:
    Damaged: one of them is damaged; on all processes alike, since the caller may set it aside and go on.
  """
  if jax.process_count() == 1:
    return find()
  told = None
  if jax.process_index() == 0:
    try:
      told = ['ok', find()]
    except Damaged as damaged:
      told = ['damaged', damaged.checkpoints.stage.name, damaged.step, damaged.what]
  kind, *told = hosts.from_first(what, told)
  if kind == 'ok':
    return told[0]
  stage, step, damage = told
  raise Damaged(Checkpoints(run_folder.stage(stage)), step, damage)


def _choose(config: ConfigDict, run_folder: RunFolder, checkpoints: Checkpoints) -> Start:
  own, parent = checkpoints.latest_step(), config.init.stage
  # 1. The stage's own newest checkpoint: parameters, optimizer and position in the data.
  if own is not None and not checkpoints.is_import(own):
    return Start('resume', checkpoints, own, checkpoints.lineage(own))
  # 2. The final checkpoint of its parent; an imported model counts as a finished stage.
  before = Checkpoints(run_folder.stage(parent)) if parent else None
  final = before.latest_step() if before else None
  if final is not None and (before.is_import(final) or before.lineage(final).get('finished')):
    return Start('parent', before, final, before.lineage(final))
  # 3. A model imported into the stage's own folder.
  if own is not None:
    return Start('imported', checkpoints, own, checkpoints.lineage(own))
  if parent:
    state = 'has no checkpoint' if final is None else f'is not finished (its newest checkpoint is step {final})'
    raise UserError(
        f'{before.folder}: {config.stage} starts from {parent}, which {state}; train it with '
        f'python -m launch.tpu --exp={parent}:size={config.size} --workdir={run_folder.path}'
    )
  # 4. Nothing to start from.
  return Start('random')
