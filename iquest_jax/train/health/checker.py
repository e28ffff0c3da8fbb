"""libtpu's own checker: the train step, compiled a second time so that every operation is repeated and compared.

Such a step should take about twice as long, which libtpu's estimates do not show and nobody has measured. So it runs at the
start of every process, and once more after an update that was not finite. Its result is dropped: which program takes a step
does not depend on restarts, so neither do the trained bits.
"""

import collections
from collections.abc import Callable
from typing import Any

import jax
from absl import logging

from iquest_jax import sharding
from iquest_jax.train.step import Stage

# Every message of the checker names it so (libtpu 0.0.42.1).
_NAME = 'SDC'
# The metrics of a step are asked for when so many later ones are dispatched; the loop has waited for them by then.
_LATE = 2


def options(device_kind: str) -> dict[str, bool | int]:
  """Compiler options of the checked program (source: apple/axlearn, axlearn/common/compiler_options.py)."""
  return {
      'xla_tpu_enable_sdc_checker': True,
      'xla_tpu_sdc_check_repeat_count': 1,
      'xla_tpu_sdc_check_halt_on_detection': True,  # raises an error in Python
      # A chip of two cores repeats on the other core, a chip of one by other instructions.
      'xla_tpu_sdc_checker_alternate_megacore_cores': True,
      'xla_tpu_sdc_replicate_llo': any(name in device_kind for name in ('lite', 'v5e', 'v6e')),
      # A test of the links at every start takes long, and none of it is about the step.
      'xla_tpu_ici_sdc_test_run_on_program_start': False,
  }


def checked_step(stage: Stage, device_kind: str) -> Callable:
  """The stage's train step, compiled with the checker; it does not donate the state, which the ordinary step takes next."""
  out = sharding.of_leaves(stage.abstract), None
  return jax.jit(stage.train_step.__wrapped__, out_shardings=out, compiler_options=options(device_kind))


class Checker:
  """The stage's train step, preceded by the checked one where that is due: at first, and after a skipped update.

  Args:
    stage: whose `train_step` it stands in for.
    checked: the same step with the checker.
    found: is told what the checker says, and raises.
  """

  def __init__(self, stage: Stage, checked: Callable, found: Callable[[str], Any]):
    self._ordinary, self._checked, self._found = stage.train_step, checked, found
    self._due, self._skipped = True, collections.deque()

  def __call__(self, state: Any, batch: Any) -> Any:
    if self._due or self._was_skipped():
      self._due = False
      self._check(state, batch)
    state, metrics = self._ordinary(state, batch)
    self._skipped.append(metrics['skipped_in_a_row'])
    return state, metrics

  def _was_skipped(self) -> bool:
    return len(self._skipped) >= _LATE and bool(self._skipped.popleft())

  def _check(self, state: Any, batch: Any) -> None:
    try:
      jax.block_until_ready(self._checked(state, batch))
    except jax.errors.JaxRuntimeError as error:
      lines = [line for line in str(error).splitlines() if _NAME in line]
      if lines:
        self._found(lines[0])
      elif 'RESOURCE_EXHAUSTED' in str(error):
        logging.warning('the checked step does not fit into memory, so steps run unchecked: %s', str(error).splitlines()[0])
      else:
        raise
    else:
      logging.info('libtpu repeated the operations of a step and found them equal')
