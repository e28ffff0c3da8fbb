"""Commits of git repositories, read in bulk, and a generated repository with a real history.

git never sees the user's configuration, and a commit leaves here without its author.
"""

import os
import pathlib
import random
import subprocess
import tempfile
from collections.abc import Iterator

from iquest_jax.data import commits
from iquest_jax.data.documents import Document
from iquest_jax.errors import UserError

# A history shorter than this is filled up from a generated repository.
ENOUGH_COMMITS = 1000
# A longer patch would fill a tiny stage alone.
MAX_PATCH_CHARACTERS = 6000
_IDENTITY = 'generated <generated@example.invalid>'
_EPOCH = 1_700_000_000

_SOURCE_ROOT = pathlib.Path(__file__).resolve().parents[2]


def history(seed: int) -> Iterator[Document]:
  """Commits of this project's own history, then of a generated repository up to ENOUGH_COMMITS."""
  count = 0
  if own_head():
    for commit in read_commits(_SOURCE_ROOT):
      if len(commit.files[1][1]) <= MAX_PATCH_CHARACTERS:
        count += 1
        yield commit
  if count < ENOUGH_COMMITS:
    with tempfile.TemporaryDirectory() as folder:
      generated_repository(folder, seed, ENOUGH_COMMITS - count)
      yield from read_commits(folder)


def own_head() -> str:
  """The newest commit of the checkout this package runs from; '' where it runs from no checkout."""
  if not (_SOURCE_ROOT / '.git').exists():
    return ''
  return run_git(_SOURCE_ROOT, 'rev-list', '--max-count=1', '--all').strip()


def read_commits(repository: str | pathlib.Path) -> Iterator[Document]:
  """Commits from the oldest on, each with message and patch; merges and empty commits are left out.

  Raises:
    UserError: git is missing, or the folder is no repository.
  """
  # Every line of message and patch is indented or prefixed, so that a line starting with the mark is ours.
  layout = '--format=\x1e%n%w(0,1,1)%B%n%w(0,0,0)\x1f'
  options = ('--reverse', '--topo-order', '--no-merges', '--patch', '--no-color', '--no-ext-diff', '--no-textconv')
  log = run_git(repository, 'log', *options, '--no-renames', layout)
  for record in ('\n' + log).split('\n\x1e\n')[1:]:
    message, _, patch = record.partition('\x1f\n')
    message = '\n'.join(line.removeprefix(' ') for line in message.split('\n'))
    if message.strip() and patch.strip() and 'Binary files' not in patch:
      yield commits.document(message, patch)


def generated_repository(folder: str | pathlib.Path, seed: int, commits_wanted: int) -> None:
  """Makes a repository in an empty folder whose history is a function of the seed: same seed, same commit hashes."""
  run_git(folder, 'init', '--quiet', '--initial-branch=main')
  stream = []
  for number, (message, files) in enumerate(_edits(random.Random(f'repository:{seed}'), commits_wanted)):
    stream.append(f'commit refs/heads/main\ncommitter {_IDENTITY} {_EPOCH + 3600 * number} +0000\n')
    stream.append(f'data {len(message.encode())}\n{message}\n')
    for path, text in files.items():
      stream.append(f'M 100644 inline {path}\ndata {len(text.encode())}\n{text}\n')
  run_git(folder, 'fast-import', '--quiet', stdin=''.join(stream))


def run_git(folder: str | pathlib.Path, *arguments: str, stdin: str = '') -> str:
  """Standard output of a git command that sees no configuration of user or system.

  Raises:
    UserError: git is missing or refuses.
  """
  environment = {
      'PATH': os.environ.get('PATH', os.defpath),
      'HOME': os.devnull,
      'GIT_CONFIG_GLOBAL': os.devnull,
      'GIT_CONFIG_NOSYSTEM': '1',
      'GIT_TERMINAL_PROMPT': '0',
      'LC_ALL': 'C',
      'TZ': 'UTC',
  }
  # git refuses repositories of other users, since their configuration could run programs; log and rev-list run none.
  command = ['git', '-c', 'safe.directory=*', '-C', str(folder), *arguments]
  try:
    done = subprocess.run(command, input=stdin.encode(), env=environment, capture_output=True, check=False)
  except FileNotFoundError:
    raise UserError('git: the program is not installed; install git, commits are read with it') from None
  if done.returncode:
    reason = done.stderr.decode(errors='replace').strip().splitlines() or ['no reason given']
    raise UserError(f'git {arguments[0]} in {folder}: {reason[-1]}; the folder must be a readable git repository')
  return done.stdout.decode(errors='replace')


_NAMES = ('price', 'count', 'total', 'width', 'speed', 'score', 'level', 'size', 'rate', 'age', 'depth', 'weight')
_VERBS = ('add', 'scale', 'shift', 'limit', 'double', 'reduce')
_BODIES = {
    'add': '{name} + {number}',
    'scale': '{name} * {number}',
    'shift': '{name} - {number}',
    'limit': 'min({name}, {number})',
    'double': '2 * {name} + {number}',
    'reduce': '{name} // {number}',
}


def _edits(rng: random.Random, count: int) -> Iterator[tuple[str, dict[str, str]]]:
  """(message, {path: new text}) of successive commits: functions are added, given new numbers, documented, removed."""
  modules: dict[str, dict[str, list]] = {}
  for _ in range(count):
    path = f'src/{rng.choice(_NAMES)}.py'
    functions = modules.setdefault(path, {})
    action = rng.choice(('add', 'add', 'change', 'document', 'remove')) if len(functions) > 1 else 'add'
    if action == 'add':
      verb, argument, number = rng.choice(_VERBS), rng.choice(_NAMES), rng.randint(2, 99)
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
        message = f'Say what {name} does'
      else:
        del functions[name]
        message = f'Remove {name}, nobody calls it'
    yield message, {path: '\n\n'.join(_function(key, *value) for key, value in sorted(functions.items()))}


def _function(name: str, verb: str, argument: str, number: int, docstring: str) -> str:
  body = _BODIES[verb].format(name=argument, number=number)
  lines = [f'def {name}({argument}):', *([f'  """{docstring}"""'] if docstring else []), f'  return {body}', '']
  return '\n'.join(lines)
