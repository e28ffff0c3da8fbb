"""Whether two answers to a mathematics problem are equal, by math-verify in a process that can be killed.

Its comparisons can take for ever (9^{9^{9^9}}), and its own time limits are signals, which threads cannot have. So they run
in a process beside this one, with limits of the kernel. A pair that exceeds them is not equal, and the next one gets a new
process. LaTeX alone is read: math-verify's other form evaluates text.
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

from iquest_jax.errors import UserError

LONGEST = 200  # characters of an answer; those of contests are shorter
# ours. A pair takes 0.01 s, the first of a process 0.6 s, so what exceeds this would take for ever.
CPU_S = 5
_MEMORY = 2 << 30
_WORD = re.compile(r'(?<!\\)\b[A-Za-z]{2,}')
_COMMAND = re.compile(r'\\(text|mathrm|operatorname|mbox)\s*\{[^{}]*\}|\\[A-Za-z]+')
_BOXED = '\\boxed{'


def equal(gold: str, answer: str) -> bool:
  """Whether `answer` is what `gold` is, as numbers, expressions, sets or intervals; words are compared as words.

  Raises:
    UserError: math-verify is not installed.
  """
  if _is_words(gold) or _is_words(answer):
    return _words(gold) == _words(answer)
  return _ask(gold, answer)


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


def _words(text: str) -> str:
  return ' '.join(re.sub(r'\\(text|mathrm|operatorname|mbox)\b|[{}$\\.]', ' ', text).casefold().split())


_lock = threading.Lock()
_processes: dict[int, subprocess.Popen] = {}


def _ask(gold: str, answer: str) -> bool:
  if max(len(gold), len(answer)) > LONGEST:
    return False
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
      same = bool(gold and answer) and verify(gold, answer, timeout_seconds=None)
    except Exception:  # whatever sympy raises at a text that it does not understand
      same = False
    print(json.dumps(bool(same)), flush=True)


if __name__ == '__main__':
  _serve()
