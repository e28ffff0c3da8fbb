"""What a closed loop asks the suites for: a score of the stage in training, from its newest checkpoint.

Imports the evaluation only where a stage names a suite, so that --help answers at once.
"""

from collections.abc import Callable, Mapping, Sequence

from absl import logging
from ml_collections import ConfigDict

from experiments import chain
from iquest_jax.config import HELD_OUT
from iquest_jax.errors import UserError
from iquest_jax.run_folder import RunFolder


def scorer(
    config: ConfigDict, run_folder: RunFolder, data: str
) -> Callable[[Sequence[str]], Mapping[str, float]] | None:
  """Measures the suites that data.closed_loop names, for train/closed_loop.py; None if it names none.

  A score is the suite's first figure. The model is restored beside the one in training, so the devices need room for both.

  Args:
    data: folder of the benchmarks' files.

  Raises:
    UserError: a suite or its files are missing, or programs cannot be isolated here; before the first step.
  """
  if 'closed_loop' not in config.data:
    return None
  loop = config.data.closed_loop
  names = sorted({benchmark for _, benchmark in loop.benchmarks} - {HELD_OUT}) if loop.every else []
  if not names:
    return None
  from iquest_jax.eval import stage, suites

  if suites.BITS_PER_BYTE in names:
    raise UserError(
        f'config: data.closed_loop.benchmarks: "{suites.BITS_PER_BYTE}" does not give a score; name "{HELD_OUT}" instead'
    )
  for name in names:
    stage.read(name, data, run_folder)
  if isolation := stage.no_isolation():
    raise UserError(isolation)

  def score(names: Sequence[str]) -> dict[str, float]:
    how = dict(chat=chain.is_chat(config.stage), slots=config.eval.slots, data=data)
    try:
      results = stage.evaluate(run_folder, config.stage, names, **how)
    except UserError as error:
      # Days of training must not end here: the weights stay as they are.
      logging.warning('%s: %s was not measured: %s', config.stage, ', '.join(names), error)
      return {}
    return {result['settings']['suite']: next(iter(result['figures'].values())) for result in results if result['figures']}

  return score
