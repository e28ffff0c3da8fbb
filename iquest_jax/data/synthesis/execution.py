"""Runs a solution on all of its cases in the sandbox: a program in any of its languages, or a function in most of them.

A solution is run twice: what passes by luck, or because it counts its calls, would be kept by one preparation of a corpus
and dropped by the next. The second time its cases come in another order, in other processes and, in Python, under another
hash seed; calls of a function come once more after that, in the opposite order.
"""

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from iquest_jax.data.documents import Drop
from iquest_jax.data.synthesis import chance, typed
from iquest_jax.data.synthesis.cases import TOLERANCE, Case
from iquest_jax.sandbox import languages, verdict
from iquest_jax.sandbox.limits import Limits
from iquest_jax.sandbox.pool import Pool, Reseeded
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
  for text in (code, *(files or {}).values()):
    if found := chance.decides(language, text):
      return Drop('verify: depends on chance or time', found)
  if language == 'python':
    given = verdict_of(language, code, function, cases, pool, files)
    if given.status != verdict.PASSED:
      return _dropped(given)
    given = verdict_of(language, code, function, _reordered(cases, function), pool.reseeded, files)
    return None if given.status == verdict.PASSED else _dropped(given, repeated=True)
  # Compiled once for both. Cases of functions are one test of the sandbox; a process of its own repeats them all.
  given = verdict_of(language, code, function, [*cases, *_reordered(cases, function)], pool, files, processes=2)
  if given.status == verdict.PASSED:
    return None
  return _dropped(given, repeated=given.passed >= (1 if function else len(cases)))


def _dropped(given: verdict.Verdict, repeated: bool = False) -> Drop:
  rule = 'verify: not deterministic' if repeated and given.status == verdict.FAILED else _RULES[given.status]
  return Drop(rule, ': '.join(filter(None, [given.test, given.reason])))


def _reordered(cases: Sequence[Case], function: str) -> list[Case]:
  """The cases in another order; of a function, all of them again in the opposite one.

  Rotated by one, the results of a function that counts its calls are right only if they are all the same.
  """
  order = [*cases[1:], *cases[:1]]
  return [*order, *reversed(order)] if function else order


def verdict_of(
    language: str,
    code: str,
    function: str,
    cases: Sequence[Case],
    pool: Pool | Reseeded,
    files: Mapping[str, str] | None = None,
    processes: int = 1,
) -> verdict.Verdict:
  """The sandbox's verdict on a program, or on a function that can be called.

  Args:
    processes: in how many, one after another, all calls are made, if they are not those of a function in Python.
  """
  if not function:
    return verdict.grade_output(pool, language, code, [(case.given, case.expected) for case in cases], LIMITS, files)
  if language == 'python':
    calls = [verdict.Call(function, tuple(case.given), case.expected) for case in cases]
    return verdict.grade_calls(pool, code, calls, LIMITS, TOLERANCE, True, files)
  if language in typed.LANGUAGES:
    source, printed = typed.program(language, code, function, cases)
    return verdict.grade_output(pool, language, source, [('', printed)] * processes, LIMITS, files)
  lines = lambda values: ''.join(f'{json.dumps(one, ensure_ascii=False, separators=(",", ":"))}\n' for one in values)
  case = lines(case.given for case in cases), lines(_plain(case.expected) for case in cases)
  source = code + _JAVASCRIPT.format(function=function)
  return verdict.grade_output(pool, language, source, [case] * processes, LIMITS, files)


def run(steps: Sequence[Step], pool: Pool | Reseeded, files: Mapping[str, str] | None = None) -> list[Done]:
  """The records of the steps that ran, in one fresh folder; none if the sandbox ended."""
  try:
    with pool.runner() as runner:
      return runner.run(steps, files)
  except SandboxDied:
    return []


def outputs(code: str, inputs: Sequence[str], pool: Pool | Reseeded) -> list[str]:
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
