"""Grades answers: the fraction of a problem's hidden tests that the program of an answer passes in the sandbox."""

import collections
import dataclasses
import hashlib
import json
import threading

from iquest_jax.data.documents import Drop, Problem
from iquest_jax.data.synthesis import cases as cases_lib
from iquest_jax.data.synthesis import execution
from iquest_jax.data.synthesis.cases import TOLERANCE
from iquest_jax.errors import UserError
from iquest_jax.sandbox import verdict
from iquest_jax.sandbox.limits import Limits
from iquest_jax.sandbox.pool import Pool
from iquest_jax.sandbox.verdict import Verdict
from iquest_jax.text import extract

# ours: seconds of processor time decide, of all calls together or of each run; wall time is for what sleeps.
LIMITS = Limits(wall_s=60.0, cpu_s=6.0, memory_bytes=512 << 20)
_REMEMBERED = 1 << 16  # verdicts


@dataclasses.dataclass(frozen=True)
class Graded:
  """What an answer came to.

  Attributes:
    fraction: of the hidden tests that passed; 0 if not all could be run, because the program or the sandbox timed out or
      crashed, or the program was refused.
    verdict: status and reason; `passed` counts all tests that passed.
    program: what was graded, '' if the answer holds none.
  """

  fraction: float
  verdict: Verdict
  program: str = ''


class Grader:
  """Grades in a pool of sandboxes. Safe for threads; a program that was graded before is not run again.

  Only verdicts that follow from the program are remembered: a timeout or a crash may be the machine's fault.
  """

  def __init__(self, pool: Pool, limits: Limits = LIMITS):
    """Starts nothing.

    Args:
      limits: of all calls of a function in Python together, or of each run of a program. Functions of other languages have
        those of data/synthesis/execution.py.
    """
    self._pool, self._limits = pool, limits
    self._lock, self._known = threading.Lock(), collections.OrderedDict[str, Verdict]()

  def grade(self, problem: Problem, text: str) -> Graded:
    """Grades the program of an answer; thinking is left out, and of code blocks the last fitting one counts.

    Raises:
      UserError: the tests are malformed, or this machine cannot run the language at all.
      Exception: the sandbox is broken in another way; nothing is known about the answer.
    """
    program = extract.code(text, problem.language, problem.function.rpartition('.')[2])
    if not program.strip():
      return Graded(0.0, Verdict(verdict.FAILED, 'the answer holds no program', total=len(problem.tests)))
    key = _key(problem, program)
    with self._lock:
      if known := self._known.get(key):
        self._known.move_to_end(key)
    if known is None:
      known = self._run(problem, program)
      if known.status in (verdict.PASSED, verdict.FAILED):
        with self._lock:
          self._known[key] = known
          if len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
    whole = known.status in (verdict.PASSED, verdict.FAILED) and known.total > 0
    return Graded(known.passed / known.total if whole else 0.0, known, program)

  def _run(self, problem: Problem, program: str) -> Verdict:
    cases = cases_lib.parse(problem.tests, problem.function)
    if isinstance(cases, Drop):
      what = f'{cases.rule.removeprefix("verify: ")} {cases.evidence}'.strip()
      raise UserError(f'rl: the tests of problem "{problem.id}" cannot be run: {what}; leave it out')
    if not problem.function:
      texts = [(case.given, case.expected) for case in cases]
      return verdict.grade_output(self._pool, problem.language, program, texts, self._limits, run_all=True)
    if problem.language == 'python':
      calls = [verdict.Call(problem.function, tuple(case.given), case.expected) for case in cases]
      return verdict.grade_calls(self._pool, program, calls, self._limits, TOLERANCE, True, run_all=True)
    passed, first = 0, None
    for case in cases:  # A function of another language is compiled with its calls, which pass or fail together.
      one = execution.verdict_of(problem.language, program, problem.function, [case], self._pool)
      if one.status in (verdict.TIMEOUT, verdict.MEMORY, verdict.REFUSED):
        return dataclasses.replace(one, passed=passed, total=len(cases))
      passed += one.status == verdict.PASSED
      first = first or (one if one.status != verdict.PASSED else None)
    if first is None:
      return Verdict(verdict.PASSED, passed=passed, total=len(cases))
    return Verdict(verdict.FAILED, first.reason, first.test, passed, len(cases))


def _key(problem: Problem, program: str) -> str:
  parts = [problem.language, problem.function, program, problem.tests]
  return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
