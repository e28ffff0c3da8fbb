"""Scripted tool sessions: an issue, tool calls that find and mend a wrong number, answers computed from real files.

The tools bear the names of the SWE evaluation that the authors of IQuest-Coder-V1 published. Each call is carried out on a
temporary repository, and what it returns is what stands in the session.
"""

import pathlib
import random
import tempfile
from collections.abc import Iterator
from typing import Any

from iquest_jax.data.documents import Document, content_id

_THINGS = ('price', 'speed', 'score', 'level', 'width', 'count', 'total', 'depth')
_OPERATORS = ('+', '-', '*')


def sessions(seed: int) -> Iterator[Document]:
  """Endless sessions of two to five calls, a function of the seed."""
  rng = random.Random(f'trajectories:{seed}')
  with tempfile.TemporaryDirectory() as folder:
    root = pathlib.Path(folder)
    while True:
      messages = tuple(_session(rng, root))
      yield Document(content_id(*(str(message) for message in messages)), 'agent_trajectories', (), messages)


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
  """A call and its answer."""
  yield {'role': 'assistant', 'content': '', 'tool_calls': ({'name': name, 'arguments': arguments},)}
  yield {'role': 'tool', 'content': _TOOLS[name](root, **arguments)}


def _search(root: pathlib.Path, pattern: str) -> str:
  hits = []
  for path in sorted(root.glob('*.py')):
    lines = enumerate(path.read_text().splitlines(), start=1)
    hits += [f'{path.name}:{number}: {line}' for number, line in lines if pattern in line]
  return '\n'.join(hits) or 'nothing found'


def _edit(root: pathlib.Path, command: str, path: str, old_str: str = '', new_str: str = '') -> str:
  text = (root / path).read_text()
  if command == 'view':
    return text.rstrip('\n')
  if text.count(old_str) != 1:
    return f'{old_str} is there {text.count(old_str)} times'
  (root / path).write_text(text.replace(old_str, new_str))
  return 'edited'


def _execute(root: pathlib.Path, command: str) -> str:
  """What the one-line programs of this module print: they import a file and print one call of it.

  The file is of this module's own making, so it is run here rather than in a new interpreter, a thousand times faster.
  """
  module, _, call = command.removeprefix("python -c 'from ").removesuffix("'").partition(' import *; ')
  printed: list[str] = []
  scope = {'__builtins__': {'print': lambda value: printed.append(str(value))}}
  exec((root / f'{module}.py').read_text() + call, scope)  # pylint: disable=exec-used
  return '\n'.join(['exit code 0', *printed])


_TOOLS = {'search': _search, 'str_replace_editor': _edit, 'execute_bash': _execute}
