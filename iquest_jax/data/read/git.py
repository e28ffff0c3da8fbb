"""Runs git, which sees neither the user's configuration nor, through a Store, that of the repository.

A repository of others may name programs in its configuration, hooks and attributes. A Store is an empty git directory of
ours whose objects are those of the repository: git finds nothing to run, and what it writes stays there. Needs git 2.31.
"""

import os
import pathlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from typing import IO

from iquest_jax.errors import UserError

# Larger files are binary to git, which then neither holds nor compares them.
MAX_DIFF_BYTES = 8 * 2**20
_CHUNK_BYTES = 2**18
# Requests on their way at once. They fit into the buffer of a pipe, so that git and we never wait for each other.
_REQUESTS = 64


class GitError(UserError):
  """git cannot read a repository; `rule` is the reason to count it by."""

  def __init__(self, message: str, rule: str = 'git: unreadable repository'):
    super().__init__(message)
    self.rule = rule


def run_git(folder: str | pathlib.Path, *arguments: str, stdin: str = '') -> str:
  """Standard output of a git command that sees neither the user's configuration nor the system's, and runs no hooks.

  The folder is a repository itself: those above it are not looked at. To read a repository of others, use a Store.

  Raises:
    GitError: git fails.
    UserError: git is missing.
  """
  return _run(folder, arguments, stdin.encode()).decode(errors='replace')


class Store:
  """A repository opened for reading; a context manager.

  Attributes:
    path: of the repository.
    name: what documents call the repository; the name of its folder unless given.
    head: hash of the current commit.
    boundary: hashes of the commits at which a shallow clone ends.
  """

  def __init__(self, repository: str | pathlib.Path, name: str = ''):
    """Opens a repository, bare or checked out.

    Raises:
      GitError: the folder is not a repository, has no commits, or cannot be read.
      UserError: git is missing.
    """
    self.path = path = pathlib.Path(os.path.abspath(repository))
    self.name = name or (path.parent.name if path.name == '.git' else path.name.removesuffix('.git'))
    try:
      found = is_repository(path)
    except OSError:  # no permission to look, or a name that is too long
      found = False
    if not found:
      raise GitError(f'git: {path} is not a git repository; remove it or name another folder', 'git: not a repository')
    found = _run(path, ('rev-parse', '--show-object-format', '--path-format=absolute', '--git-path', 'objects'))
    hashes, _, objects = os.fsdecode(found).removesuffix('\n').partition('\n')
    self.head = self._head(path)
    self._blobs: subprocess.Popen | None = None
    self._directory = tempfile.mkdtemp(prefix='git-')
    self.boundary = self._link(pathlib.Path(self._directory), hashes, pathlib.Path(objects))

  @staticmethod
  def _head(path: pathlib.Path) -> str:
    try:
      return run_git(path, 'rev-parse', '--verify', 'HEAD^{commit}').strip()
    except GitError:
      # A mirror may name a branch that it does not have.
      newest = ('--sort=-committerdate', '--count=1', '--format=%(objectname)', 'refs/heads')
      if head := run_git(path, 'for-each-ref', *newest).strip():
        return head
    raise GitError(f'git: {path} has no commits; remove it or name another folder', 'git: a repository without commits')

  @staticmethod
  def _link(directory: pathlib.Path, hashes: str, objects: pathlib.Path) -> frozenset[str]:
    """Fills our git directory; returns the boundary of a shallow clone."""
    (directory / 'objects/info').mkdir(parents=True)
    (directory / 'info').mkdir()
    # Attributes that a patch brings would change line ends of the files it is applied to.
    (directory / 'info/attributes').write_text('* -text -ident -filter -working-tree-encoding\n')
    (directory / 'refs').mkdir()
    (directory / 'HEAD').write_text('ref: refs/heads/none\n')
    version, extension = (0, '') if hashes == 'sha1' else (1, f'[extensions]\nobjectFormat = {hashes}\n')
    core = f'[core]\nrepositoryFormatVersion = {version}\nbare = true\nbigFileThreshold = {MAX_DIFF_BYTES}\nabbrev = 12\n'
    (directory / 'config').write_text(core + extension)
    # A link, since a path may have a newline, of which the file of alternates knows nothing.
    (directory / 'source').symlink_to(objects)
    (directory / 'objects/info/alternates').write_text(f'{directory}/source\n')
    shallow = objects.parent / 'shallow'
    if not shallow.is_file():
      return frozenset()
    shutil.copyfile(shallow, directory / 'shallow')
    return frozenset(shallow.read_text(errors='replace').split())

  def __enter__(self) -> 'Store':
    return self

  def __exit__(self, *_: object) -> None:
    if self._blobs:
      self._blobs.kill()
      self._blobs.communicate()
    shutil.rmtree(self._directory, ignore_errors=True)

  def run(self, *arguments: str, stdin: bytes = b'') -> bytes:
    """Standard output of a git command; raises GitError if it fails."""
    return _run(self._directory, arguments, stdin, self.path)

  def stream(self, *arguments: str, stdin: bytes = b'') -> Iterator[bytes]:
    """Standard output of a git command in chunks; raises GitError at the end if it failed. Closing it ends git."""
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as errors:
      given.write(stdin)
      given.seek(0)
      process = _start(self._directory, arguments, stdin=given, stdout=subprocess.PIPE, stderr=errors)
      try:
        while chunk := process.stdout.read1(_CHUNK_BYTES):
          yield chunk
      except GeneratorExit:
        process.kill()
        raise
      finally:
        process.stdout.close()
        process.wait()
      if process.returncode:
        errors.seek(0)
        raise _failure(self.path, arguments, errors.read())

  def blobs(self, hashes: Iterable[str], limit: int) -> Iterator[bytes | None]:
    """Contents of files by hash, in order; None for one that is missing, broken, or larger than `limit` bytes."""
    hashes = list(hashes)
    for first in range(0, len(hashes), _REQUESTS):
      group = hashes[first : first + _REQUESTS]
      try:
        contents = self._objects(group, limit)
      except GitError:
        contents = [self._object(name, limit) for name in group]
      yield from contents

  def _object(self, name: str, limit: int) -> bytes | None:
    try:
      return self._objects([name], limit)[0]
    except GitError:
      return None

  def apply(self, folder: str | pathlib.Path, patch: bytes) -> None:
    """Applies a patch to the files in a folder; raises GitError if it does not apply."""
    place = ('-c', 'core.bare=false', f'--git-dir={self._directory}', f'--work-tree={folder}')
    _run(folder, (*place, 'apply', '--whitespace=nowarn', '-'), patch)

  def _objects(self, names: list[str], limit: int) -> list[bytes | None]:
    """Contents of few objects, asked of one git that stays."""
    if not self._blobs:
      pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
      self._blobs = _start(self._directory, ('cat-file', '--batch'), **pipes)
    try:
      self._blobs.stdin.write(''.join(f'{name}\n' for name in names).encode())
      self._blobs.stdin.flush()
      return [_answer(self._blobs.stdout, limit) for _ in names]
    except (OSError, ValueError):
      self._blobs.kill()
      self._blobs.communicate()
      self._blobs = None
      raise GitError(f'git cat-file: {self.name}: an object cannot be read; fetch the repository again') from None


def _answer(answers: IO[bytes], limit: int) -> bytes | None:
  """One answer of `git cat-file --batch`, None if it is missing or too large; raises ValueError if it is malformed."""
  header = answers.readline().split()
  if header[-1:] == [b'missing']:
    return None
  if len(header) != 3:
    raise ValueError
  left = int(header[2])
  if left <= limit:
    content = answers.read(left + 1)
    if len(content) <= left:
      raise ValueError
    return content[:-1]
  while left >= 0:
    skipped = len(answers.read(min(left + 1, _CHUNK_BYTES)))
    if not skipped:
      raise ValueError
    left -= skipped
  return None


def is_repository(folder: str | pathlib.Path) -> bool:
  """Whether a folder is a git repository: checked out, or bare."""
  path = pathlib.Path(folder)
  return (path / '.git').exists() or all((path / name).exists() for name in ('HEAD', 'objects', 'refs'))


def unquoted(path: bytes) -> bytes:
  """A path as git prints it: in quotes, with the escapes of C, if it has unusual characters."""
  if not path.startswith(b'"'):
    return path
  # Escapes of bytes are octal, as in Python; git leaves no other byte outside ASCII in quotes.
  return path[1:-1].decode('latin-1').encode('latin-1').decode('unicode_escape').encode('latin-1')


def _run(
    folder: str | pathlib.Path, arguments: Sequence[str], stdin: bytes = b'', named: str | pathlib.Path = ''
) -> bytes:
  process = _start(folder, arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
  output, errors = process.communicate(stdin)
  if process.returncode:
    raise _failure(named or folder, arguments, errors)
  return output


def _start(folder: str | pathlib.Path, arguments: Sequence[str], **streams) -> subprocess.Popen:
  """Starts git; raises UserError if it is not installed."""
  environment = {
      'PATH': os.environ.get('PATH', os.defpath),
      'HOME': os.devnull,
      'GIT_CONFIG_GLOBAL': os.devnull,
      'GIT_CONFIG_NOSYSTEM': '1',
      'GIT_ATTR_NOSYSTEM': '1',
      'GIT_CEILING_DIRECTORIES': os.path.dirname(os.path.realpath(folder)),
      # Objects that a partial clone lacks would be fetched, by programs that its configuration names.
      'GIT_ALLOW_PROTOCOL': 'none',
      'GIT_NO_LAZY_FETCH': '1',
      'GIT_NO_REPLACE_OBJECTS': '1',
      'GIT_TERMINAL_PROMPT': '0',
      'LC_ALL': 'C',
      'TZ': 'UTC',
  }
  # git refuses repositories of other users, since their configuration could run programs: here it names none that runs.
  options = ('safe.directory=*', f'core.hooksPath={os.devnull}', 'core.fsmonitor=false', 'log.showSignature=false')
  configuration = [word for option in options for word in ('-c', option)]
  command = ['git', '--no-pager', *configuration, '-C', str(folder), *arguments]
  try:
    return subprocess.Popen(command, env=environment, **streams)
  except FileNotFoundError:
    raise UserError('git: the program is not installed; install git to read repositories') from None


def _failure(folder: str | pathlib.Path, arguments: Sequence[str], errors: bytes) -> GitError:
  reason = errors.decode(errors='replace').strip().splitlines() or ['no reason given']
  command = next(word for word in arguments if not word.startswith('-') and '=' not in word)
  return GitError(f'git {command} in {folder}: {reason[-1]}; the folder must be a readable git repository')
