"""Small programming problems of the tiny corpus (data/tiny/programs.py), graded by hidden tests.

Read from `<workdir>/corpus/small_programs/held_out.jsonl`; no source that is trained on contains their specifications.
"""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence

from iquest_jax.errors import UserError
from iquest_jax.eval import read
from iquest_jax.eval.suite import Outcome, Problem, Prompt, Suite, pass_at
from iquest_jax.sandbox.limits import Limits
from iquest_jax.sandbox.pool import Pool
from iquest_jax.sandbox.verdict import Call, grade_calls
from iquest_jax.text import extract

_FIELDS = {'id': str, 'level': int, 'request': str, 'solution': str, 'tests': list}
_LIMITS = Limits(wall_s=5.0, cpu_s=2.0, memory_bytes=256 << 20)


@dataclasses.dataclass
class SmallPrograms(Suite):
  """The benchmark; its figures are the shares solved, of all problems and of each level."""

  name: str = 'small_programs'
  length: int = 96
  in_corpus: bool = True

  def problems(self, folder: pathlib.Path) -> list[Problem]:
    path = folder / 'small_programs' / 'held_out.jsonl'
    if not path.exists():
      raise UserError(f'{path}: is missing, as in a corpus of an earlier version; use a new --workdir')
    records = read.records(path, _FIELDS)
    return [Problem(record['id'], record) for record in records]

  def prompt(self, problem: Problem) -> Prompt:
    return Prompt(messages=[{'role': 'user', 'content': problem.fields['request']}])

  def extract(self, problem: Problem, answers: Sequence[str]) -> str:
    return extract.code(answers[-1], defines='f')

  def grade(self, problem: Problem, extracted: str, pool: Pool) -> Outcome:
    calls = [Call('f', (given,), expected) for given, expected in problem.fields['tests']]
    verdict = grade_calls(pool, extracted, calls, _LIMITS)
    return dataclasses.replace(Outcome.of(verdict), figures={'tests': verdict.passed / len(calls)})

  def score(self, problems: Mapping[str, Problem], outcomes: Mapping[str, Sequence[Outcome]]) -> dict[str, float]:
    figures = {'solved': pass_at(1, outcomes)}
    for level in sorted({problem.fields['level'] for problem in problems.values()}):
      some = {key: samples for key, samples in outcomes.items() if problems[key].fields['level'] == level}
      figures[f'level {level}'] = pass_at(1, some)
    return figures


SMALL_PROGRAMS = SmallPrograms()
