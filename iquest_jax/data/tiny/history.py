"""Commits of this project's checkout, if there is one, then of a generated repository with a real history."""

import itertools
import pathlib
import random
import tempfile
from collections.abc import Iterator

from iquest_jax.data.documents import Commit
from iquest_jax.data.read.git import read_commits, run_git

# The checkout this package runs from, if it is one.
CHECKOUT = pathlib.Path(__file__).resolve().parents[3]
# A longer patch would fill a tiny stage alone.
MAX_PATCH_CHARACTERS = 6000
_IDENTITY = 'generated <generated@example.invalid>'
_EPOCH = 1_700_000_000


def commits(seed: int, count: int, checkout: pathlib.Path) -> list[Commit]:
  """The first `count` commits with a short patch, of the checkout and then of a generated repository; no hunks twice."""
  with tempfile.TemporaryDirectory() as folder:
    generated_repository(folder, seed, count)
    own = read_commits(checkout) if (checkout / '.git').exists() else ()
    by_change: dict[tuple[str, str], Commit] = {}
    for commit in itertools.chain(own, read_commits(folder)):
      if len(commit.patch) <= MAX_PATCH_CHARACTERS:
        by_change.setdefault((commit.message, commit.patch.partition('\n@@')[2]), commit)
    return list(by_change.values())[:count]


def is_edit(commit: Commit) -> bool:
  """Whether a commit only changes existing files: others ask for nothing that the code shown could answer."""
  return 'new file mode' not in commit.patch and 'deleted file mode' not in commit.patch


def generated_repository(folder: str | pathlib.Path, seed: int, count: int) -> None:
  """Creates a repository in an empty folder whose history is a function of the seed, down to the commit hashes."""
  run_git(folder, 'init', '--quiet', '--initial-branch=main')
  stream = []
  for number, (message, files) in enumerate(_changes(random.Random(f'repository:{seed}'), count)):
    stream.append(f'commit refs/heads/main\ncommitter {_IDENTITY} {_EPOCH + 3600 * number} +0000\n')
    stream.append(f'data {len(message.encode())}\n{message}\n')
    for path, text in files.items():
      stream.append(f'M 100644 inline {path}\ndata {len(text.encode())}\n{text}\n')
  run_git(folder, 'fast-import', '--quiet', stdin=''.join(stream))


_NAMES = ('price', 'count', 'total', 'width', 'speed', 'score', 'level', 'size', 'rate', 'age', 'depth', 'weight')
_BODIES = {
    'add': '{name} + {number}',
    'scale': '{name} * {number}',
    'shift': '{name} - {number}',
    'limit': 'min({name}, {number})',
    'double': '2 * {name} + {number}',
    'reduce': '{name} // {number}',
}


def _changes(rng: random.Random, count: int) -> Iterator[tuple[str, dict[str, str]]]:
  """(message, {path: new text}) of successive commits: functions are added, given new numbers, documented, removed."""
  modules: dict[str, dict[str, list]] = {}
  for _ in range(count):
    path = f'src/{rng.choice(_NAMES)}.py'
    functions = modules.setdefault(path, {})
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
    yield message, {path: '\n\n'.join(_function(key, *value) for key, value in sorted(functions.items()))}


def _function(name: str, verb: str, argument: str, number: int, docstring: str) -> str:
  body = _BODIES[verb].format(name=argument, number=number)
  lines = [f'def {name}({argument}):', *([f'  """{docstring}"""'] if docstring else []), f'  return {body}', '']
  return '\n'.join(lines)
