"""Trains a stage, by the loop that its configuration is for."""

from ml_collections import ConfigDict

from iquest_jax.run_folder import RunFolder


def run(config: ConfigDict, run_folder: RunFolder, scorer) -> None:
  """Trains a stage to its last step.

  Args:
    scorer: see scores.scorer.

  Raises:
    UserError, RunStopped: see the loops.
  """
  if 'rl' in config:
    from iquest_jax.rl import loop

    loop.run(config, run_folder)
  else:
    from iquest_jax.train import loop

    loop.run(config, run_folder, scorer)
