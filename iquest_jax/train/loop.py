"""The one training loop: every stage of the chain is this page with another configuration."""

import contextlib
import json
import time

import jax
from absl import logging
from jax.sharding import Mesh
from ml_collections import ConfigDict

from iquest_jax import sharding
from iquest_jax.checkpoint import fingerprint, lineage, restore
from iquest_jax.checkpoint import start as starts
from iquest_jax.checkpoint.store import Checkpoints
from iquest_jax.config import diff, flatten, to_json
from iquest_jax.data.loader import Loader
from iquest_jax.errors import UserError
from iquest_jax.model import transformer
from iquest_jax.parallel import context
from iquest_jax.run_folder import RunFolder, StageFolder, write_whole
from iquest_jax.train import metrics, step
from iquest_jax.train.closed_loop import ClosedLoop, Scorer
from iquest_jax.train.initial_state import initial_state

# Fields that count something; 0 would mean no training, or a division by zero.
_COUNTS = (
    'train.steps', 'train.batch_rows', 'train.accumulation', 'train.loss_chunk', 'data.context', 'checkpoint.every',
    'eval.every', 'eval.rows', 'log.every',
)  # fmt: skip


def run(config: ConfigDict, run_folder: RunFolder, scorer: Scorer | None = None) -> None:
  """Trains a stage from wherever it is to its last step; returns at once if it is finished.

  Args:
    scorer: measures the suites that data.closed_loop names, if it names any.

  Raises:
    UserError: rows, checkpoints, mesh or configuration do not fit.
    RunStopped: three updates in a row were not finite.
  """
  began, first = time.monotonic(), jax.process_index() == 0
  steps, folder = config.train.steps, run_folder.stage(config.stage)

  # ---------------------------------------------------------------- Checks
  mesh = sharding.make_mesh(config.mesh)
  check(config, mesh)
  checkpoints = Checkpoints(folder, keep=config.checkpoint.keep)
  if checkpoints.latest_step() is not None:
    # Also where the stage is finished: one of another size is not this one.
    restore.check_same_model(folder, checkpoints.lineage(), transformer.model_config(config.model))
  if is_finished(checkpoints, steps):
    logging.info('%s is finished: step %d', config.stage, steps)
    return

  # ---------------------------------------------------------------- Rows
  loader = Loader.of_stage(config, run_folder)
  for source, epochs in loader.epochs(steps).items():
    if epochs > 1:
      logging.warning('%s: the rows of "%s" are read %.1f times', config.stage, source, epochs)
  # The experiment fixes the steps at which its mixture changes; an override of train.steps does not move them.
  if late := [str(phase) for phase, _ in config.data.mixture if phase >= steps]:
    logging.warning('%s: train.steps is %d, but data.mixture changes at step %s', config.stage, steps, ', '.join(late))
  # Of the configured mixture, also where a closed loop changes it: held-out losses stay comparable.
  shares = loader.shares(steps)
  logging.info('%s: %s', config.stage, metrics.describe_shares(shares))
  closed_loop = ClosedLoop(config, folder, loader, scorer)
  batch_sharding = sharding.batch_shardings(mesh)
  folder.path.mkdir(parents=True, exist_ok=True)

  with jax.set_mesh(mesh), contextlib.ExitStack() as closing:
    # -------------------------------------------------------------- Model and optimizer
    stage = step.of_stage(config, mesh, len(loader.sources))

    # -------------------------------------------------------------- Start: own checkpoint > parent > imported > random
    closing.callback(checkpoints.close)
    start = starts.choose(config, run_folder, checkpoints)
    train_state = initial_state(start, config, stage, mesh)
    done = resumed = start.step if start.kind == 'resume' else 0
    if done > steps:
      raise UserError(f'{folder.path}: is at step {done}, beyond train.steps {steps}; raise it or use a new --workdir')
    if start.kind == 'resume':
      _log_other_rows(config, start, loader)
      record = lineage.resume(start, config, loader.manifest_hash)
      _log_changes(config, folder)
    else:
      leaves = fingerprint.fingerprints(train_state.params)
      record = lineage.begin(start, config, loader.manifest_hash, fingerprint.combine(leaves))
    closed_loop.resume(done, start.lineage if start.kind == 'resume' else None)
    split = ', '.join(f'{axis} {ways}' for axis, ways in mesh.shape.items() if ways > 1) or 'one device'
    logging.info('%s: %s, step %d of %d, %s', config.stage, start.summary, done, steps, split)
    if first:
      write_whole(folder.config, to_json(config))

    # -------------------------------------------------------------- Reports
    writer = metrics.Writer(folder, restored_step=done, writes=first)
    closing.callback(writer.close)
    bar = metrics.Progress(config.stage, done, steps, shows=first)
    closing.callback(bar.close)
    reporter = metrics.Reporter(config, stage.model.config, loader.sources, writer, bar)

    def evaluate():
      held_out = loader.held_out(config.eval.rows, config.train.batch_rows // config.train.accumulation, batch_sharding)
      sums = [jax.device_get(stage.eval_step(train_state.params, batch)) for batch in held_out]
      total = jax.tree.map(lambda *parts: sum(parts), *sums)
      losses = metrics.held_out_losses(total.loss_S, total.weight_S, shares)
      writer.write('eval', done, losses)
      bar.held_out(done, losses['loss'])
      return losses['loss_by_source']

    def draw():
      """Batches up to the next decision about the mixture, after the one that is due now."""
      if closed_loop.is_due(done):
        if closed_loop.suites:
          checkpoints.wait()  # they are answered by the newest checkpoint
        writer.write('mixture', done, {'weights': closed_loop.decide(done, held_out).weights})
      return loader.batches(done, closed_loop.until(done), batch_sharding)

    def save():
      tokens = record['tokens_seen'] + (done - resumed) * config.train.batch_rows * config.data.context
      seconds = time.monotonic() - began
      saved = lineage.progress(record, steps=done, tokens_seen=tokens, wall_seconds=seconds, finished=done == steps)
      saved |= {'decisions': made} if (made := closed_loop.decided_before(done)) else {}
      checkpoints.save(done, train_state.params, train_state.optimizer_item(), saved)

    # -------------------------------------------------------------- Train: step, save, evaluate, then decide
    due = lambda every: done % every == 0 or done == steps
    held_out = evaluate() if due(config.eval.every) else {}
    batches = draw()
    while done < steps:
      asked = time.monotonic()
      batch = next(batches)
      ready = time.monotonic()
      train_state, step_metrics = stage.train_step(train_state, batch)
      done += 1
      reporter.note(done, step_metrics, asked, ready)
      if due(config.checkpoint.every) or due(config.eval.every):
        reporter.flush()
      if due(config.checkpoint.every):
        save()
      if due(config.eval.every):
        held_out = evaluate()
      if closed_loop.is_due(done):
        batches = draw()

    # -------------------------------------------------------------- Finish
    checkpoints.wait()
    if first:
      lineage.write(folder, checkpoints.lineage())


def is_finished(checkpoints: Checkpoints, steps: int) -> bool:
  """Whether the last step is saved and evaluated."""
  saved = checkpoints.latest_step() == steps and checkpoints.stage.lineage.exists()
  return saved and any((record['kind'], record['step']) == ('eval', steps) for record in metrics.read(checkpoints.stage))


def check(config: ConfigDict, mesh: Mesh) -> None:
  """Raises UserError where a count is below 1, or batch, row or loss chunk do not divide by mesh and accumulation.

  parallel/context.py checks what the context axis requires of a row, a window and a transport.
  """
  leaves = flatten(config)
  for name in _COUNTS:
    if leaves[name] < 1:
      raise UserError(f'config: {name} must be at least 1, got {leaves[name]}')
  ways = mesh.shape['data'] * mesh.shape['fsdp'] * config.train.accumulation
  if config.train.batch_rows % ways:
    raise UserError(
        f'config: train.batch_rows must be a multiple of data x fsdp x accumulation = {ways}, got '
        f'{config.train.batch_rows}; change one of them'
    )
  window = config.model.loop_window if config.model.loops > 1 else 1
  context.check(config.data.context, mesh.shape['context'], config.train.context_transport, window)
  own, chunk = config.data.context // mesh.shape['context'], config.train.loss_chunk
  if own > chunk and own % chunk:
    raise UserError(
        f'config: data.context / mesh.context = {config.data.context} / {mesh.shape["context"]} = {own} must be a '
        f'multiple of train.loss_chunk, got {chunk}'
    )
  if config.data.context > (limit := config.model.max_context):
    raise UserError(f'config: data.context must be at most model.max_context = {limit}, got {config.data.context}')


def _log_other_rows(config: ConfigDict, start: starts.Start, loader: Loader) -> None:
  """Rows that were only appended to are the same rows; a stage may resume with others, but not silently."""
  before = start.lineage['rows_manifest_hash']
  if before == loader.manifest_hash:
    return
  if loader.extends(before):
    logging.info('%s: rows were appended since it last ran; what it has drawn is unchanged', config.stage)
  else:
    logging.warning('%s resumes with other rows: %s -> %s', config.stage, before[:12], loader.manifest_hash[:12])


def _log_changes(config: ConfigDict, folder: StageFolder) -> None:
  """A stage may resume with changed settings, but not silently."""
  try:
    before = ConfigDict(json.loads(folder.config.read_text()))
  except (FileNotFoundError, json.JSONDecodeError):
    return
  now = ConfigDict(json.loads(to_json(config)))
  if changed := [f'{key} {old} -> {new}' for key, old, new in diff(before, now)]:
    logging.warning('%s resumes with changed settings: %s', config.stage, '; '.join(changed))
