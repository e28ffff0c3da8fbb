"""Repositories for tests with any bytes in them, written by `git fast-import`."""

import dataclasses
import os
import pathlib
import subprocess

REGULAR, LINK, SUBMODULE = b'100644', b'120000', b'160000'


@dataclasses.dataclass(frozen=True)
class Change:
  """A commit to write.

  Attributes:
    files: path -> new bytes, None to delete, or (mode, bytes); the bytes of a submodule are a hash.
    merged: index of the commit that it merges besides the one before it.
    parent: index of its first parent; the commit before it if None.
  """

  message: bytes
  files: dict[bytes, bytes | None | tuple[bytes, bytes]]
  merged: int | None = None
  parent: int | None = None


def git(folder: pathlib.Path, *arguments: str, stdin: bytes = b'') -> bytes:
  """git as people run it, but for the configuration of the user."""
  environment = {'PATH': os.environ['PATH'], 'HOME': os.devnull, 'GIT_CONFIG_NOSYSTEM': '1', 'LC_ALL': 'C'}
  command = ['git', '-c', 'safe.directory=*', '-C', str(folder), *arguments]
  return subprocess.run(command, input=stdin, env=environment, capture_output=True, check=True).stdout


def write(folder: pathlib.Path, changes: list[Change], form: str = 'sha1') -> pathlib.Path:
  """Makes a bare repository whose branch main ends with the last change; one hour lies between commits."""
  folder.mkdir(parents=True, exist_ok=True)
  git(folder, 'init', '--quiet', '--bare', '--initial-branch=main', f'--object-format={form}')
  stream = []
  for number, change in enumerate(changes):
    time = 1_700_000_000 + 3600 * number
    stream.append(b'commit refs/heads/main\nmark :%d\n' % (number + 1))
    stream.append(b'committer Zoe Author <zoe@example.invalid> %d +0000\n' % time)
    stream.append(b'data %d\n%s\n' % (len(change.message), change.message))
    if change.parent is not None:
      stream.append(b'from :%d\n' % (change.parent + 1))
    if change.merged is not None:
      stream.append(b'merge :%d\n' % (change.merged + 1))
    for path, content in change.files.items():
      quoted = b'"%s"' % path.replace(b'\\', b'\\\\').replace(b'"', b'\\"').replace(b'\n', b'\\n')
      if content is None:
        stream.append(b'D %s\n' % quoted)
        continue
      mode, data = content if isinstance(content, tuple) else (REGULAR, content)
      if mode == SUBMODULE:
        stream.append(b'M %s %s %s\n' % (mode, data, quoted))
      else:
        stream.append(b'M %s inline %s\ndata %d\n%s\n' % (mode, quoted, len(data), data))
  git(folder, 'fast-import', '--quiet', '--force', stdin=b''.join(stream))
  return folder
