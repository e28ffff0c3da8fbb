"""Trains a stage, by the loop that its configuration is for."""

from absl import logging
from ml_collections import ConfigDict

from iquest_jax.run_folder import RunFolder


def run(
    config: ConfigDict, run_folder: RunFolder, scorer, accept_new_rows: bool = False, newest_whole: bool = False
) -> None:
  """Trains a stage to its last step.

  Args:
    scorer: see scores.scorer.
    accept_new_rows: see the loops.
    newest_whole: whether it may fall back to the checkpoint before a damaged newest one, which is set aside.

  Raises:
    UserError, RunStopped: see the loops.
  """
  from iquest_jax import hosts
  from iquest_jax.checkpoint.store import Damaged
  from iquest_jax.train.session import held_alone

  while True:
    try:
      return _run(config, run_folder, scorer, accept_new_rows)
    except Damaged as damaged:
      checkpoints, step = damaged.checkpoints, damaged.step
      if not newest_whole or checkpoints.stage.name != config.stage:
        raise
      with held_alone(checkpoints.stage):  # nobody else changes the folder meanwhile
        earlier = [other for other in checkpoints.steps() if other < step]
        # One answer for all processes: what a host sees of the folder may be older.
        own_newest, earlier = hosts.from_first('damaged', [checkpoints.latest_step() == step, earlier])
        if not (own_newest and earlier):
          raise
        aside = checkpoints.set_aside(step)
      logging.warning(
          '%s: checkpoint %d is damaged (%s) and is now %s; falling back to step %d',
          config.stage, step, damaged.what, aside.name, earlier[-1],
      )  # fmt: skip


def _run(config: ConfigDict, run_folder: RunFolder, scorer, accept_new_rows: bool) -> None:
  if 'rl' in config:
    from iquest_jax.rl import loop

    loop.run(config, run_folder, accept_new_rows)
  else:
    from iquest_jax.train import loop

    loop.run(config, run_folder, scorer, accept_new_rows)
