"""Whether two answers to a mathematics problem are equal, by math-verify in a process that can be killed.

Its comparisons can take for ever (9^{9^{9^9}}), and its own time limits are signals, which threads cannot have. So they run
in a process beside this one, with limits of the kernel. A pair that exceeds them is not equal, and the next one gets a new
process. LaTeX alone is read: math-verify's other form evaluates text.

math-verify is lenient, as a grader of contests must be: it rounds, drops units and the case of letters, and takes (1, 2)
for an interval that may be a set. What it accepts is therefore held against stricter rules.
"""

import atexit
import contextlib
import importlib.util
import json
import os
import pathlib
import re
import resource
import subprocess
import sys
import threading
from typing import Any

from iquest_jax.errors import UserError

LONGEST = 200  # characters of an answer; those of contests are shorter
# ours. A pair takes 0.01 s, the first of a process 0.6 s, so what exceeds this would take for ever.
CPU_S = 5
_MEMORY = 2 << 30
_WORD = re.compile(r'(?<!\\)\b[A-Za-z]{2,}')
_COMMAND = re.compile(r'\\(text|mathrm|operatorname|mbox)\s*\{[^{}]*\}|\\[A-Za-z]+')
_UNIT = re.compile(r'\\(?:text|mathrm|operatorname|mbox)\s*\{([^{}]*)\}|(\\\$)')
_BOXED = '\\boxed{'


def equal(gold: str, answer: str) -> bool:
  """Whether `answer` is what `gold` is, as numbers, expressions, sets or intervals; words are compared as words.

  Numbers are compared exactly: 0.333 is not a third. Only one of the two may leave out the unit, and x= before a value.

  Raises:
    UserError: math-verify is not installed.
  """
  if _is_words(gold) or _is_words(answer):
    return _words(gold) == _words(answer)
  if _differ_in_form(gold, answer) or max(len(gold), len(answer)) > LONGEST:
    return False
  return _ask(_exact(gold), _exact(answer))


def boxed(text: str) -> str | None:
  """What the last \\boxed{} of a solution holds; None if there is none or it is not closed."""
  start = text.rfind(_BOXED)
  if start < 0:
    return None
  depth = 1
  for place in range(start + len(_BOXED), len(text)):
    depth += {'{': 1, '}': -1}.get(text[place], 0)
    if not depth:
      return text[start + len(_BOXED) : place].strip() or None
  return None


def is_answer(text: str) -> bool:
  """Whether something can be equal to it at all: short enough, and understood."""
  return 0 < len(text) <= LONGEST and equal(text, text)


def _is_words(text: str) -> bool:
  """math-verify takes a word for a product of letters, in which their order counts for nothing."""
  return bool(_WORD.search(_COMMAND.sub(' ', text))) or '\\text' in text and not re.search(r'\d', text)


def _differ_in_form(gold: str, answer: str) -> bool:
  """Whether units, the case of letters, or the brackets of a set and of a pair tell two answers apart."""
  units, letters, braces = zip(*((_units(text), _letters(text), _brackets(text)) for text in (gold, answer)))
  lower = [{letter.lower() for letter in one} for one in letters]
  return all(units) and units[0] != units[1] or lower[0] == lower[1] and letters[0] != letters[1] or (
      all(braces) and braces[0] != braces[1]
  )


def _units(text: str) -> list[str]:
  """What stands as words beside a number, and the sign of dollars."""
  return [unit for unit in (''.join(found).strip(' .') for found in _UNIT.findall(text)) if unit]


def _letters(text: str) -> set[str]:
  return set(re.findall('[A-Za-z]', _COMMAND.sub(' ', text)))


def _brackets(text: str) -> str:
  """The bracket that opens a list; '' where there is none, which may be a set."""
  start = re.sub(r'\\left|[\s$]', '', text)
  return '' if ',' not in start else 'set' if start.startswith('\\{') else 'pair' if start[:1] in '([' else ''


def _exact(text: str) -> str:
  """The text with decimal numbers and percentages as fractions, which nothing rounds."""
  text = re.sub(r'\d{1,3}(?:,\d{3})+(?=\.\d)', lambda match: match[0].replace(',', ''), text)
  text = re.sub(r'(\d+(?:\.\d+)?)\s*\\%', r'\\frac{\1}{100}', text)
  return re.sub(
      r'(?<![\d.^_])(\d*)\.(\d+)', lambda match: f'\\frac{{{int(match[1] + match[2])}}}{{{10 ** len(match[2])}}}', text
  )


def _words(text: str) -> str:
  return ' '.join(re.sub(r'\\(text|mathrm|operatorname|mbox)\b|[{}$\\.]', ' ', text).casefold().split())


_lock = threading.Lock()
_processes: dict[int, subprocess.Popen] = {}


def _ask(gold: str, answer: str) -> bool:
  with _lock:
    process = _processes.get(os.getpid())  # one that was started before a fork answers to the parent
    if process is None:
      process = _processes[os.getpid()] = _start()
    try:
      process.stdin.write(json.dumps([gold, answer, CPU_S]).encode() + b'\n')
      process.stdin.flush()
      line = process.stdout.readline()
    except BaseException as error:
      _close()
      if isinstance(error, BrokenPipeError):
        return False
      raise
    if not line:
      _close()
      return False
    return json.loads(line)


def _start() -> subprocess.Popen:
  if importlib.util.find_spec('math_verify') is None:
    raise UserError('mathematics: math-verify is not installed; pip install -e .[data]')
  root = pathlib.Path(__file__).parents[3]
  environment = {**os.environ, 'PYTHONPATH': os.pathsep.join([str(root), *filter(None, sys.path)])}
  process = subprocess.Popen(
      [sys.executable, '-S', '-m', 'iquest_jax.data.synthesis.equivalence'],
      stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment,
  )  # fmt: skip
  if process.stdout.readline() != b'"ready"\n':
    process.kill()
    process.wait()
    raise RuntimeError('python -m iquest_jax.data.synthesis.equivalence does not start')
  return process


@atexit.register
def _close() -> None:
  process = _processes.pop(os.getpid(), None)
  if process is None:
    return
  process.kill()
  for pipe in (process.stdin, process.stdout):
    with contextlib.suppress(BrokenPipeError):
      pipe.close()
  process.wait()


def _same(one: Any, other: Any) -> bool:
  """Whether what math-verify takes for equal is equal to 40 digits, at a place that no answer would choose."""
  import sympy

  one, other = (side.rhs if isinstance(side, sympy.Eq) and side.lhs.is_Symbol else side for side in (one, other))
  if one == other:
    return True
  if isinstance(one, sympy.Expr) and isinstance(other, sympy.Expr):
    difference, size = one - other, abs(one) + abs(other)
    symbols = sorted(difference.free_symbols | size.free_symbols, key=str)
    place = {symbol: sympy.Rational(7 + 2 * number, 13) for number, symbol in enumerate(symbols)}
    difference, size = (abs(sympy.N(side.doit().subs(place), 60)) for side in (difference, size))
    return bool(difference <= size * sympy.Float('1e-40', 60))
  if isinstance(one, sympy.FiniteSet) and isinstance(other, sympy.FiniteSet):
    return len(one) == len(other) and all(any(_same(left, right) for right in other) for left in one)
  if isinstance(one, sympy.Interval) and isinstance(other, sympy.Interval):
    return one.args[2:] == other.args[2:] and _same(one.start, other.start) and _same(one.end, other.end)
  return True


def _serve() -> None:
  """Answers pairs until the input ends; ended by the kernel where a pair exceeds the limits."""
  from math_verify import LatexExtractionConfig, parse, verify

  read = lambda text: parse(f'${text.strip().strip("$")}$', [LatexExtractionConfig()], 'no_fallback', parsing_timeout=None)
  resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
  print('"ready"', flush=True)
  for line in sys.stdin:
    *pair, limit = json.loads(line)
    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds = int(used.ru_utime + used.ru_stime) + 1 + limit
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, resource.RLIM_INFINITY))
    try:
      gold, answer = map(read, pair)
      same = bool(gold and answer) and verify(gold, answer, timeout_seconds=None) and _same(gold[0], answer[0])
    except Exception:  # whatever sympy raises at a text that it does not understand
      same = False
    print(json.dumps(bool(same)), flush=True)


if __name__ == '__main__':
  _serve()
