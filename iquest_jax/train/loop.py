"""The one training loop: every stage of the chain is this page with another configuration."""

import contextlib
import time

import jax
from absl import logging
from jax.sharding import Mesh
from ml_collections import ConfigDict

from iquest_jax import sharding
from iquest_jax.checkpoint import start as starts
from iquest_jax.config import flatten
from iquest_jax.data.loader import Loader
from iquest_jax.errors import UserError
from iquest_jax.parallel import context
from iquest_jax.run_folder import RunFolder
from iquest_jax.train import layer_groups, metrics, preemption, profile, step
from iquest_jax.train.closed_loop import ClosedLoop, Scorer
from iquest_jax.train.session import Session, check_same_data, held_alone, open_checkpoints

# Fields that count something; 0 would mean no training, or a division by zero.
_COUNTS = (
    'train.steps', 'train.batch_rows', 'train.accumulation', 'train.loss_chunk', 'data.context', 'checkpoint.every',
    'eval.every', 'eval.rows', 'log.every', 'log.layers_every', 'health.replicas_every',
)  # fmt: skip


def run(
    config: ConfigDict, run_folder: RunFolder, scorer: Scorer | None = None, accept_new_rows: bool = False
) -> None:
  """Trains a stage from wherever it is to its last step; returns at once if it is finished.

  Args:
    scorer: measures the suites that data.closed_loop names, if it names any.
    accept_new_rows: whether it may resume with other rows than it has learned from.

  Raises:
    UserError: rows, checkpoints, mesh or configuration do not fit.
    RunStopped: three updates in a row were not finite, or another run took over its folder.
    Preempted: after SIGTERM. The last finished step is saved.
  """
  steps = config.train.steps

  # ---------------------------------------------------------------- Checks
  mesh = sharding.make_mesh(config.mesh)
  check(config, mesh)
  checkpoints, finished = open_checkpoints(config, run_folder)
  if finished:
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
  closed_loop = ClosedLoop(config, checkpoints.stage, loader, scorer)
  batch_sharding = sharding.batch_shardings(mesh)

  with jax.set_mesh(mesh), contextlib.ExitStack() as closing:
    # -------------------------------------------------------------- Model and optimizer
    lease = closing.enter_context(held_alone(checkpoints.stage))
    stage = step.of_stage(config, mesh, len(loader.sources))

    # -------------------------------------------------------------- Start: own checkpoint > parent > imported > random
    def on_start(start: starts.Start):
      if start.kind == 'resume':
        check_rows(start, loader, accept_new_rows)
      closed_loop.resume(start.step if start.kind == 'resume' else 0, start.lineage if start.kind == 'resume' else None)

    identity = loader.manifest_hash, loader.tokenizer
    session = Session(config, run_folder, checkpoints, lease, stage, mesh, *identity, closing, on_start)
    stage = session.health.checked(stage)
    train_state, done, writer, bar = session.state, session.done, session.writer, session.bar
    groups = layer_groups.names(stage.abstract.params)
    reporter = metrics.Reporter(config, stage.model.config, loader.sources, groups, writer, bar, done)
    session.watchdog.completed = lambda: reporter.completed

    def evaluate():
      session.watchdog.extend()
      held_out = loader.held_out(config.eval.rows, config.train.batch_rows // config.train.accumulation, batch_sharding)
      sums = []
      for batch in held_out:
        session.end_if_asked(done, save)
        sums.append(jax.device_get(stage.eval_step(train_state.params, batch)))
      total = jax.tree.map(lambda *parts: sum(parts), *sums)
      losses = metrics.held_out_losses(total.loss_S, total.weight_S, shares)
      writer.write('eval', done, losses)
      bar.held_out(done, losses['loss'])
      return losses['loss_by_source']

    def draw():
      """Batches up to the next decision about the mixture, after the one that is due now."""
      if closed_loop.is_due(done):
        session.watchdog.extend()
        if closed_loop.suites:
          checkpoints.wait()  # they are answered by the newest checkpoint
        writer.write('mixture', done, {'weights': closed_loop.decide(done, held_out).weights})
      return loader.batches(done, closed_loop.until(done), batch_sharding)

    def save():
      reporter.flush()
      new_tokens = (done - session.done) * config.train.batch_rows * config.data.context
      decisions = {'decisions': made} if (made := closed_loop.decided_before(done)) else {}
      session.save(done, train_state, new_tokens, decisions)

    # -------------------------------------------------------------- Train: step, save, evaluate, then decide
    closing.enter_context(preemption.deferred())
    due = lambda every: session.due(done, every)
    held_out = evaluate() if due(config.eval.every) else {}
    batches = draw()
    while done < steps:
      session.between(done, train_state, save)
      asked = time.monotonic()
      batch = next(batches)
      ready = time.monotonic()
      done += 1
      if session.passes_over(done):
        train_state = stage.pass_over(train_state)
      else:
        with profile.annotated(done):
          train_state, step_metrics = stage.train_step(train_state, batch)
        reporter.note(done, step_metrics, asked, ready)
      if due(config.checkpoint.every) or due(config.eval.every):
        reporter.flush()
      if due(config.checkpoint.every):
        save()
      if due(config.eval.every):
        held_out = evaluate()
      if closed_loop.is_due(done):
        batches = draw()

    session.finish()


def check(config: ConfigDict, mesh: Mesh) -> None:
  """Raises UserError where a count is below 1, or batch, row or loss chunk do not divide by mesh and accumulation.

  parallel/context.py checks what the context axis requires of a row, a window and a transport.
  """
  leaves = flatten(config)
  for name in _COUNTS:
    if leaves.get(name, 1) < 1:
      raise UserError(f'config: {name} must be at least 1, got {leaves[name]}')
  _check_ranges('train.skip_steps', config.train.skip_steps)
  _check_ranges('log.profile', (config.log.profile,) if config.log.profile else ())
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


def _check_ranges(name: str, ranges: tuple) -> None:
  for steps in ranges:
    pair = isinstance(steps, tuple) and len(steps) == 2 and all(isinstance(step, int) for step in steps)
    if not pair or not 1 <= steps[0] <= steps[1]:
      raise UserError(f'config: {name}: steps must be (from, to) with 1 <= from <= to, got {steps}')


def check_rows(start: starts.Start, loader: Loader, accept: bool) -> None:
  """Raises UserError if a stage would resume with other rows, unless accepted; rows that were appended to are the same."""
  before = start.lineage['rows_manifest_hash']
  if before != loader.manifest_hash and loader.extends(before):
    logging.info('%s: rows were appended since it last ran; what it has drawn is unchanged', start.checkpoints.stage.name)
  else:
    check_same_data(start, 'rows', loader.manifest_hash, accept)
