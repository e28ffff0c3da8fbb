"""Calls of Python programs with their results and traces: in the sandbox, or here for programs this project generated.

  batch = Batch('def f(x):\n  y = x * 2\n  return y', ('f(1)', 'f(2)'), mode='record')
  with Pool() as pool:
    outcomes = in_sandbox(pool, [batch], hash_seed=1)[0]

A run under another hash seed finds results that depend on the order of sets of strings; numbers and None have the same
order under all seeds, and a batch with sets in another order finds those.
"""

import builtins
import dataclasses
import itertools
import json
import os
from collections.abc import Sequence
from typing import NamedTuple

from iquest_jax.sandbox import languages, system
from iquest_jax.sandbox.inside import tracer
from iquest_jax.sandbox.limits import Limits
from iquest_jax.sandbox.pool import Pool
from iquest_jax.sandbox.runner import SandboxDied, Step

LIMITS = Limits(wall_s=20, cpu_s=5, memory_bytes=512 << 20, processes=4, output_bytes=32 << 20)
ORDERS = tracer.ORDERS
# By its own folder: under Landlock those above it cannot be searched.
_MAIN = 'import sys; sys.path.insert(0, {!r}); import tracer; del sys.path[0]; tracer.main()'
# What generated programs use. A mistake of a generator then fails at once, with a NameError.
_BUILTINS = {
    name: getattr(builtins, name)
    for name in ('abs', 'bool', 'chr', 'dict', 'divmod', 'enumerate', 'int', 'len', 'list', 'max', 'min', 'ord', 'range',
                 'reversed', 'set', 'sorted', 'str', 'sum', 'tuple', 'zip', 'Exception', 'ValueError')
}  # fmt: skip


class Event(NamedTuple):
  """One event of a trace.

  Attributes:
    kind: call, line, return or raise.
    depth: 0 in the function that was called, one more in what it calls.
    line: in the program, from 1 on.
    text: the function's name (call), the value (return) or the exception's name (raise); '' for a line.
    changes: {variable: literal of its value} after the line; the arguments of a call.
  """

  kind: str
  depth: int
  line: int
  text: str
  changes: dict[str, str]


@dataclasses.dataclass(frozen=True)
class Outcome:
  """What evaluating an expression came to; one of `text`, `error` and `stopped` is not empty.

  Attributes:
    text: the value as a Python literal, sets in sorted order.
    error: the name of the exception.
    stopped: why there is neither: 'steps' or 'size' (a limit of the batch), 'kind' (the value is not plain data), 'load'
      (the program does not compile), 'limit' (a limit of the sandbox), 'sandbox' (it ended, or its answer is malformed).
    steps: lines executed.
    events: see Event; () unless recorded.
  """

  text: str = ''
  error: str = ''
  stopped: str = ''
  steps: int = 0
  events: tuple[Event, ...] = ()


@dataclasses.dataclass(frozen=True)
class Batch:
  """Expressions to be evaluated after a program, each in a fresh namespace. Attributes: see tracer.run.

  Some order of ORDERS shows whatever depends on the order of sets.
  """

  source: str
  expressions: tuple[str, ...]
  mode: str = 'plain'
  steps: int = 1000
  longest: int = 200
  targets: dict[int, list[str]] = dataclasses.field(default_factory=dict)
  order: str = ''


def here(batch: Batch) -> list[Outcome]:
  """Runs a batch in this process, with harmless builtins: for programs that this project generated, and no others."""
  return [_outcome(record) for record in tracer.run_all(vars(batch), _BUILTINS)]


def in_sandbox(pool: Pool, batches: Sequence[Batch], hash_seed: int, limits: Limits = LIMITS) -> list[list[Outcome]]:
  """Runs batches in a sandbox, in one interpreter with the given PYTHONHASHSEED.

  A batch that exceeds `limits` is stopped and those after it run in another interpreter.
  """
  everyone = pool.backend == 'landlock' and os.geteuid() == 0
  code = f'{system.CODE}/iquest_jax' if pool.backend == 'bubblewrap' else system.code_folder()
  argv = (languages.tool_path('python', everyone), '-S', '-B', '-c', _MAIN.format(f'{code}/sandbox/inside'))
  found: list[list[Outcome]] = []
  while len(found) < len(batches):
    rest = batches[len(found) :]
    request = json.dumps({'batches': [vars(batch) for batch in rest]})
    step = Step(argv, stdin=request, env={'PYTHONHASHSEED': str(hash_seed)}, limits=limits)
    stopped = 'limit'
    try:
      with pool.runner() as runner:
        done = runner.run([step])[0]
      finished = list(itertools.takewhile(bool, map(_outcomes, done.stdout.splitlines(), rest)))
    except SandboxDied:
      finished, stopped = [], 'sandbox'
    found += finished
    if len(finished) < len(rest):
      stopped = stopped if stopped == 'sandbox' or done.limit else 'sandbox'
      found.append([Outcome(stopped=stopped)] * len(rest[len(finished)].expressions))
  return found


def _outcomes(line: str, batch: Batch) -> list[Outcome]:
  """The outcomes of one line of JSON; none if it is malformed, as of a program that was killed while writing it."""
  try:
    records = json.loads(line)
    return [_outcome(record) for record in records] if len(records) == len(batch.expressions) else []
  except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
    return []


def _outcome(record: dict) -> Outcome:
  """Raises ValueError, KeyError, TypeError or AttributeError if the record is malformed."""
  events = []
  for kind, depth, line, text, changes in record['events']:
    events.append(Event(str(kind), int(depth), int(line), str(text), {str(k): str(v) for k, v in changes.items()}))
  ends = {name: str(record[name]) for name in ('text', 'error', 'stopped') if name in record}
  if len(ends) != 1:
    raise ValueError('an outcome has one end')
  return Outcome(**ends, steps=int(record['steps']), events=tuple(events))
