"""Evaluates a stage's newest checkpoint with several suites, and shows what came of it."""

import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from absl import logging
from rich import box
from rich.console import Console
from rich.table import Table

from iquest_jax.errors import UserError
from iquest_jax.eval import bits_per_byte, suites
from iquest_jax.eval import run as runs
from iquest_jax.eval.answers import EngineAnswers
from iquest_jax.eval.suite import Suite
from iquest_jax.hosts import from_first, refuse_together
from iquest_jax.run_folder import RunFolder
from iquest_jax.sandbox import runner
from iquest_jax.sandbox.pool import Pool

_WIDTH = 120  # of a table that goes into a file


def no_isolation() -> str:
  """Why no program can be run here, on all processes; empty if the first can."""
  reason = ''
  if jax.process_index() == 0:
    try:
      runner.choose('')
    except UserError as error:
      reason = str(error)
  return from_first('isolation', reason)


def evaluate(
    run: RunFolder,
    stage: str,
    names: Sequence[str],
    *,
    chat: bool,
    slots: int,
    data: str = '',
    out: pathlib.Path | None = None,
    changes: Callable[[Suite], Mapping[str, Any]] = lambda suite: {},
) -> list[dict[str, Any]]:
  """Evaluates a stage with suites in turn, all processes taking part; returns what is in each results.json.

  Args:
    chat: see runs.Plan.
    slots: answers decoded at a time.
    data: folder of the benchmarks' files.
    out: gets a folder per suite; by default `<workdir>/<stage>/evaluation/<step>`.
    changes: what is changed of what a suite asks for, fields of runs.Plan.

  Raises:
    UserError: a suite, its files or the checkpoint is missing, or programs cannot be isolated.
  """
  tasks = refuse_together('suites', lambda: [(name, *read(name, data, run)) for name in names])
  answers = EngineAnswers(run, stage, slots)
  out = out or run.stage(stage).evaluation / str(answers.settings['step'])
  results = []
  with Pools() as pools:
    for name, suite, problems in tasks:
      if suite is None:
        measured = bits_per_byte.measure(run, stage, out / name, answers.settings, answers.model, answers.params)
        results.append(measured)
        continue
      plan = runs.Plan.of(suite, chat, **changes(suite))
      results.append(runs.run(suite, problems, plan, answers, out / name, pools.get()))
  logging.info('%s: results in %s', stage, out)
  return results


def read(name: str, data: str, run: RunFolder | None) -> tuple[Any, list]:
  """(suite, its problems) of a name; (None, []) of bits per byte."""
  suites.check(name)
  if name == suites.BITS_PER_BYTE:
    return None, []
  suite = suites.get(name)
  return suite, suites.problems(suite, data, run)


class Pools:
  """The sandboxes of an evaluation, started when a suite first needs them, on the first process alone."""

  def __init__(self):
    self._pool: Pool | None = None

  def get(self) -> Pool | None:
    """Raises UserError on all processes if no isolation is available."""
    if reason := no_isolation():
      raise UserError(reason)
    if self._pool is None and jax.process_index() == 0:
      self._pool = Pool()
    return self._pool

  def __enter__(self) -> 'Pools':
    return self

  def __exit__(self, *_) -> None:
    if self._pool:
      self._pool.close()


def show(results: Sequence[Mapping[str, Any]]) -> None:
  """Prints a line per model and suite: figures, problems scored, problems whose tools are missing; then those."""
  table = Table(box=box.SIMPLE, title='evaluation', title_justify='left')
  for heading in ('model', 'suite', 'figures', 'scored', 'missing'):
    is_number = heading in ('scored', 'missing')
    table.add_column(heading, justify='right' if is_number else 'left', no_wrap=heading != 'figures')
  for result in results:
    settings, answers = result['settings'], result['settings']['answers']
    model = f'{answers["stage"]} {answers["step"]:,}' if 'stage' in answers else answers['model']
    bits = settings['suite'] == suites.BITS_PER_BYTE
    figures = [f'{name} {value:.3f}' if bits else f'{name} {value:.1f} %' for name, value in result['figures'].items()]
    counts = f'{result["scored"]:,}', f'{len(result["missing"]):,}'
    table.add_row(model, settings['suite'], ', '.join(figures) or '-', *counts)
  Console(width=None if sys.stdout.isatty() else _WIDTH, highlight=False).print(table)
  for result in results:
    for problem, reason in result['missing'].items():
      print(f'missing: {result["settings"]["suite"]} {problem}: {reason}')
