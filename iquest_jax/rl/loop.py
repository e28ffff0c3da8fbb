"""The loop of reinforcement learning: learn, save, evaluate. How a step learns is its objective's: policy.py, pairs.py."""

import contextlib
import math
import time
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from iquest_jax import sharding
from iquest_jax.checkpoint.start import Start
from iquest_jax.checkpoint.store import Checkpoints
from iquest_jax.errors import RunStopped, UserError, check_name
from iquest_jax.rl.pairs import PairLearner
from iquest_jax.rl.policy import PolicyLearner
from iquest_jax.run_folder import RunFolder
from iquest_jax.text.tokenizer import Tokenizer
from iquest_jax.train import loop, metrics, preemption, profile, step
from iquest_jax.train.session import Session, check_same_data, held_alone, open_checkpoints

# What rl.objective may name.
OBJECTIVES = {'grpo': PolicyLearner, 'dpo': PairLearner}


def run(config: ConfigDict, run_folder: RunFolder, accept_new_rows: bool = False) -> None:
  """Trains a stage of reinforcement learning from wherever it is to its last step; returns at once if it is finished.

  Killed at any time and started again on the same devices, it ends bit-identical: finished groups are read from the store,
  everything else follows from the checkpoint.

  Raises:
    UserError: problems, checkpoints, mesh or configuration do not fit.
    RunStopped: sampler and trainer disagree, three updates in a row were not finite, or another run took over its folder.
    Preempted: after SIGTERM. The last finished step is saved, and so is every finished group.
  """
  # ---------------------------------------------------------------- Checks
  mesh = sharding.make_mesh(config.mesh)
  loop.check(config, mesh)
  check_name('config: rl.objective', config.rl.objective, OBJECTIVES)
  checkpoints, finished = open_checkpoints(config, run_folder)
  if finished:
    return
  tokenizer = Tokenizer.load(run_folder.tokenizer)
  if tokenizer.vocab_size > config.model.vocab:
    raise UserError(
        f'{run_folder.tokenizer}: must have at most model.vocab = {config.model.vocab} ids, got {tokenizer.vocab_size}; '
        'it is not the tokenizer that the model was trained with'
    )

  with jax.set_mesh(mesh), contextlib.ExitStack() as closing:
    # -------------------------------------------------------------- Problems, model and optimizer
    lease = closing.enter_context(held_alone(checkpoints.stage))
    learner = OBJECTIVES[config.rl.objective](config, run_folder, tokenizer, closing)
    stage = step.of_stage(_per_update(config, learner.updates), mesh, 1, learner.objective)

    # -------------------------------------------------------------- Start: own checkpoint > parent > imported > random
    def on_start(start: Start):
      if start.kind == 'resume':
        check_same_data(start, 'problems', learner.data_hash, accept_new_rows)

    identity = learner.data_hash, tokenizer.fingerprint
    session = Session(config, run_folder, checkpoints, lease, stage, mesh, *identity, closing, on_start)
    stage = session.health.checked(stage)
    state, done, tokens = session.state, session.done, 0
    reference = _reference(config, run_folder, session.lineage, stage, mesh) if learner.needs_reference else None
    learner.begin(stage, mesh, done, reference, closing)

    def evaluate():
      session.watchdog.extend()
      with session.saved_at_interrupt(done, save):
        figures = learner.evaluate(state)
      session.writer.write('eval', done, figures)
      shown = [f'held-out {name} {value:.3f}' for name, value in figures.items() if name in _SHOWN]
      session.bar.update(done, '  '.join(shown))

    def save():
      session.save(done, state, tokens, {})

    def report(record, seconds):
      record |= {'step_seconds': seconds, 'tokens_per_second': record.get('tokens', 0) / seconds}
      bad = record.get('skipped_in_a_row', 0)
      if not (rare := bad or session.due(done, config.log.layers_every)):
        record = {name: value for name, value in record.items() if name not in metrics.RARE}
      if rare or session.due(done, config.log.every):
        session.writer.write('train', done, record)
        session.bar.update(done, _news(record))
      if bad >= metrics.MAX_SKIPPED_IN_A_ROW:
        raise RunStopped(
            f'{config.stage}: loss or gradient was not finite in {bad} updates in a row, the last at step {done}; the '
            'parameters are those before them'
        )

    # -------------------------------------------------------------- Learn, save, evaluate
    closing.enter_context(preemption.deferred())
    if session.due(done, config.eval.every):
      evaluate()
    while done < config.train.steps:
      session.between(done, state, save)
      began, record = time.monotonic(), {}
      if session.passes_over(done + 1):
        learner.pass_over(done + 1)
        for _ in range(learner.updates):
          state = stage.pass_over(state)
      else:
        with profile.annotated(done + 1), session.saved_at_interrupt(done, save):
          state, record = learner.learn(done + 1, state)
      done += 1
      if record:
        tokens += record.get('tokens', 0)
        report(record, time.monotonic() - began)
      if session.due(done, config.checkpoint.every):
        save()
      if session.due(done, config.eval.every):
        evaluate()
    session.finish()


_SHOWN = ('pass_rate', 'solved', 'accuracy')


def _per_update(config: ConfigDict, updates: int) -> ConfigDict:
  """The configuration with the steps of the optimizer, whose schedule then stretches over all updates."""
  config = config.copy_and_resolve_references()
  config.train.steps *= updates
  return config


def _reference(config: ConfigDict, run_folder: RunFolder, lineage: dict[str, Any], stage: step.Stage, mesh: Mesh) -> Any:
  """The parameters that the stage began with, which are its parent's last ones."""
  if not (parent := lineage['parent']):
    raise UserError(f'config: {config.stage} needs a parent stage as the reference of its loss, and has none')
  return Checkpoints(run_folder.stage(parent['stage'])).restore_params(stage.abstract.params, parent['step'])


def _news(record: dict[str, Any]) -> str:
  shown = [('loss', '.3f'), ('reward', '.3f'), ('length', '.0f'), ('groups', 'd'), ('entropy', '.3f'), ('accuracy', '.3f')]
  parts = [f'{name} {format(record[name], how)}' for name, how in shown if name in record]
  if not math.isfinite(record.get('loss', 0.0)) or record.get('skipped', 0):
    parts.append(f'{record["skipped"]} skipped')
  return '  '.join([*parts, f'{record["step_seconds"]:.1f} s'])
