"""The closed loop of a mixture: a source's weight rises when its benchmark falls, is capped, and decays on a plateau.

Every decision is a line of `<stage>/mixture.jsonl`, written before the first row that depends on it is drawn. A resume
keeps the decisions up to its checkpoint and takes the later ones again from the same parameters, so it draws the same rows.

Source: IQuest-Coder-V1 report, section on supervised fine-tuning. # ours: the rule, since the report only names its effect.
"""

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from absl import logging
from ml_collections import ConfigDict

from iquest_jax.config import HELD_OUT, check_closed_loop
from iquest_jax.data.loader import Loader
from iquest_jax.errors import UserError
from iquest_jax.hosts import from_first
from iquest_jax.run_folder import StageFolder, write_whole
from iquest_jax.train import preemption

# Gives {suite: score, higher is better} of the stage's newest checkpoint, on all processes; a suite may be left out.
Scorer = Callable[[Sequence[str]], Mapping[str, float]]


@dataclasses.dataclass(frozen=True)
class Decision:
  """What was decided after `step` steps, for the rows from there on.

  Attributes:
    scores: {source: its benchmark's score, higher is better}; a source without a score is left out.
    factors: {source: factor on its weight in data.mixture}, between 1 and the cap.
    weights: {source: share of the rows}, of all sources of the mixture.
    reasons: {source: 'first score', 'fell', 'improved', 'plateau' or 'no score'}.
  """

  step: int
  scores: dict[str, float]
  factors: dict[str, float]
  weights: dict[str, float]
  reasons: dict[str, str]


def decide(
    settings: ConfigDict,
    configured: Mapping[str, float],
    history: Sequence[Decision],
    step: int,
    scores: Mapping[str, float],
) -> Decision:
  """What follows from the scores measured after `step` steps and from the earlier decisions; nothing else counts.

  A score is compared with the best of the earlier ones, so that a slow decline adds up.

  Args:
    settings: data.closed_loop.
    configured: {source: its weight in data.mixture at this step}.
    scores: {source: score, higher is better}; where one is missing, the source keeps its factor.
  """
  factors, reasons = {}, {}
  for source, _ in settings.benchmarks:
    factor = history[-1].factors.get(source, 1.0) if history else 1.0
    earlier = [decision.scores[source] for decision in history if source in decision.scores]
    if source not in scores:
      reason = 'no score'
    elif not earlier:
      reason = 'first score'
    else:
      change, within = scores[source] - max(earlier), settings.tolerance * abs(max(earlier))
      reason = 'fell' if change < -within else 'improved' if change > within else 'plateau'
    factor *= {'fell': settings.rise, 'plateau': settings.decay}.get(reason, 1.0)
    factors[source], reasons[source] = min(max(factor, 1.0), settings.cap), reason
  scaled = {source: weight * factors.get(source, 1.0) for source, weight in configured.items()}
  weights = {source: weight / sum(scaled.values()) for source, weight in scaled.items()}
  return Decision(step, dict(scores), factors, weights, reasons)


class ClosedLoop:
  """Decides about the mixture of a running stage, or keeps it where data.closed_loop is off."""

  def __init__(self, config: ConfigDict, folder: StageFolder, loader: Loader, scorer: Scorer | None):
    """Nothing is decided yet; `resume` comes first.

    Raises:
      UserError: data.closed_loop does not fit the stage, or names a suite and there is no `scorer`.
    """
    check_closed_loop(config, loader.sources)
    self._settings, self._stage, self._steps = config.data.closed_loop, config.stage, config.train.steps
    self._benchmarks = dict(self._settings.benchmarks) if self._settings.every else {}
    self._path, self._loader, self._scorer = folder.mixture, loader, scorer
    self._history: list[Decision] = []
    if self.suites and scorer is None:
      raise UserError(
          f'config: data.closed_loop.benchmarks: "{self.suites[0]}" cannot be measured here; name "{HELD_OUT}" instead'
      )

  @property
  def suites(self) -> list[str]:
    """Names of the suites it needs scores of."""
    return sorted(set(self._benchmarks.values()) - {HELD_OUT})

  def resume(self, step: int, lineage: Mapping[str, Any] | None) -> None:
    """Follows the decisions made up to `step`, and forgets later ones.

    Args:
      step: the step of the checkpoint that the stage resumes from.
      lineage: of that checkpoint; None where the stage begins, and all decisions are forgotten.

    Raises:
      UserError: the file of decisions is damaged, lacks some, or the closed loop was turned off.
    """
    lines, problem = from_first('decisions on disk', self._read() if lineage is not None else ([], ''))
    if problem:
      raise UserError(problem)
    history = [Decision(**line) for line in lines]
    later = [decision for decision in history if decision.step > step]
    self._history = [decision for decision in history if decision.step <= step]
    made, needed = self.decided_before(step), (lineage or {}).get('decisions', 0)
    if made != needed:
      raise UserError(
          f'{self._path}: must hold the {needed} decisions that were made before step {step}, but holds {made}; restore '
          'it, since other weights would draw other rows, or use a new --workdir'
      )
    if self._history and not self._settings.every:
      raise UserError(
          f'config: data.closed_loop.every must stay above 0, got 0: {self._stage} has drawn rows by decisions of its '
          'closed loop; set it as before, or use a new --workdir'
      )
    if later or lineage is None:
      self._write()
    self._follow()

  def decided_before(self, step: int) -> int:
    """How many decisions were made before a step; a checkpoint's lineage holds it as 'decisions'."""
    return sum(decision.step < step for decision in self._history)

  def is_due(self, step: int) -> bool:
    """Whether something is decided after `step` steps, before the next row is drawn."""
    return bool(self._settings.every) and step < self._steps and step % self._settings.every == 0

  def until(self, step: int) -> int:
    """The step before which nothing is decided after this one: rows may be drawn up to there."""
    every = self._settings.every or self._steps
    return min((step // every + 1) * every, self._steps)

  def decide(self, step: int, held_out: Mapping[str, float]) -> Decision:
    """Decides after `step` steps, or repeats what was decided there; the loader follows it when this returns.

    Args:
      held_out: {source: held-out loss at this step, nats per token}.
    """
    if not self._history or self._history[-1].step < step:
      scores = self._scores(step, held_out)
      made = decide(self._settings, self._loader.weights(step), self._history, step, scores)
      # Each process could decide for itself, but must never draw rows by other weights than the rest.
      self._history.append(Decision(**from_first('decision', dataclasses.asdict(made))))
      self._write()
      self._follow()
    decision = self._history[-1]
    shares = [f'{name} {share:.1%}' for name, share in decision.weights.items()]
    reasons = [f'{name} {reason}' for name, reason in decision.reasons.items()]
    logging.info('%s step %d: rows of %s (%s)', self._stage, step, ', '.join(shares), ', '.join(reasons))
    return decision

  def _scores(self, step: int, held_out: Mapping[str, float]) -> dict[str, float]:
    measured = {}
    if self.suites and step:  # before the first step the stage has no checkpoint to answer a suite with
      with preemption.at_once():  # nothing is lost: the checkpoint is saved, and so is every answer
        measured = self._scorer(self.suites)
    measured = {source: measured.get(benchmark) for source, benchmark in self._benchmarks.items()}
    for source, benchmark in self._benchmarks.items():
      if benchmark == HELD_OUT and source in held_out:
        measured[source] = -held_out[source]
    return {source: float(score) for source, score in measured.items() if score is not None and math.isfinite(score)}

  def _follow(self) -> None:
    self._loader.follow([(decision.step, decision.factors) for decision in self._history])

  def _read(self) -> tuple[list[dict[str, Any]], str]:
    """(the decisions on disk, what is wrong with the file), on the first process."""
    if jax.process_index() or not self._path.exists():
      return [], ''
    names, decisions = [field.name for field in dataclasses.fields(Decision)], []
    for number, line in enumerate(self._path.read_text().splitlines(), start=1):
      try:
        decisions.append(json.loads(line))
        step, *tables = (decisions[-1][name] for name in names)
        whole = isinstance(step, int) and all(isinstance(table, dict) for table in tables)
      except (ValueError, KeyError, TypeError):
        whole = False
      if not whole:
        return [], (
            f'{self._path}: line {number} is not a decision; restore the file, since other weights would draw other rows, '
            'or use a new --workdir'
        )
    return decisions, ''

  def _write(self) -> None:
    if jax.process_index():
      return
    if not self._history:
      self._path.unlink(missing_ok=True)
      return
    text = ''.join(json.dumps(dataclasses.asdict(decision)) + '\n' for decision in self._history)
    try:
      write_whole(self._path, text)
    except OSError as error:
      raise UserError(f'{self._path}: not written: {error.strerror}; fix this, then rerun the same command') from error
