"""Small chains of the real command, through to reinforcement learning; tests/programs/small_chain.py runs them."""

import pathlib

from tests.programs.small_chain import SAVE_EVERY, STAGES
from tests.rl import small_stage
from tests.run import helpers as run_helpers

STEPS = 3
SAVED = [SAVE_EVERY, STEPS]


def chain(name: str, workdir: pathlib.Path, size: str = 'tiny_loop', steps: int = STEPS) -> list[str]:
  """The arguments of python that run, show or verify a chain."""
  return ['-m', 'tests.programs.small_chain', name, f'--size={size}', f'--workdir={workdir}', f'--steps={steps}']


def write(workdir: pathlib.Path) -> pathlib.Path:
  """A run folder with what a chain learns from: rows of its stages, and problems of the last one."""
  run_helpers.write_tokenizer(workdir)
  for stage in STAGES[:-1]:
    run_helpers.write_rows(workdir, stage, 128, ('code', 'code_high_quality', 'facts', 'transitions', 'web_text'))
  small_stage.write_problems(workdir)
  return workdir


def assert_same_chain(workdir: pathlib.Path, other: pathlib.Path, steps: int = STEPS) -> None:
  """Asserts that two finished chains have the same states, metrics, lineages and roll-outs, apart from times."""
  for stage in STAGES:
    if (other / stage).exists():  # a dense chain has no loop_adapt
      run_helpers.assert_same_run(workdir / stage, other / stage, steps)
  assert small_stage.lines(workdir) == small_stage.lines(other)
