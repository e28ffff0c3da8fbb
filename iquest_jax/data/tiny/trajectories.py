"""Scripted tool sessions: an issue, then tool calls that find and fix a wrong number in a file.

The tools have the names of the SWE evaluation published by the authors of IQuest-Coder-V1. Each call is executed on the
files of the session, {path: text}, and the session shows what it returned.
"""

import random
from collections.abc import Iterator
from typing import Any

from iquest_jax.data.documents import Conversation, content_id

_THINGS = ('price', 'speed', 'score', 'level', 'width', 'count', 'total', 'depth')
_OPERATORS = ('+', '-', '*')


def sessions(seed: int, count: int) -> list[Conversation]:
  """Sessions of two to five calls, no issue twice; `count` must be far below the 10,000 issues that exist."""
  rng, by_issue = random.Random(f'trajectories:{seed}'), {}
  while len(by_issue) < count:
    messages = tuple(_session(rng))
    issue = messages[0]['content']
    by_issue.setdefault(issue, Conversation(content_id(issue), messages))
  return list(by_issue.values())


def _session(rng: random.Random) -> Iterator[dict[str, Any]]:
  name, wrong, right, x = rng.choice(_THINGS), rng.randint(2, 49), rng.randint(50, 99), rng.randint(2, 20)
  operator, path = rng.choice(_OPERATORS), f'{rng.choice(_THINGS)}.py'
  line = 'return x {} {}'.format
  files = {path: f'def {name}(x):\n  {line(operator, wrong)}\n'}
  known = rng.random() < 0.5
  where = f' in {path}' if known else ''
  yield {'role': 'user', 'content': f'{name}(x){where} must be x {operator} {right}.'}
  if not known:
    yield from _turn(files, 'search', pattern=f'def {name}')
  if rng.random() < 0.5:
    yield from _turn(files, 'str_replace_editor', command='view', path=path)
  edit = dict(old_str=line(operator, wrong), new_str=line(operator, right))
  yield from _turn(files, 'str_replace_editor', command='str_replace', path=path, **edit)
  if rng.random() < 0.5:
    yield from _turn(files, 'execute_bash', command=f"python -c 'from {path[:-3]} import *; print({name}({x}))'")
  yield {'role': 'assistant', 'content': '', 'tool_calls': ({'name': 'submit', 'arguments': {}},)}


def _turn(files: dict[str, str], name: str, **arguments: str) -> Iterator[dict[str, Any]]:
  """A call and its result."""
  yield {'role': 'assistant', 'content': '', 'tool_calls': ({'name': name, 'arguments': arguments},)}
  yield {'role': 'tool', 'content': _TOOLS[name](files, **arguments)}


def _search(files: dict[str, str], pattern: str) -> str:
  lines = [(path, number, line) for path, text in files.items() for number, line in enumerate(text.splitlines(), start=1)]
  return '\n'.join(f'{path}:{number}: {line}' for path, number, line in lines if pattern in line)


def _edit(files: dict[str, str], command: str, path: str, old_str: str = '', new_str: str = '') -> str:
  if command == 'view':
    return files[path].rstrip('\n')
  files[path] = files[path].replace(old_str, new_str)
  return 'edited'


def _execute(files: dict[str, str], command: str) -> str:
  """What the one-line programs above print: they import a file, which this module wrote, and print one call."""
  module, _, call = command.removeprefix("python -c 'from ").removesuffix("'").partition(' import *; ')
  printed: list[str] = []
  scope = {'__builtins__': {'print': lambda value: printed.append(str(value))}}
  exec(files[f'{module}.py'] + call, scope)  # pylint: disable=exec-used
  return '\n'.join(['exit code 0', *printed])


_TOOLS = {'search': _search, 'str_replace_editor': _edit, 'execute_bash': _execute}
