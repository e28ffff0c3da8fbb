"""What every kind of training shares: where a stage starts, what it reports to, and what it saves."""

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import jax
from absl import logging
from jax.sharding import Mesh
from ml_collections import ConfigDict

from iquest_jax import hosts
from iquest_jax import lease as leases
from iquest_jax.checkpoint import fingerprint, lineage, restore
from iquest_jax.checkpoint import start as starts
from iquest_jax.checkpoint.store import Checkpoints
from iquest_jax.config import diff, to_json
from iquest_jax.errors import Preempted, UserError
from iquest_jax.lease import Lease
from iquest_jax.model import transformer
from iquest_jax.run_folder import RunFolder, StageFolder, write_whole
from iquest_jax.train import metrics, optim, preemption
from iquest_jax.train.health.checks import Health
from iquest_jax.train.heartbeat import Heartbeat
from iquest_jax.train.initial_state import initial_state, lacks_moments
from iquest_jax.train.profile import Profile
from iquest_jax.train.state import TrainState
from iquest_jax.train.step import Stage
from iquest_jax.train.watchdog import Watchdog


def open_checkpoints(config: ConfigDict, run_folder: RunFolder) -> tuple[Checkpoints, bool]:
  """(the checkpoints of a stage, whether it is finished: its last step is saved and evaluated); the first process says so.

  Raises:
    UserError: they hold a model of another size.
    Damaged: the newest of them is damaged.
  """
  folder, steps = run_folder.stage(config.stage), config.train.steps
  _check_milestones(config)
  checkpoints = Checkpoints(folder, config.checkpoint.keep, config.checkpoint.milestones)

  def find():
    if checkpoints.latest_step() is None:
      return False
    # Also where the stage is finished: one of another size is not this one.
    restore.check_same_model(folder, checkpoints.lineage(), transformer.model_config(config.model))
    return is_finished(checkpoints, steps)

  finished = starts.found_by_first('whether it is finished', run_folder, find)
  if finished:
    logging.info('%s is finished: step %d', config.stage, steps)
  return checkpoints, finished


def is_finished(checkpoints: Checkpoints, steps: int) -> bool:
  """Whether the last step is saved and evaluated, and lineage.json says so; a kill may have left that of an earlier end."""
  if checkpoints.latest_step() != steps or not lineage.is_copied(checkpoints.stage, checkpoints.lineage()):
    return False
  return any((record['kind'], record['step']) == ('eval', steps) for record in metrics.read(checkpoints.stage))


@contextlib.contextmanager
def held_alone(folder: StageFolder) -> Iterator[Lease | None]:
  """Holds the lease of a stage's folder, on the first process; the others wait for it.

  Raises:
    UserError: another run holds it.
  """
  with contextlib.ExitStack() as closing:
    with hosts.after_first('lease') as first:
      held = closing.enter_context(leases.held(folder)) if first else None
    yield held


class Session:
  """A run of a stage, from wherever it is to its last step.

  Attributes:
    state: the state that it begins or resumes with; the caller trains on from it.
    done: steps taken so far, at the beginning.
    start: where it starts from.
    lineage: of the run; see checkpoint/lineage.py.
    writer, bar: reports.
    watchdog: to be told what takes longer than a step.
    tasks: what `between` calls, in this order: objects with a method `between(done, state)`.
  """

  def __init__(
      self,
      config: ConfigDict,
      run_folder: RunFolder,
      checkpoints: Checkpoints,
      lease: Lease | None,
      stage: Stage,
      mesh: Mesh,
      data_hash: str,
      tokenizer: str,
      closing: contextlib.ExitStack,
      on_start: Callable[[starts.Start], None] = lambda start: None,
  ):
    """Opens the stage's folder, restores its state, says where it starts and checks what it starts with.

    Args:
      lease: of the stage's folder, on the first process.
      data_hash: identifies the rows, or whatever else it learns from.
      tokenizer: fingerprint of the one whose ids it learns.
      closing: closes what is opened.
      on_start: is told where the stage starts, before anything is written.

    Raises:
      UserError: checkpoints, mesh or configuration do not fit.
      SilentError: devices contradict each other about the state.
    """
    self._began, self._config, self._checkpoints, self._lease = time.monotonic(), config, checkpoints, lease
    self._saved = None  # the step saved last
    folder, steps, self._first = checkpoints.stage, config.train.steps, jax.process_index() == 0
    if lease:
      checkpoints.check = lease.check
    closing.callback(checkpoints.close)
    hosts.agree(f'{config.stage}: hash of the rows', data_hash)
    # Start: own checkpoint > parent > imported > random.
    self.start = starts.choose(config, run_folder, checkpoints)
    _check_tokenizer(self.start, tokenizer)
    self.state: TrainState = initial_state(self.start, config, stage, mesh)
    self.done = self._resumed = self.start.step if self.resumes else 0
    if self.done > steps:
      raise UserError(
          f'{folder.path}: is at step {self.done}, beyond train.steps {steps}; raise it or use a new --workdir'
      )
    on_start(self.start)
    if self.resumes:
      self.lineage = lineage.resume(self.start, config, data_hash)
      _log_changes(config, folder)
    else:
      self.lineage = lineage.begin(self.start, config, data_hash, fingerprint.fingerprints(self.state.params))
      if lacks_moments(self.start, config):
        self.lineage['warm_up_steps'] = optim.warm_up_steps(config.optim.b2)
    self.lineage = self.lineage | {'tokenizer': tokenizer}
    split = ', '.join(f'{axis} {ways}' for axis, ways in mesh.shape.items() if ways > 1) or 'one device'
    logging.info('%s: %s, step %d of %d, %s', config.stage, self.start.summary, self.done, steps, split)
    if self._first:
      write_whole(folder.config, to_json(config))
    self.writer = metrics.Writer(folder, restored_step=self.done, writes=self._first)
    closing.callback(self.writer.close)
    self.bar = metrics.Progress(config.stage, self.done, steps, shows=self._first)
    closing.callback(self.bar.close)
    self.watchdog, profile = Watchdog(config, self.done), Profile(config, folder)
    heartbeat = closing.enter_context(Heartbeat(folder, self.done))
    self.health = Health(config, folder, stage, mesh)
    self.tasks = [profile, heartbeat, self.watchdog, self.health]
    for task in (profile, self.watchdog):
      closing.callback(task.close)
    self.health.between(self.done, self.state)  # before it is evaluated, or answers anything

  @property
  def resumes(self) -> bool:
    return self.start.kind == 'resume'

  def due(self, step: int, every: int) -> bool:
    """Whether something that happens every so many steps, and at the end, happens after `step` steps."""
    return step % every == 0 or step == self._config.train.steps

  def passes_over(self, step: int) -> bool:
    """Whether the batch of a step, counted from 1, is consumed without being learned from (train.skip_steps)."""
    over = any(first <= step <= last for first, last in self._config.train.skip_steps)
    if over:
      logging.warning('%s: passes over step %d, which train.skip_steps names', self._config.stage, step)
    return over

  def between(self, done: int, state: TrainState, save: Callable[[], None]) -> None:
    """What happens before every step, after `done` of them, in both loops and on all processes alike.

    Args:
      state: after `done` steps.
      save: saves it.

    Raises:
      RunStopped: whatever a task finds; then nothing is saved.
    """
    for task in self.tasks:
      task.between(done, state)
    self.end_if_asked(done, save)

  def end_if_asked(self, done: int, save: Callable[[], None]) -> None:
    """Saves and ends the run if one of its hosts was asked to end; all processes call this equally often.

    Raises:
      Preempted: see `end`.
    """
    if preemption.agreed():
      self.end(done, save)

  @contextlib.contextmanager
  def saved_at_interrupt(self, done: int, save: Callable[[], None]) -> Iterator[None]:
    """Runs what stops by itself, on all processes, when one was asked to end (preemption.interrupt_together)."""
    try:
      yield
    except preemption.Interrupt:
      self.end(done, save)

  def end(self, done: int, save: Callable[[], None]) -> NoReturn:
    """Ends the run after `done` steps, which are saved.

    Raises:
      Preempted: always.
    """
    if done > self.done and done != self._saved:
      save()
    if self._saved is not None:
      self.finish()
    raise Preempted(
        f'{self._config.stage}: ended by SIGTERM after step {done} of {self._config.train.steps}'
        f'{", which is saved" if done else ""}; rerun the same command to resume'
    )

  def save(self, step: int, state: TrainState, new_tokens: int, more: dict[str, Any]) -> None:
    """Starts a save of the state after `step` steps.

    Args:
      new_tokens: since the run began.
      more: what else belongs in the lineage.

    Raises:
      RunStopped: another run has taken over the folder, or replicas differ.
    """
    self.watchdog.extend()
    if self._lease:
      self._lease.check()
    self.health.compare_replicas(step, state)
    self._saved = step
    self.writer.flush()  # before the commit: a resume finds the records of all steps before its checkpoint
    tokens, steps = self.lineage['tokens_seen'] + new_tokens, self._config.train.steps
    how = dict(steps=step, tokens_seen=tokens, wall_seconds=time.monotonic() - self._began, finished=step == steps)
    self._checkpoints.save(step, state.params, state.optimizer_item(), lineage.progress(self.lineage, **how) | more)

  def finish(self) -> None:
    """Waits for the last save and copies its lineage beside it."""
    self.watchdog.extend()
    self._checkpoints.wait()
    if self._first:
      lineage.write(self._checkpoints.stage, self._checkpoints.lineage())


def check_same_data(start: starts.Start, what: str, data_hash: str, accept: bool) -> None:
  """Raises UserError if a stage would resume with other rows or problems than it has learned from, unless accepted.

  Args:
    what: 'rows' or 'problems'.
  """
  before, folder = start.lineage['rows_manifest_hash'], start.checkpoints.stage
  if before == data_hash:
    return
  changed = f'learned from other {what} up to step {start.step} ({before[:12]}, now {data_hash[:12]})'
  if not accept:
    raise UserError(
        f'{folder.path}: {changed}; restore those, use a new --workdir, or accept these with --accept_new_rows'
    )
  logging.warning('%s: %s, which is accepted and recorded in its lineage', folder.name, changed)


def _check_milestones(config: ConfigDict) -> None:
  every = config.checkpoint.every
  if wrong := [step for step in config.checkpoint.milestones if not isinstance(step, int) or step < 1 or step % every]:
    raise UserError(f'config: checkpoint.milestones must be multiples of checkpoint.every = {every}, got {wrong[0]}')


def _check_tokenizer(start: starts.Start, tokenizer: str) -> None:
  if (before := start.lineage.get('tokenizer', tokenizer)) != tokenizer:
    raise UserError(
        f'{start.checkpoints.stage.path}: was trained with another tokenizer ({before[:12]}, the run has '
        f'{tokenizer[:12]}); restore that one, or use a new --workdir'
    )


def _log_changes(config: ConfigDict, folder: StageFolder) -> None:
  """A stage may resume with changed settings, but not silently."""
  try:
    before = ConfigDict(json.loads(folder.config.read_text()))
  except (FileNotFoundError, json.JSONDecodeError):
    return
  now = ConfigDict(json.loads(to_json(config)))
  if changed := [f'{key} {old} -> {new}' for key, old, new in diff(before, now)]:
    logging.warning('%s resumes with changed settings: %s', config.stage, '; '.join(changed))
