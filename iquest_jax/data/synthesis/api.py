"""Use of an API: a task whose solution must call given functions of a module, with tests that are executed.

A function counts as used only if the tests fail when it is replaced by one that returns None. The solution must pass,
and so must a second one, whose request showed neither the tests nor the first solution.
"""

import ast
import dataclasses
import json
import pathlib
from typing import Any

from iquest_jax.data.documents import Conversation, Drop, File
from iquest_jax.data.synthesis import answers, cases, execution, turns
from iquest_jax.data.synthesis import verify as verify_lib
from iquest_jax.data.synthesis.domain import Domain, Tools
from iquest_jax.sandbox.pool import Pool
from iquest_jax.text import extract

CHECKS = (*verify_lib.CHECKS, 'every function is needed', 'another solution passes the tests')
FUNCTION = 'solve'
# ours: characters of a module, functions that it must offer, and functions that a solution must call.
_LONGEST, _OFFERED, _CALLED = 20_000, 3, 2
_SECTIONS = ('Task', 'Functions', 'Solution', 'Tests')
_INVENT = """Here is a Python module, `{module}`. Think of a task that needs at least {called} of its functions
together. Answer with these sections:

## Task
What a function `solve` is to do, its parameters, and its result. Parameters and results are plain data: numbers,
strings, booleans, lists, and dicts with strings as keys. Leave out which functions of the module to use. No
examples.

## Functions
A JSON list of the names of the functions that the solution must call.

## Solution
A fenced block of Python that imports what it needs from `{module}` and defines `solve`. It must call each of those
functions.

## Tests
A JSON list of six to ten objects {{"input": [the arguments], "output": the result}} with different results."""
_SOLVE = """Write the Python function `solve` for this task. Import what it needs from the module `{module}` and use
these of its functions: {functions}. Answer with one fenced block."""


@dataclasses.dataclass(frozen=True)
class Candidate:
  """What the model wrote about a module; the request for `again` showed neither tests nor `solution`."""

  module: str
  source: str
  task: str
  functions: tuple[str, ...]
  solution: str
  tests: tuple[Any, ...]
  again: str
  repo: str = ''


async def generate(file: File, tools: Tools) -> Candidate | Drop:
  offered = signatures(file.text)
  module = pathlib.PurePosixPath(file.path).stem
  if len(offered) < _OFFERED or not module.isidentifier():
    return Drop('api: not a module with documented functions')
  prompt = _INVENT.format(module=module, called=_CALLED)
  answer = await tools.ask(turns.request(prompt, turns.fenced(file.text, 'python')), temperature=0.8, max_tokens=6000)
  found = answers.sections(answer, _SECTIONS)
  if found is None:
    return Drop('api: malformed answer')
  functions = tuple(name for name in turns.listed(found['Functions']) if isinstance(name, str))
  prompt = _SOLVE.format(module=module, functions=', '.join(functions))
  documented = turns.fenced('\n\n'.join(offered.values()), 'python')
  again = await tools.ask(turns.request(prompt, documented, found['Task']), max_tokens=4000, seed=1)
  solution, again = (extract.code(text, 'python', FUNCTION) for text in (found['Solution'], again))
  tests = tuple(turns.listed(found['Tests']))
  return Candidate(module, file.text, found['Task'], functions, solution, tests, again, file.repo)


async def verify(candidate: Candidate, tools: Tools) -> Conversation | Drop:
  failed = await tools.run(_rejects, candidate, tools.pool)
  if failed:
    return failed
  prompt = _SOLVE.format(module=candidate.module, functions=', '.join(candidate.functions))
  offered = signatures(candidate.source)
  documented = turns.fenced('\n\n'.join(offered[name] for name in candidate.functions), 'python')
  request = '\n\n'.join([prompt, documented, candidate.task])
  return turns.conversation(request, turns.fenced(candidate.solution, 'python'), CHECKS, candidate.repo)


def _rejects(candidate: Candidate, pool: Pool) -> Drop | None:
  names = list(dict.fromkeys(candidate.functions))
  if unknown := set(names) - signatures(candidate.source).keys():
    return Drop('api: unknown function', min(unknown))
  if len(names) < _CALLED:
    return Drop('api: too few functions')
  if not all(isinstance(test, dict) for test in candidate.tests):
    return Drop('verify: malformed test')
  found = cases.parse([_written(test) for test in candidate.tests], FUNCTION)
  if isinstance(found, Drop):
    return found
  if turns.quotes(candidate.task, candidate.solution):
    return Drop('api: the task gives the solution away')
  if missing := set(names) - called(candidate.solution):
    return Drop('api: a function is not called', min(missing))
  files = lambda source: {f'{candidate.module}.py': source}
  runs = lambda code, source: verify_lib.rejects(candidate.task, 'python', code, FUNCTION, found, pool, files(source))
  if failed := runs(candidate.solution, candidate.source):
    return failed
  for name in names:
    broken = f'{candidate.source}\n\ndef {name}(*args, **kwargs):\n  return None\n'
    if runs(candidate.solution, broken) is None:
      return Drop('api: a function is not needed', name)
  if failed := execution.rejects('python', candidate.again, FUNCTION, found, pool, files(candidate.source)):
    return Drop('api: another solution does not pass', f'{failed.rule}: {failed.evidence}')
  return None


def signatures(source: str) -> dict[str, str]:
  """The public functions of a module that have a docstring: {name: its head and docstring}; none if it is not Python."""
  tree = _tree(source)
  found = {}
  for node in tree.body if tree else ():
    if isinstance(node, ast.FunctionDef) and not node.name.startswith('_') and (text := ast.get_docstring(node)):
      returns = f' -> {ast.unparse(node.returns)}' if node.returns else ''
      found[node.name] = f'def {node.name}({ast.unparse(node.args)}){returns}:\n  """{text}"""'
  return found


def called(source: str) -> set[str]:
  """Names of the functions and methods that a program calls; none if it is not Python."""
  tree = _tree(source)
  calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)] if tree else []
  return {call.id if isinstance(call, ast.Name) else getattr(call, 'attr', '') for call in calls}


def _tree(source: str) -> ast.Module | None:
  """The tree of a module, None if it is not Python or so long that it could exhaust the parser's stack."""
  if len(source) > _LONGEST:
    return None
  try:
    return ast.parse(source)
  except (SyntaxError, ValueError, RecursionError, MemoryError):
    return None


def _written(test: dict[str, Any]) -> dict[str, Any]:
  """The test in the form of a Problem, where values are JSON: a model that writes "output": "abc" means the text."""
  return {name: json.dumps(value) for name, value in test.items()}


DOMAIN = Domain('api', (File,), generate, verify)
