"""Scripted tool sessions: an issue, then tool calls that find and fix a wrong number in a real file.

The tools have the names of the SWE evaluation published by the authors of IQuest-Coder-V1. Each call is executed in a
temporary folder, and the session shows what it returned.
"""

import pathlib
import random
import tempfile
from collections.abc import Iterator
from typing import Any

from iquest_jax.data.documents import Conversation, content_id

_THINGS = ('price', 'speed', 'score', 'level', 'width', 'count', 'total', 'depth')
_OPERATORS = ('+', '-', '*')


def sessions(seed: int, count: int) -> list[Conversation]:
  """Sessions of two to five calls, no issue twice; far fewer than the 10,000 issues there can be."""
  rng, by_issue = random.Random(f'trajectories:{seed}'), {}
  with tempfile.TemporaryDirectory() as folder:
    while len(by_issue) < count:
      messages = tuple(_session(rng, pathlib.Path(folder)))
      issue = messages[0]['content']
      by_issue.setdefault(issue, Conversation(content_id(issue), messages))
  return list(by_issue.values())


def _session(rng: random.Random, root: pathlib.Path) -> Iterator[dict[str, Any]]:
  name, wrong, right, x = rng.choice(_THINGS), rng.randint(2, 49), rng.randint(50, 99), rng.randint(2, 20)
  operator, path = rng.choice(_OPERATORS), f'{rng.choice(_THINGS)}.py'
  line = 'return x {} {}'.format
  (root / path).write_text(f'def {name}(x):\n  {line(operator, wrong)}\n')
  known = rng.random() < 0.5
  where = f' in {path}' if known else ''
  yield {'role': 'user', 'content': f'{name}(x){where} must be x {operator} {right}.'}
  if not known:
    yield from _turn(root, 'search', pattern=f'def {name}')
  if rng.random() < 0.5:
    yield from _turn(root, 'str_replace_editor', command='view', path=path)
  edit = dict(old_str=line(operator, wrong), new_str=line(operator, right))
  yield from _turn(root, 'str_replace_editor', command='str_replace', path=path, **edit)
  if rng.random() < 0.5:
    yield from _turn(root, 'execute_bash', command=f"python -c 'from {path[:-3]} import *; print({name}({x}))'")
  yield {'role': 'assistant', 'content': '', 'tool_calls': ({'name': 'submit', 'arguments': {}},)}
  (root / path).unlink()


def _turn(root: pathlib.Path, name: str, **arguments: str) -> Iterator[dict[str, Any]]:
  """A call and its result."""
  yield {'role': 'assistant', 'content': '', 'tool_calls': ({'name': name, 'arguments': arguments},)}
  yield {'role': 'tool', 'content': _TOOLS[name](root, **arguments)}


def _search(root: pathlib.Path, pattern: str) -> str:
  hits = []
  for path in sorted(root.glob('*.py')):
    lines = enumerate(path.read_text().splitlines(), start=1)
    hits += [f'{path.name}:{number}: {line}' for number, line in lines if pattern in line]
  return '\n'.join(hits) or 'no match'


def _edit(root: pathlib.Path, command: str, path: str, old_str: str = '', new_str: str = '') -> str:
  text = (root / path).read_text()
  if command == 'view':
    return text.rstrip('\n')
  if text.count(old_str) != 1:
    return f'{old_str} occurs {text.count(old_str)} times'
  (root / path).write_text(text.replace(old_str, new_str))
  return 'edited'


def _execute(root: pathlib.Path, command: str) -> str:
  """What the one-line programs of this module print: they import a file and print the result of one call.

  This module wrote the file, so it is run here instead of in a new interpreter, which is a thousand times faster.
  """
  module, _, call = command.removeprefix("python -c 'from ").removesuffix("'").partition(' import *; ')
  printed: list[str] = []
  scope = {'__builtins__': {'print': lambda value: printed.append(str(value))}}
  exec((root / f'{module}.py').read_text() + call, scope)  # pylint: disable=exec-used
  return '\n'.join(['exit code 0', *printed])


_TOOLS = {'search': _search, 'str_replace_editor': _edit, 'execute_bash': _execute}
