"""Verdicts: whether a program is correct, from tests it never sees.

  with Pool() as pool:
    grade_calls(pool, 'def add(a, b): return a + b', [Call('add', (1, 2), 3)])
    grade_script(pool, source, 'assert add(1, 2) == 3', names=('add',))
    grade_output(pool, 'cpp', source, [('1 2', '3')])

The program runs in one sandbox and answers calls over a pipe; tests, expected values and a fresh random token are in
another, under another uid where this process is root. A program passes only if the grader sends back the token, which
exists in no process that the program's sandbox can reach. An early exit, whatever its status, is not a pass. Programs
that read standard input are compared in this process, as text. Test scripts run in the grader's sandbox, so they are
trusted to judge but not to do harm.

A script whose tests must share the interpreter with the program (mocks of its imports, isinstance of its classes) does
not work in this form, and no form of it could keep a token from the program.
"""

import dataclasses
import decimal
import json
import os
import secrets
from collections.abc import Mapping, Sequence

from iquest_jax.sandbox import languages
from iquest_jax.sandbox.inside import values
from iquest_jax.sandbox.limits import DEFAULT, Limits
from iquest_jax.sandbox.pool import Pool
from iquest_jax.sandbox.runner import Done, SandboxDied, Step

PASSED, FAILED, TIMEOUT, MEMORY, CRASHED, REFUSED = 'passed', 'failed', 'timeout', 'memory', 'crashed', 'refused'
_LONGEST_SOURCE = 4 << 20
_GRADER_SPARE_S = 2.0  # The grader outlives the candidate's own limit, so that the limit is what is reported.


@dataclasses.dataclass(frozen=True)
class Call:
  """One call with its expected result.

  Attributes:
    function: name or path of what is called, such as 'add' or 'Solution().add'.
    args: plain data: numbers, strings, bytes, None, lists, tuples, sets, dicts, ranges of such.
    expected: plain data.
  """

  function: str
  args: tuple
  expected: object
  kwargs: Mapping[str, object] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Verdict:
  """What grading a program came to.

  Attributes:
    status: passed; failed (wrong answer, exception); timeout (wall or CPU time); memory; crashed (ended by itself or by
      a signal, or exceeded another limit); refused (not run: too large, or the sandbox could not be used).
    reason: one line; empty if passed.
    test: the first failing test; empty if there is none to name.
    passed, total: tests passed before the first failure, or all that passed with `run_all`; and tests. A script is one.
    seconds, memory_bytes: of the program, over all tests.
  """

  status: str
  reason: str = ''
  test: str = ''
  passed: int = 0
  total: int = 0
  seconds: float = 0.0
  memory_bytes: int = 0


def grade_calls(
    pool: Pool,
    source: str,
    calls: Sequence[Call],
    limits: Limits = DEFAULT,
    tolerance: float = 0.0,
    sequences: bool = False,
    files: Mapping[str, str | bytes] | None = None,
    run_all: bool = False,
) -> Verdict:
  """Grades a Python program by calls of its functions.

  Args:
    source: the program, executed once before the first call.
    tolerance: absolute and relative difference allowed where a float is expected.
    sequences: a list may stand for a tuple and the reverse.
    files: further files in the program's working folder, from which it may also import.
    run_all: a failed call, one that raises included, does not end the grading; a limit, or the end of the program, does.

  Raises:
    TypeError: an argument or expected value is not plain data.
  """
  tests = [
      {
          'function': call.function,
          'args': [values.encode(arg) for arg in call.args],
          'kwargs': {name: values.encode(value) for name, value in call.kwargs.items()},
          'expected': values.encode(call.expected),
      }
      for call in calls
  ]
  fields = {'calls': tests, 'tolerance': tolerance, 'sequences': sequences, 'run_all': run_all}
  return _grade(pool, source, fields, limits, files, len(tests))


def grade_script(
    pool: Pool,
    source: str,
    script: str,
    names: Sequence[str] = (),
    setup: str = '',
    module: str = 'solution',
    limits: Limits = DEFAULT,
    files: Mapping[str, str | bytes] | None = None,
) -> Verdict:
  """Grades a Python program by a script of asserts, as HumanEval and MBPP have them.

  The script sees the program's globals as if it were appended to it, and may import them from `module`. Built-in names
  always are the real ones, unless listed in `names`.

  Args:
    names: what the script tests, such as the entry point.
    setup: trusted code that runs in front of the script (imports, helpers the script calls).
    files: as for `grade_calls`.
  """
  fields = {'script': script, 'setup': setup, 'names': list(names), 'module': module}
  return _grade(pool, source, fields, limits, files, 1)


def _grade(pool: Pool, source: str, fields: dict, limits: Limits, files: Mapping | None, total: int) -> Verdict:
  if len(source) > _LONGEST_SOURCE:
    return Verdict(REFUSED, f'the program has {len(source)} characters, at most {_LONGEST_SOURCE} are graded', total=total)
  token = secrets.token_hex(16)
  to_candidate, to_grader, report = os.pipe(), os.pipe(), os.pipe()
  pipes = [*to_candidate, *to_grader, *report]
  # The candidate ends soon after the grader, who is the peer behind the second of its pipes.
  candidate_step = Step(service={'python': 'candidate', 'source': source, 'peer': 1}, limits=limits)
  patience = dataclasses.replace(limits, wall_s=limits.wall_s + _GRADER_SPARE_S, cpu_s=limits.cpu_s + _GRADER_SPARE_S)
  grader_step = Step(service={'python': 'grader', 'token': token, **fields}, limits=patience)
  try:
    with pool.runner('candidate') as candidate, pool.runner('grader') as grader:
      candidate.start([candidate_step], files, fds=(to_candidate[0], to_grader[1]))
      grader.start([grader_step], fds=(to_grader[0], to_candidate[1], report[1]))
      for fd in (to_candidate[0], to_candidate[1], to_grader[0], to_grader[1], report[1]):
        os.close(fd)
        pipes.remove(fd)
      judged = grader.finish()[0]
      ran = candidate.finish()[0]
    outcome = _read_report(report[0])
  except SandboxDied as error:
    return Verdict(CRASHED, f'the sandbox ended: {error}', total=total)
  finally:
    for fd in pipes:
      os.close(fd)
  return _judge(ran, judged, outcome, token, total, limits)


def _read_report(fd: int) -> dict:
  """Returns what the grader wrote; nothing if it did not end by itself."""
  data = b''
  while chunk := os.read(fd, 1 << 16):
    data += chunk
  try:
    return json.loads(data)
  except ValueError:
    return {}


def _judge(ran: Done, judged: Done, report: dict, token: str, total: int, limits: Limits) -> Verdict:
  passed = int(report.get('passed', 0))
  base = dict(total=total, seconds=ran.seconds, memory_bytes=ran.memory_bytes)
  ended = report.get('token') == token
  if ended and passed == total:
    return Verdict(PASSED, passed=passed, **base)
  base |= dict(passed=passed, test=report.get('test', ''))
  if ended:
    return Verdict(FAILED, report.get('reason', ''), **base)
  if ran.limit:
    return Verdict(*_of_limit(ran.limit, limits), **base)
  if judged.limit:
    return Verdict(_of_limit(judged.limit, limits)[0], f'the tests exceeded the limit {judged.limit}', **base)
  if report.get('kind') == 'MemoryError':
    return Verdict(MEMORY, 'MemoryError: the program asked for more memory than it may map', **base)
  if report.get('kind') == 'CandidateGone':
    return Verdict(CRASHED, f'{_end(ran)} before the tests did', **base)
  if not report:
    return Verdict(CRASHED, f'the test script ended its own process ({_end(judged)})', **base)
  return Verdict(FAILED, report.get('reason', ''), **base)


def _of_limit(limit: str, limits: Limits) -> tuple[str, str]:
  """Returns (status, reason) of a program that was killed for a limit."""
  if limit in ('wall', 'cpu'):
    return TIMEOUT, f'more than {limits.wall_s if limit == "wall" else limits.cpu_s:g} s of {limit} time'
  if limit == 'memory':
    return MEMORY, f'more than {limits.memory_bytes >> 20} MB resident'
  field = {'output': 'output_bytes', 'disk': 'disk_bytes'}.get(limit, limit)
  return CRASHED, f'limit {field} of {getattr(limits, field)} exceeded'


def _end(done: Done) -> str:
  return f'the program was ended by signal {-done.exit}' if done.exit < 0 else f'the program exited with {done.exit}'


def grade_output(
    pool: Pool,
    language: str,
    source: str,
    cases: Sequence[tuple[str, str]],
    limits: Limits = DEFAULT,
    files: Mapping[str, str | bytes] | None = None,
    run_all: bool = False,
) -> Verdict:
  """Grades a program by what it prints for each (stdin, expected stdout), stopping at the first wrong answer.

  Lines are compared without surrounding blanks, then token by token as decimal numbers. A program that fails to compile
  is failed; one that prints the right answer and exits with another status than 0 is crashed.

  Args:
    files: further files in the program's working folder.
    run_all: a wrong answer, or an exit status above 0, does not end the grading; a limit or a signal does.

  Raises:
    UserError: the language is unknown, or its toolchain is not installed.
  """
  base = dict(total=len(cases))
  if len(source) > _LONGEST_SOURCE:
    return Verdict(REFUSED, f'the program has {len(source)} characters, at most {_LONGEST_SOURCE} are graded', **base)
  steps = languages.steps(language, tuple(stdin for stdin, _ in cases), limits, pool.backend)
  first_run = len(steps) - len(cases)
  if run_all:
    steps[first_run:] = [dataclasses.replace(step, optional=True) for step in steps[first_run:]]
  try:
    with pool.runner() as runner:
      done = runner.run(steps, {**(files or {}), languages.LANGUAGES[language].file: source})
  except SandboxDied as error:
    return Verdict(CRASHED, f'the sandbox ended: {error}', **base)
  compiling, done = done[:first_run], done[first_run:]
  if compiling and (compiling[0].exit or compiling[0].limit):
    return Verdict(FAILED, f'does not compile: {_last_line(compiling[0])}', **base)
  base |= dict(seconds=sum(d.seconds for d in done), memory_bytes=max((d.memory_bytes for d in done), default=0))
  passed, first = 0, None
  for i, (run, (stdin, expected)) in enumerate(zip(done, cases)):
    failure = _of_run(run, expected, limits)
    if failure and (not run_all or run.limit or run.exit < 0):
      return Verdict(*failure, passed=passed, test=f'case {i + 1}: {stdin[:200]!r}', **base)
    passed += not failure
    if failure and not first:
      first = dict(reason=failure[1], test=f'case {i + 1}: {stdin[:200]!r}')
  return Verdict(FAILED if first else PASSED, passed=passed, **(first or {}), **base)


def _of_run(run: Done, expected: str, limits: Limits) -> tuple[str, str] | None:
  """Returns (status, reason) of a run that is not right."""
  if run.limit:
    return _of_limit(run.limit, limits)
  if run.exit:
    memory = 'MemoryError' in _last_line(run) or 'OutOfMemoryError' in run.stderr
    return MEMORY if memory else CRASHED, f'{_end(run)}: {_last_line(run)}'
  if not same_output(run.stdout, expected):
    return FAILED, f'printed {run.stdout.strip()[:150]!r}, expected {expected.strip()[:150]!r}'
  return None


def _last_line(done: Done) -> str:
  lines = (done.stderr.strip() or done.stdout.strip() or done.limit or f'status {done.exit}').splitlines()
  return lines[-1][:300]


def same_output(got: str, expected: str) -> bool:
  """Whether two outputs agree line by line, blanks around lines and the output aside, or as decimals."""
  ours, theirs = ([line.strip() for line in text.strip().splitlines()] for text in (got, expected))
  if ours == theirs:
    return True
  if len(ours) != len(theirs):
    return False
  return all(a == b or _same_decimals(a.split(), b.split()) for a, b in zip(ours, theirs))


def _same_decimals(got: list[str], expected: list[str]) -> bool:
  try:
    return list(map(decimal.Decimal, got)) == list(map(decimal.Decimal, expected))
  except decimal.InvalidOperation:
    return False
