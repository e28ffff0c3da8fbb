"""Mercury: programs are graded by tests, then by their time among the times of the task's reference solutions (Beyond).

Source: Du et al. 2024 and the code in bigcode-evaluation-harness. Beyond is the mean of
(R_max - clip(r, R_min, R_max)) / (R_max - R_min), 0 for a program that fails; r is the mean of three runs. All of a
program's sandbox time counts: what it costs to start and to pass values is the same for all and cancels out.
"""

import json
import math
import pathlib
import threading
from collections.abc import Mapping, Sequence

from iquest_jax.errors import UserError
from iquest_jax.eval import read
from iquest_jax.eval.suite import MISSING, Outcome, Problem, Prompt, Suite
from iquest_jax.infer.sampler import Sampling
from iquest_jax.sandbox.limits import Limits
from iquest_jax.sandbox.pool import Pool
from iquest_jax.sandbox.verdict import PASSED, Verdict, grade_script
from iquest_jax.text import extract

_FIELDS = {
    'slug_name': str, 'difficulty': str, 'pretty_content': list, 'prompt': str, 'entry_point': str, 'solutions': list,
    'convert_offline': str, 'evaluate_offline': str, 'test_cases': str,
}  # fmt: skip
_RUNS = 3
_LIMITS = Limits(wall_s=10, cpu_s=10)
# What solutions of the data set use without importing it; `lctk` is the data set's own and published nowhere.
_PRELUDE = """
import bisect, collections, copy, functools, heapq, itertools, math, re, string, sys
from bisect import bisect_left, bisect_right
from collections import OrderedDict, defaultdict, deque
from functools import cache, lru_cache
from heapq import heapify, heappop, heappush
from itertools import permutations, zip_longest
from math import ceil, factorial, floor, inf, sqrt
from sys import maxsize, stdin
from typing import List, Optional, Tuple
for name in ('lctk', 'sortedcontainers'):
  try:
    globals()[name] = __import__(name)
  except ImportError:
    pass
class ListNode:
  def __init__(self, val=0, next=None):
    self.val, self.next = val, next
class TreeNode:
  def __init__(self, val=0, left=None, right=None):
    self.val, self.left, self.right = val, left, right
"""
# Objects do not travel between the sandboxes, so arguments are converted on the program's side, too.
_ANSWER = """
def the_answer(entry_point, inputs, expected):
  inputs, _ = convert_offline((inputs, expected))
  inputs = list(inputs)
  return [getattr(Solution(), entry_point)(*inputs), inputs]
"""
_SCRIPT = """
import json
for case in json.loads({cases!r}):
  _, expected = convert_offline((case['input'], case['expected']))
  outputs, inputs = the_answer({entry_point!r}, case['input'], case['expected'])
  assert evaluate_offline(inputs, outputs, expected), f"{{case['input']!r:.200}}"
"""


class Mercury(Suite):
  """The evaluation split."""

  name = 'mercury'
  sampling = Sampling(temperature=0.2, top_p=0.85)
  length = 2048

  def __init__(self):
    self._lock, self._ranges = threading.Lock(), {}

  def problems(self, folder: pathlib.Path) -> list[Problem]:
    path = read.find(folder, '[mM]ercury*/eval*.jsonl', '[mM]ercury*.jsonl', 'eval*.jsonl')
    problems = []
    for record in read.records(path, _FIELDS):
      where = f'{path}: {record["slug_name"]}'
      if not all(isinstance(one, dict) and isinstance(one.get('solution'), str) for one in record['solutions']):
        raise UserError(f'{where}: every one of "solutions" must have "solution", a string; is it the official file?')
      try:
        cases = json.loads(record['test_cases'])
        [(case['input'], case['expected']) for case in cases]
      except (ValueError, TypeError, KeyError) as error:
        raise UserError(
            f'{where}: test_cases must be JSON with input and expected: {error!r}; download it again'
        ) from None
      problems.append(Problem(record['slug_name'], record))
    return problems

  def prompt(self, problem: Problem) -> Prompt:
    fields = problem.fields
    content = str((*fields['pretty_content'], '')[0])
    chat = f'Complete the Python code so that it is as fast as possible:\n\n{content}\n\n```python\n{fields["prompt"]}\n```'
    stop = ['\nclass', '\ndef', '\n#', '\n@', '\nprint', '\nif', '\n```']
    return Prompt(f'"""\n{content}\n"""\n{fields["prompt"]}', [{'role': 'user', 'content': chat}], stop=stop)

  def extract(self, problem: Problem, answers: Sequence[str]) -> str:
    return extract.code(answers[-1], defines='Solution')

  def continued(self, problem: Problem, completion: str) -> str:
    return problem.fields['prompt'] + completion

  def grade(self, problem: Problem, extracted: str, pool: Pool) -> Outcome:
    if not extracted.strip():
      return Outcome.when(False, 'the answer has no code')
    fastest, slowest = self._range(problem, pool)
    if not fastest < slowest:
      return Outcome(
          MISSING, 'fewer than two reference solutions run here; they may need a library that is not installed'
      )
    runs = []
    for _ in range(_RUNS):
      runs.append(_run(problem, extracted, pool))
      if runs[-1].status != PASSED:
        return Outcome.of(runs[-1])
    seconds = math.fsum(run.seconds for run in runs) / _RUNS
    return Outcome(PASSED, seconds=seconds, figures={'beyond': beyond(seconds, fastest, slowest)})

  def _range(self, problem: Problem, pool: Pool) -> tuple[float, float]:
    """Seconds of the fastest and the slowest reference solution; measured once, so that all samples meet the same."""
    with self._lock:
      if problem.id not in self._ranges:
        runs = [_run(problem, one['solution'], pool) for one in problem.fields['solutions']]
        seconds = [run.seconds for run in runs if run.status == PASSED]
        self._ranges[problem.id] = (min(seconds), max(seconds)) if seconds else (0.0, 0.0)
      return self._ranges[problem.id]

  def score(self, problems: Mapping[str, Problem], outcomes: Mapping[str, Sequence[Outcome]]) -> dict[str, float]:
    means = [
        math.fsum(outcome.figures.get('beyond', 0.0) for outcome in samples) / len(samples)
        for samples in outcomes.values()
    ]
    return super().score(problems, outcomes) | {'beyond': 100 * math.fsum(means) / len(means)}


def beyond(seconds: float, fastest: float, slowest: float) -> float:
  """The share of the range of reference times that a time is below the slowest, in [0, 1]."""
  return (slowest - min(max(seconds, fastest), slowest)) / (slowest - fastest)


def _run(problem: Problem, solution: str, pool: Pool) -> Verdict:
  fields = problem.fields
  helpers = f'{fields["convert_offline"]}\n{fields["evaluate_offline"]}\n'
  script = _SCRIPT.format(cases=fields['test_cases'], entry_point=fields['entry_point'])
  program = f'{_PRELUDE}{solution}\n{fields["convert_offline"]}\n{_ANSWER}'
  return grade_script(pool, program, script, names=['the_answer'], setup=_PRELUDE + helpers, limits=_LIMITS)


MERCURY = Mercury()
