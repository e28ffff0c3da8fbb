"""The one training loop: every stage of the chain is this page with another configuration."""

import contextlib
import json
import os
import time

import jax
from absl import logging
from ml_collections import ConfigDict

from iquest_jax import sharding
from iquest_jax.config import flatten, to_json
from iquest_jax.data.loader import Loader
from iquest_jax.errors import UserError
from iquest_jax.model import transformer
from iquest_jax.parallel import context
from iquest_jax.train import checkpoint, fingerprint, initialise, lineage, metrics, optim, state, step

# Fields that count something: none of it would be no training, or a division by zero.
_COUNTS = (
    'train.steps', 'train.batch_rows', 'train.accumulation', 'train.loss_chunk', 'data.context', 'checkpoint.every',
    'eval.every', 'eval.rows', 'log.every',
)  # fmt: skip


def run(config: ConfigDict, workdir: str) -> None:
  """Trains a stage to its last step, from wherever it stands; returns at once where it is finished.

  Args:
    config: the stage (experiments/).
    workdir: folder of the chain; every process must see it.

  Raises:
    UserError: rows, checkpoints, mesh or configuration do not fit.
    RunStopped: three updates in a row were not finite.
  """
  began, first = time.monotonic(), jax.process_index() == 0
  steps, run_dir = config.train.steps, os.path.join(workdir, config.stage)

  # ---------------------------------------------------------------- Mesh, and where it stands
  mesh = sharding.make_mesh(config.mesh)
  check(config, mesh)
  checkpoints = checkpoint.Checkpoints(run_dir, keep=config.checkpoint.keep)
  if checkpoints.latest_step() is not None:
    # Also of a finished stage: that of another size is not this one's.
    initialise.check_same_model(run_dir, checkpoints.lineage(), transformer.model_config(config.model))
  if is_finished(checkpoints, run_dir, steps):
    logging.info('%s is finished: step %d', config.stage, steps)
    return

  # ---------------------------------------------------------------- Rows
  loader = Loader.of_stage(config, workdir)
  for source, epochs in loader.epochs(steps).items():
    if epochs > 1:
      logging.warning('%s: the rows of "%s" are read %.1f times over', config.stage, source, epochs)
  # The phases of a mixture stand at the steps that the experiment gave them, whatever train.steps is overridden with.
  if late := [str(start) for start, _ in config.data.mixture if start >= steps]:
    logging.warning('%s: train.steps is %d, and data.mixture changes at step %s', config.stage, steps, ', '.join(late))
  place = sharding.batch_shardings(mesh)
  os.makedirs(run_dir, exist_ok=True)

  with jax.set_mesh(mesh), contextlib.ExitStack() as closing:
    # -------------------------------------------------------------- Model and optimizer
    model = transformer.of_stage(config)
    tx, learning_rate = optim.optimizer(config.optim, steps), optim.schedule(config.optim, steps)
    abstract = state.abstract_state(model, tx, mesh)
    train_step, eval_step = step.compile_steps(config, model, tx, learning_rate, len(loader.sources), abstract)

    # -------------------------------------------------------------- Start: own checkpoint > parent > imported > random
    closing.callback(checkpoints.close)
    start = checkpoint.start(config, workdir, checkpoints)
    train = initialise.initial_state(start, config, model, tx, abstract, mesh)
    done = resumed = start.step if start.kind == 'resume' else 0
    if done > steps:
      raise UserError(f'{run_dir}: stands at step {done}, beyond train.steps {steps}; raise it or use a new --workdir')
    if start.kind == 'resume':
      line = lineage.resume(start, config, loader.manifest_hash)
      _log_changes(config, run_dir)
    else:
      leaves = fingerprint.fingerprints(train.params)
      line = lineage.begin(start, config, loader.manifest_hash, fingerprint.combine(leaves))
    spread = ', '.join(f'{axis} {ways}' for axis, ways in mesh.shape.items() if ways > 1) or 'one device'
    logging.info('%s: %s, step %d of %d, %s', config.stage, start.told, done, steps, spread)
    if first:
      _write_config(config, run_dir)

    # -------------------------------------------------------------- Reports
    writer = metrics.Writer(run_dir, restored_step=done, writes=first)
    closing.callback(writer.close)
    bar = metrics.Progress(config.stage, done, steps, shows=first)
    closing.callback(bar.close)
    reporter = metrics.Reporter(config, model.config, loader.sources, writer, bar)

    def evaluate():
      held_out = loader.held_out(config.eval.rows, config.train.batch_rows // config.train.accumulation, place)
      sums = [jax.device_get(eval_step(train.params, batch)) for batch in held_out]
      total = jax.tree.map(lambda *parts: sum(parts), *sums)
      found = metrics.losses(total.loss_S, total.weight_S, loader.sources)
      writer.write('eval', done, found)
      bar.held_out(done, found['loss'])

    def save():
      tokens = line['tokens_seen'] + (done - resumed) * config.train.batch_rows * config.data.context
      seconds = time.monotonic() - began
      told = lineage.progress(line, steps=done, tokens_seen=tokens, wall_seconds=seconds, finished=done == steps)
      checkpoints.save(done, train.params, train.optimizer_item(), told)

    # -------------------------------------------------------------- Train: step, save, then evaluate
    due = lambda every: done % every == 0 or done == steps
    if due(config.eval.every):
      evaluate()
    batches = iter(loader.batches(done, steps, place))
    while done < steps:
      asked = time.monotonic()
      batch = next(batches)
      ready = time.monotonic()
      train, numbers = train_step(train, batch)
      done += 1
      reporter.note(done, numbers, asked, ready)
      if due(config.checkpoint.every) or due(config.eval.every):
        reporter.flush()
      if due(config.checkpoint.every):
        save()
      if due(config.eval.every):
        evaluate()

    # -------------------------------------------------------------- Land
    checkpoints.wait()
    if first:
      lineage.write(run_dir, checkpoints.lineage())


def is_finished(checkpoints: checkpoint.Checkpoints, run_dir: str, steps: int) -> bool:
  """Whether the last step is saved and evaluated."""
  if checkpoints.latest_step() != steps or not os.path.exists(os.path.join(run_dir, 'lineage.json')):
    return False
  return any(record['kind'] == 'eval' and record['step'] == steps for record in metrics.read(run_dir))


def check(config: ConfigDict, mesh) -> None:
  """Raises UserError where a count is 0, or batch, row or loss chunk do not divide as mesh and accumulation need.

  What the context axis asks of a row, a window and a transport is said in parallel/context.py.
  """
  leaves = flatten(config)
  for name in _COUNTS:
    if leaves[name] < 1:
      raise UserError(f'config: {name} is {leaves[name]}; at least 1')
  ways = sharding.row_ways(mesh) * config.train.accumulation
  if config.train.batch_rows % ways:
    raise UserError(
        f'config: train.batch_rows {config.train.batch_rows} do not divide by data x fsdp x accumulation = {ways}; '
        'change one of them'
    )
  window = config.model.loop_window if config.model.loops > 1 else 1
  context.check(config.data.context, mesh.shape['context'], config.train.context_transport, window)
  own, chunk = config.data.context // mesh.shape['context'], config.train.loss_chunk
  if own > chunk and own % chunk:
    raise UserError(
        f'config: data.context {config.data.context} / mesh.context {mesh.shape["context"]} = {own} does not divide by '
        f'train.loss_chunk {chunk}'
    )
  if config.data.context > config.model.max_context:
    raise UserError(f'config: data.context {config.data.context} is beyond model.max_context {config.model.max_context}')


def _log_changes(config: ConfigDict, run_dir: str) -> None:
  """A stage may go on with other numbers, but not unseen."""
  try:
    with open(os.path.join(run_dir, 'config.json')) as file:
      before = flatten(ConfigDict(json.load(file)))
  except (FileNotFoundError, json.JSONDecodeError):
    return
  now = json.loads(json.dumps(flatten(config)))
  changed = [f'{key} {before.get(key)} -> {value}' for key, value in now.items() if value != before.get(key)]
  if changed:
    logging.warning('%s goes on with other numbers: %s', config.stage, '; '.join(changed))


def _write_config(config: ConfigDict, run_dir: str) -> None:
  path = os.path.join(run_dir, 'config.json')
  with open(path + '.new', 'w') as file:
    file.write(to_json(config))
  os.replace(path + '.new', path)
