"""Problem sets: files of problems to prompts, each with hidden tests that its reference solution passes.

A line is one of
  a Problem (data/documents.py), or a record of APPS, CodeContests or LiveCodeBench (data/read/problems.py)
  a small program of the tiny corpus       id, level, request, solution, tests [[argument, result], ...]
  a prompt with verifiable instructions    id, messages, checks, and tools if there are any: definitions, or names of
                                           rl/tools.py, whose calls are executed and answered

Whatever cannot be used is a Drop with its rule. Everything is checked before the first step, and what was executed is
remembered in a file, so that a resumed stage has the same prompts.
"""

import collections
import concurrent.futures
import dataclasses
import hashlib
import json
import os
import pathlib
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from iquest_jax import journal
from iquest_jax.data.documents import DIFFICULTIES, Drop, Problem, checked
from iquest_jax.data.read import problems as official
from iquest_jax.data.read import records
from iquest_jax.data.synthesis import cases as cases_lib
from iquest_jax.data.synthesis import execution
from iquest_jax.data.synthesis.cases import Case
from iquest_jax.errors import UserError
from iquest_jax.infer import text
from iquest_jax.rl import rewards, tools
from iquest_jax.rl.tools import Tool
from iquest_jax.rl.types import Prompt
from iquest_jax.sandbox.pool import Pool
from iquest_jax.text.tokenizer import Tokenizer

MAX_TESTS = 20  # report, reinforcement learning: the reward is the fraction of 20 tests
_VERSION = 1  # of what is remembered: raise it when execution changes
_WRONG_ANSWER = 'verify: wrong answer'


@dataclasses.dataclass(frozen=True)
class ProblemSet:
  """Prompts in order of the files, and what was left out.

  Attributes:
    without_solution: how many prompts have tests that no reference solution confirms.
  """

  prompts: tuple[Prompt, ...]
  drops: tuple[Drop, ...]
  without_solution: int

  @property
  def dropped(self) -> dict[str, int]:
    """How many lines each rule left out."""
    return dict(sorted(collections.Counter(drop.rule for drop in self.drops).items()))


def load(
    paths: Sequence[pathlib.Path],
    tokenizer: Tokenizer,
    pool: Pool,
    remembered: epath.Path,
    *,
    max_prompt_tokens: int,
    max_tests: int = MAX_TESTS,
) -> ProblemSet:
  """Reads and checks the problems of files; the first process of a run does so before the others.

  Args:
    remembered: a file of what solutions were executed, and how they did; it is appended to.
    max_prompt_tokens: longer prompts are left out.
    max_tests: hidden tests of a problem, chosen by hash.

  Raises:
    UserError: a file is missing or unreadable, nothing can be used, or no isolation is available.
  """
  found: list[Prompt | Drop] = []
  seen: set[str] = set()
  executed_tools = tools.executed(pool)
  for path in paths:
    for where, record in records.records(path):
      one = record if isinstance(record, Drop) else _prompt(record, where, max_tests, executed_tools)
      if isinstance(one, Prompt):
        tokens = len(text.turn(tokenizer, one.messages, one.tools))
        if one.id in seen:
          one = Drop('problem: duplicate id', f'{where}: {one.id}')
        elif tokens > max_prompt_tokens:
          one = Drop('problem: prompt too long', f'{where}: {one.id} has {tokens} tokens, at most {max_prompt_tokens}')
        else:
          seen.add(one.id)
      found.append(one)
  executed = _Executed(remembered)
  with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as threads:
    found = list(threads.map(lambda one: one if isinstance(one, Drop) else _confirmed(one, executed, pool), found))
  prompts = tuple(one for one in found if isinstance(one, Prompt))
  drops = tuple(one for one in found if isinstance(one, Drop))
  unconfirmed = sum(prompt.problem is not None and not prompt.problem.solution.strip() for prompt in prompts)
  problems = ProblemSet(prompts, drops, unconfirmed)
  if not prompts:
    counts = '; '.join(f'{rule}: {count}' for rule, count in problems.dropped.items()) or 'the files are empty'
    names = ', '.join(map(str, paths))
    raise UserError(f'rl: {names}: no problem can be used ({counts}); fix the files or name others')
  return problems


def _prompt(record: Mapping[str, Any], where: str, max_tests: int, executed: Mapping[str, Tool]) -> Prompt | Drop:
  if 'messages' in record:
    return _instructions(record, where, executed)
  problem = _small_program(record, where) if 'request' in record else official.read(record, where)
  return problem if isinstance(problem, Drop) else of_problem(problem, max_tests)


def of_problem(problem: Problem, max_tests: int = MAX_TESTS) -> Prompt | Drop:
  """The statement as a user's message, with the tests that it does not show; nothing is executed yet."""
  asked = problem.statement.strip()
  if problem.function and problem.function not in asked:
    asked = f'{asked}\n\nWrite a function `{problem.function}`.'  # ours
  cases = cases_lib.parse(problem.tests, problem.function)
  if isinstance(cases, Drop):
    return dataclasses.replace(cases, evidence=f'{problem.id}: {cases.evidence}')
  hidden = cases_lib.hidden(cases, asked, problem.function)
  if not hidden:
    return Drop('problem: no hidden test', f'{problem.id}: the statement shows all {len(cases)}')
  hidden = _chosen(hidden, problem.id, max_tests)
  if stub := cases_lib.stubs_pass(hidden, problem.function):
    return Drop('problem: hidden tests pass on anything', f'{problem.id}: {stub}')
  tests = tuple({'input': _text(case.given, problem), 'output': _text(case.expected, problem)} for case in hidden)
  message = {'role': 'user', 'content': asked}
  return Prompt(problem.id, (message,), problem=dataclasses.replace(problem, tests=tests), difficulty=problem.difficulty)


def _small_program(record: Mapping[str, Any], where: str) -> Problem | Drop:
  try:
    tests = tuple({'input': json.dumps([given]), 'output': json.dumps(expected)} for given, expected in record['tests'])
    fields = {'id': record['id'], 'statement': record['request'], 'solution': record['solution']}
    difficulty = dict(enumerate(DIFFICULTIES, 1))[record['level']]
    return Problem(**checked(fields), tests=tests, function='f', difficulty=difficulty)
  except (KeyError, ValueError, TypeError) as error:
    return Drop('problem: malformed small program', f'{where}: {type(error).__name__}: {error}')


def _instructions(record: Mapping[str, Any], where: str, executed: Mapping[str, Tool]) -> Prompt | Drop:
  objects = lambda name: checked({'tools': record.get(name, [])})['tools']
  try:
    fields = checked({name: record[name] for name in ('id', 'messages')})
    executes = _named(record.get('tools'), executed)
    defined = tuple(executed[name].definition for name in executes) or objects('tools')
    prompt = Prompt(**fields, tools=defined, checks=objects('checks'), executes=executes)
  except KeyError as error:
    return Drop('prompt: malformed', f'{where}: {error} is missing')
  except ValueError as error:
    return Drop('prompt: malformed', f'{where}: {error}')
  if not prompt.id or not prompt.messages:
    return Drop('prompt: malformed', f'{where}: the id or the messages are empty')
  if not prompt.checks:
    return Drop('prompt: nothing to score it by', f'{where}: {prompt.id}')
  wrong = rewards.problem_of(prompt)
  return Drop('prompt: checks that cannot be made', f'{where}: {prompt.id}: {wrong}') if wrong else prompt


def _named(listed: Any, executed: Mapping[str, Tool]) -> tuple[str, ...]:
  """The tools that a record names instead of defining; raises ValueError if it does both, or names another."""
  if not isinstance(listed, list) or not any(isinstance(one, str) for one in listed):
    return ()
  if wrong := next((one for one in listed if not isinstance(one, str) or one not in executed), None):
    raise ValueError(f'"tools" must be definitions, or names of {", ".join(executed)}, got {json.dumps(wrong)}')
  return tuple(dict.fromkeys(listed))


def _chosen(hidden: Sequence[Case], id: str, most: int) -> list[Case]:
  """At most so many tests, whichever order they came in; those that are kept keep their order."""
  places = sorted(range(len(hidden)), key=lambda place: _hash(id, repr(hidden[place])))
  return [hidden[place] for place in sorted(places[:most])]


def _text(value: Any, problem: Problem) -> str:
  return json.dumps(value, ensure_ascii=False) if problem.function else value


def _confirmed(prompt: Prompt, executed: '_Executed', pool: Pool) -> Prompt | Drop:
  """The prompt if its reference solution passes the chosen tests, or if there is none."""
  if prompt.problem is None or not prompt.problem.solution.strip():
    return prompt
  failed = executed.failure(prompt.problem, pool)
  if failed is None:
    return prompt
  wrong = failed.rule == _WRONG_ANSWER
  rule = 'problem: the reference solution fails a test' if wrong else 'problem: the reference solution does not run'
  return Drop(rule, f'{prompt.id}: {failed.rule.removeprefix("verify: ")}: {failed.evidence}')


class _Executed:
  """How reference solutions did, by the hash of all that was executed, in a file of JSON lines. Safe for threads."""

  def __init__(self, path: epath.Path):
    """Reads the file, without a last line that a kill left unfinished.

    Raises:
      UserError: another line is damaged.
    """
    self._path, self._lock, self._lines = path, threading.Lock(), None
    self._failures = dict(self._read(number, line) for number, line in enumerate(journal.read(path).splitlines(), 1))

  def failure(self, problem: Problem, pool: Pool) -> Drop | None:
    """Why the solution of a problem does not pass its tests; None if it does."""
    tests = json.dumps(problem.tests)
    key = _hash(str(_VERSION), problem.language, problem.function, problem.solution, tests)
    with self._lock:
      if key in self._failures:
        return self._failures[key]
    failed = _run(problem, pool)
    # Installing a toolchain changes the machine, not the problem.
    if failed is None or failed.rule != 'verify: toolchain missing':
      self._add(key, problem.id, failed)
    return failed

  def _add(self, key: str, id: str, failed: Drop | None) -> None:
    line = json.dumps({'key': key, 'id': id, 'failed': failed and [failed.rule, failed.evidence]})
    with self._lock:
      self._failures[key] = failed
      self._lines = self._lines or journal.Lines(self._path)
      self._lines.append(line.encode() + b'\n')

  def _read(self, number: int, line: bytes) -> tuple[str, Drop | None]:
    try:
      record = json.loads(line)
      return record['key'], record['failed'] and Drop(*record['failed'])
    except (ValueError, KeyError, TypeError):
      raise UserError(f'{self._path}: line {number} is damaged; delete it to have its problem executed again') from None


def _run(problem: Problem, pool: Pool) -> Drop | None:
  """Executes a solution. What is not a wrong answer may be the machine's fault, so it is tried a second time."""
  cases = cases_lib.parse(problem.tests, problem.function)
  for _ in range(2):
    failed = execution.rejects(problem.language, problem.solution, problem.function, cases, pool)
    if failed is None or failed.rule == _WRONG_ANSWER:
      break
  return failed


def _hash(*parts: str) -> str:
  return hashlib.sha256('\0'.join(parts).encode(errors='surrogatepass')).hexdigest()
