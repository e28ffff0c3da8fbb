"""Small git repositories: histories that are generated, and repositories with one commit of given files."""

import pathlib
import random
from collections.abc import Iterable, Iterator

from iquest_jax.data.read.git import run_git

_IDENTITY = 'generated <generated@example.invalid>'
_EPOCH = 1_700_000_000

_NAMES = ('price', 'count', 'total', 'width', 'speed', 'score', 'level', 'size', 'rate', 'age', 'depth', 'weight')
_BODIES = {
    'add': '{name} + {number}',
    'scale': '{name} * {number}',
    'shift': '{name} - {number}',
    'limit': 'min({name}, {number})',
    'double': '2 * {name} + {number}',
    'reduce': '{name} // {number}',
}

# The same in Python, for tests of the functions.
_VALUES = {
    'add': lambda name, number: name + number,
    'scale': lambda name, number: name * number,
    'shift': lambda name, number: name - number,
    'limit': min,
    'double': lambda name, number: 2 * name + number,
    'reduce': lambda name, number: name // number,
}
# Modules of a repository, and the share of new or changed functions that get a test.
_MODULES, _TESTED = 4, 0.3

# Message and changed files, {path: new text}.
Change = tuple[str, dict[str, str]]


def repository(folder: str | pathlib.Path, history: Iterable[Change]) -> None:
  """Creates a repository in an empty folder, a commit per change; the same changes give the same commit hashes."""
  run_git(folder, 'init', '--quiet', '--initial-branch=main')
  stream = []
  for number, (message, files) in enumerate(history):
    stream.append(f'commit refs/heads/main\ncommitter {_IDENTITY} {_EPOCH + 3600 * number} +0000\n')
    stream.append(f'data {len(message.encode())}\n{message}\n')
    for path, text in files.items():
      stream.append(f'M 100644 inline {path}\ndata {len(text.encode())}\n{text}\n')
  run_git(folder, 'fast-import', '--quiet', stdin=''.join(stream))


def generated_repository(folder: str | pathlib.Path, seed: int, count: int) -> None:
  """Creates a repository whose history is a function of the seed."""
  repository(folder, changes(seed, count))


def changes(seed: int, count: int) -> Iterator[Change]:
  """Successive changes: functions are added, some with tests, given new numbers, documented, removed."""
  rng = random.Random(f'repository:{seed}')
  modules: dict[str, dict[str, list]] = {name: {} for name in rng.sample(_NAMES, _MODULES)}
  for _ in range(count):
    module = rng.choice(sorted(modules))
    functions = modules[module]
    action = rng.choice(('add', 'add', 'change', 'document', 'remove')) if len(functions) > 1 else 'add'
    if action == 'add':
      verb, argument, number = rng.choice(list(_BODIES)), rng.choice(_NAMES), rng.randint(2, 99)
      name = f'{verb}_{argument}'
      message = f'{"Rewrite" if name in functions else "Add"} {name} with {number}'
      functions[name] = [verb, argument, number, '']
    else:
      name = rng.choice(sorted(functions))
      function = functions[name]
      if action == 'change':
        old, function[2] = function[2], rng.randint(2, 99)
        message = f'Change {name} from {old} to {function[2]}'
      elif action == 'document':
        function[3] = f'{function[0].capitalize()} the {function[1]} by {function[2]}.'
        message = f'Document {name}'
      else:
        del functions[name]
        message = f'Remove the unused {name}'
    files = {f'src/{module}.py': '\n\n'.join(_function(key, *value) for key, value in sorted(functions.items()))}
    if action in ('add', 'change') and rng.random() < _TESTED:
      files[f'tests/test_{name}.py'] = _test(module, name, *functions[name])
      message += ' and test it'
    yield message, files


def _function(name: str, verb: str, argument: str, number: int, docstring: str) -> str:
  body = _BODIES[verb].format(name=argument, number=number)
  lines = [f'def {name}({argument}):', *([f'  """{docstring}"""'] if docstring else []), f'  return {body}', '']
  return '\n'.join(lines)


def _test(module: str, name: str, verb: str, argument: str, number: int, docstring: str) -> str:
  value = _VALUES[verb](7, number)
  return f'from src.{module} import {name}\n\n\ndef test_{name}():\n  assert {name}(7) == {value}\n'
