"""Reads commits of a git repository in bulk, without their authors. git never sees the user's configuration."""

import os
import pathlib
import subprocess
from collections.abc import Iterator

from iquest_jax.data.documents import Commit, content_id
from iquest_jax.errors import UserError


def read_commits(repository: str | pathlib.Path) -> Iterator[Commit]:
  """Commits from the oldest to the newest; merges, empty commits and commits of binary files are left out.

  Raises:
    UserError: git is missing, or the folder is not a repository.
  """
  # Every line of message and patch is indented or prefixed, so that a line starting with the mark is ours.
  layout = '--format=\x1e%n%w(0,1,1)%B%n%w(0,0,0)\x1f'
  options = ('--reverse', '--topo-order', '--no-merges', '--patch', '--no-color', '--no-ext-diff', '--no-textconv')
  log = run_git(repository, 'log', *options, '--no-renames', layout)
  for record in ('\n' + log).split('\n\x1e\n')[1:]:
    message, _, patch = record.partition('\x1f\n')
    message = '\n'.join(line.removeprefix(' ') for line in message.split('\n')).strip() + '\n'
    # Stripped of newlines only: a patch may end with the space of an empty context line.
    patch = patch.strip('\n') + '\n'
    if message.strip() and patch.strip() and 'Binary files' not in patch:
      yield Commit(content_id(message, patch), message, patch)


def run_git(folder: str | pathlib.Path, *arguments: str, stdin: str = '') -> str:
  """Standard output of a git command that sees neither the user's configuration nor the system's.

  Raises:
    UserError: git is missing or fails.
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
  # git refuses repositories of other users, since their configuration could run programs; the commands used here run none.
  command = ['git', '-c', 'safe.directory=*', '-C', str(folder), *arguments]
  try:
    done = subprocess.run(command, input=stdin.encode(), env=environment, capture_output=True, check=False)
  except FileNotFoundError:
    raise UserError('git: the program is not installed; install git to read commits') from None
  if done.returncode:
    reason = done.stderr.decode(errors='replace').strip().splitlines() or ['no reason given']
    raise UserError(f'git {arguments[0]} in {folder}: {reason[-1]}; the folder must be a readable git repository')
  return done.stdout.decode(errors='replace')
