"""BFCL, multi-turn: calls change the state of simulated services, which must be gold's after every turn.

Source: the package `bfcl-eval`, whose API classes run in the sandbox. A user's turn ends when the model calls nothing;
more than 20 answers fail. Calls are parsed as literals and looked up by name; no text of a model is evaluated.
"""

import functools
import importlib.util
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from iquest_jax.errors import UserError
from iquest_jax.eval import bfcl, job, literals, read
from iquest_jax.eval.suite import MISSING, Outcome, Problem, Prompt, Suite
from iquest_jax.sandbox.limits import Limits
from iquest_jax.sandbox.pool import Pool
from iquest_jax.sandbox.runner import Step
from iquest_jax.sandbox.verdict import CRASHED
from iquest_jax.text.chat import Message

_FIELDS = {'id': str, 'question': list, 'initial_config': dict, 'involved_classes': list}
_MODULES = {
    'GorillaFileSystem': 'gorilla_file_system',
    'MathAPI': 'math_api',
    'MessageAPI': 'message_api',
    'TicketAPI': 'ticket_api',
    'TradingBot': 'trading_bot',
    'TravelAPI': 'travel_booking',
    'TwitterAPI': 'posting_api',
    'VehicleControlAPI': 'vehicle_control',
}
_PACKAGE = 'bfcl_eval/eval_checker/multi_turn_eval/func_source_code'
_MOST_STEPS = 20
_LIMITS = Limits(wall_s=20, cpu_s=20, output_bytes=16 << 20)
_MORE_FUNCTIONS = 'These functions can be called now, too:\n{}\nPlease try again with them.'

Call = dict[str, Any]


class MultiTurn(Suite):
  """One category. Where functions are missing at first, they are told to the model with the turn that brings them."""

  sampling = bfcl.SAMPLING
  package = 'bfcl_eval'

  def __init__(self, category: str):
    self.name, self._category = f'bfcl_multi_turn_{category}', category
    self._sources: dict[str, str] = {}

  def problems(self, folder: pathlib.Path) -> list[Problem]:
    problems = []
    documented = functools.cache(functools.partial(_documented, folder))
    for where, record in bfcl.with_answers(folder, f'multi_turn_{self._category}', _FIELDS):
      if unknown := set(record['involved_classes']) - _MODULES.keys():
        raise UserError(f'{where}: class {sorted(unknown)[0]} is unknown; this reads version 4 of the file')
      gold = [[_literal(where, text) for text in turn] for turn in record['ground_truth']]
      functions = [function for name in record['involved_classes'] for function in documented(name)]
      problems.append(Problem(record['id'], record | {'ground_truth': gold, 'functions': functions}))
    self._sources = _sources(folder)
    return problems

  def prompt(self, problem: Problem) -> Prompt:
    fields = problem.fields
    missed = {name for names in fields.get('missed_function', {}).values() for name in names}
    tools = [bfcl.definition(function) for function in fields['functions'] if function['name'] not in missed]
    return Prompt(messages=self._turn(problem, 0), tools=tools)

  def _turn(self, problem: Problem, turn: int) -> list[Message]:
    """What the user says in a turn."""
    fields = problem.fields
    names = fields.get('missed_function', {}).get(str(turn), [])
    more = [json.dumps(bfcl.definition(function)) for function in fields['functions'] if function['name'] in names]
    told = [{'role': 'user', 'content': _MORE_FUNCTIONS.format('\n'.join(more))}] if more else []
    return [*told, *fields['question'][turn]]

  def follow_up(self, problem: Problem, messages: Sequence[Message], pool: Pool) -> list[Message]:
    turns = self._turns(problem, [message['content'] for message in messages if message['role'] == 'assistant'])
    if len(turns[-1]) > _MOST_STEPS:
      return []
    if not turns[-1] or turns[-1][-1]:
      replayed = self._replay(problem, turns, pool)
      if isinstance(replayed, Outcome):
        return []
      return [{'role': 'tool', 'content': result} for result in replayed['results'][-1][-1]]
    return self._turn(problem, len(turns)) if len(turns) < len(problem.fields['question']) else []

  def _turns(self, problem: Problem, answers: Sequence[str]) -> list[list[list[Call]]]:
    """Turns of steps of calls; a step without calls ends its turn."""
    turns: list[list[list[Call]]] = [[]]
    for answer in answers:
      if turns[-1] and not turns[-1][-1]:
        turns.append([])
      turns[-1].append(bfcl.calls_of(answer, problem.fields['functions']))
    return turns

  def extract(self, problem: Problem, answers: Sequence[str]) -> str:
    return json.dumps(self._turns(problem, answers))

  def grade(self, problem: Problem, extracted: str, pool: Pool) -> Outcome:
    turns = json.loads(extracted)
    if any(len(steps) > _MOST_STEPS for steps in turns):
      return Outcome.when(False, f'more than {_MOST_STEPS} answers in a turn')
    replayed = self._replay(problem, turns, pool)
    if isinstance(replayed, Outcome):
      return replayed
    gold = problem.fields['ground_truth']
    early = f'ended after {len(turns)} of {len(gold)} turns' if len(turns) != len(gold) else ''
    return Outcome.when(not (replayed['failed'] or early), replayed['failed'] or early)

  def _replay(self, problem: Problem, turns: list, pool: Pool) -> dict[str, Any] | Outcome:
    """What `bfcl_replay.py` says, or the outcome if it cannot say anything."""
    fields, files = problem.fields, dict(self._sources)
    if 'MathAPI' in fields['involved_classes']:
      if not (mpmath := _mpmath()):
        return Outcome(MISSING, 'needs mpmath; pip install mpmath')
      files |= mpmath
    work = {
        'classes': {name: f'{_PACKAGE}/{_MODULES[name]}'.replace('/', '.') for name in fields['involved_classes']},
        'config': fields['initial_config'],
        'long_context': self._category == 'long_context',
        'model': turns,
        'gold': fields['ground_truth'],
    }
    files |= {'job.json': json.dumps(work), 'main.py': pathlib.Path(__file__).with_name('bfcl_replay.py').read_text()}
    done, stopped = job.run(pool, [Step(service={'python': 'main', 'file': 'main.py'}, limits=_LIMITS)], files)
    if stopped:
      return stopped
    if done[0].exit:
      return Outcome(CRASHED, f'the services stopped: {(done[0].stderr.strip().splitlines() or [""])[-1][:200]}')
    return json.loads(done[0].stdout.splitlines()[-1])


def _documented(folder: pathlib.Path, name: str) -> list[dict[str, Any]]:
  path = read.find(folder, f'{_MODULES[name]}.json')
  functions = read.records(path, {'name': str, 'parameters': dict})
  for function in functions:
    bfcl.check_function(f'{path}: {function["name"]}', function, 'python')
  return functions


def _literal(where: str, text: str) -> Call:
  calls = literals.calls(text)
  if calls is None or len(calls) != 1:
    raise UserError(f'{where}: the answer must be calls with literals, got {text[:100]}; download both files again')
  return calls[0]


def _sources(folder: pathlib.Path) -> dict[str, str]:
  """The files of the API classes, by their paths in the package."""
  root = read.find(folder, 'gorilla_file_system.py').parent
  files = {f'{_PACKAGE}/{path.name}': path.read_text() for path in sorted(root.glob('*.py'))}
  parts = pathlib.PurePosixPath(_PACKAGE).parts
  return files | {'/'.join((*parts[:n], '__init__.py')): '' for n in range(1, len(parts) + 1)}


@functools.cache
def _mpmath() -> Mapping[str, str]:
  """The files of mpmath, which MathAPI needs; none if it is not installed."""
  found = importlib.util.find_spec('mpmath')
  root = pathlib.Path(found.submodule_search_locations[0]) if found else None
  paths = sorted(path for path in root.rglob('*.py') if 'tests' not in path.parts) if root else []
  return {f'mpmath/{path.relative_to(root)}': path.read_text() for path in paths}


BASE, MISS_FUNC, MISS_PARAM, LONG_CONTEXT = map(MultiTurn, ('base', 'miss_func', 'miss_param', 'long_context'))
