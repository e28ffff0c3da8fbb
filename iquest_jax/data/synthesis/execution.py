"""Runs a solution on all of its cases in the sandbox: a program in any of its languages, or a function in most of them."""

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from iquest_jax.data.documents import Drop
from iquest_jax.data.synthesis import typed
from iquest_jax.data.synthesis.cases import TOLERANCE, Case
from iquest_jax.sandbox import languages, verdict
from iquest_jax.sandbox.limits import Limits
from iquest_jax.sandbox.pool import Pool
from iquest_jax.sandbox.runner import Done, SandboxDied, Step

# ours: seconds of processor time decide, of all calls together or of each run; wall time is for what sleeps.
LIMITS = Limits(wall_s=60, cpu_s=10)
_RULES = {
    verdict.FAILED: 'verify: wrong answer',
    verdict.TIMEOUT: 'verify: timeout',
    verdict.MEMORY: 'verify: too much memory',
    verdict.CRASHED: 'verify: crashed',
    verdict.REFUSED: 'verify: refused',
}
# Languages whose functions can be called: with any plain data, or with what has a type in all of them.
CALLED = ('python', 'javascript', *typed.LANGUAGES)
# Appended to a function in JavaScript. The expected results are not in its sandbox.
_JAVASCRIPT = """
;(() => {{
  const plain = (value) => {{
    if (value === undefined || value === null) return null;
    if (Array.isArray(value)) return ['list', ...value.map(plain)];
    if (typeof value === 'number' && !Number.isFinite(value)) throw new Error('not a finite number');
    if (typeof value !== 'object') return value;
    return ['dict', ...Object.entries(value).map(([key, item]) => [key, plain(item)]).sort((a, b) => a[0] < b[0] ? -1 : 1)];
  }};
  const lines = require('fs').readFileSync(0, 'utf8').split('\\n').filter((line) => line);
  for (const line of lines) console.log(JSON.stringify(plain({function}(...JSON.parse(line)))));
}})();
"""


def rejects(
    language: str, code: str, function: str, cases: Sequence[Case], pool: Pool, files: Mapping[str, str] | None = None
) -> Drop | None:
  """Why a solution does not pass all cases; None if it does.

  Args:
    files: further files in its working folder, from which Python may import.

  Raises:
    UserError: no isolation is available on this machine.
  """
  if language not in languages.LANGUAGES:
    return Drop('verify: unknown language', language)
  if tools := languages.missing(language, pool.backend == 'landlock' and os.geteuid() == 0):
    return Drop('verify: toolchain missing', f'{language} needs {", ".join(tools)}')
  if function and language not in CALLED:
    return Drop('verify: functions of this language are not called', language)
  if not code.strip():
    return Drop('verify: no code')
  if function and language in typed.LANGUAGES and typed.types(cases) is None:
    return Drop('verify: types that this language does not have', language)
  given = verdict_of(language, code, function, cases, pool, files)
  if given.status == verdict.PASSED:
    return None
  return Drop(_RULES[given.status], ': '.join(filter(None, [given.test, given.reason])))


def verdict_of(
    language: str, code: str, function: str, cases: Sequence[Case], pool: Pool, files: Mapping[str, str] | None = None
) -> verdict.Verdict:
  """The sandbox's verdict on a program, or on a function that can be called."""
  if not function:
    return verdict.grade_output(pool, language, code, [(case.given, case.expected) for case in cases], LIMITS, files)
  if language == 'python':
    calls = [verdict.Call(function, tuple(case.given), case.expected) for case in cases]
    return verdict.grade_calls(pool, code, calls, LIMITS, TOLERANCE, True, files)
  if language in typed.LANGUAGES:
    source, printed = typed.program(language, code, function, cases)
    return verdict.grade_output(pool, language, source, [('', printed)], LIMITS, files)
  lines = lambda values: ''.join(f'{json.dumps(value, ensure_ascii=False, separators=(",", ":"))}\n' for value in values)
  case = lines(case.given for case in cases), lines(_plain(case.expected) for case in cases)
  return verdict.grade_output(pool, language, code + _JAVASCRIPT.format(function=function), [case], LIMITS, files)


def run(steps: Sequence[Step], pool: Pool, files: Mapping[str, str] | None = None) -> list[Done]:
  """The records of the steps that ran, in one fresh folder; none if the sandbox ended."""
  try:
    with pool.runner() as runner:
      return runner.run(steps, files)
  except SandboxDied:
    return []


def outputs(code: str, inputs: Sequence[str], pool: Pool) -> list[str]:
  """What a program in Python prints for each input, up to the first for which it fails."""
  steps = languages.steps('python', tuple(inputs), LIMITS, pool.backend)
  done = run(steps, pool, {languages.LANGUAGES['python'].file: code})
  return [one.stdout for one in done if not one.exit and not one.limit]


def _plain(value: Any) -> Any:
  """A result in the one form that a function in JavaScript prints it in, which has no whole numbers with a point."""
  if isinstance(value, list):
    return ['list', *map(_plain, value)]
  if isinstance(value, dict):
    return ['dict', *sorted([key, _plain(item)] for key, item in value.items())]
  return int(value) if isinstance(value, float) and value.is_integer() else value
