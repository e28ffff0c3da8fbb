"""The patch between two states of a repository, verified: `git apply` makes the new state from the old one."""

import contextlib
import dataclasses
import hashlib
import os
import pathlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence

from iquest_jax.data.documents import Drop
from iquest_jax.data.read.commits import MAX_PATCH_BYTES, PATCH, head, unsuitable, without_hashes
from iquest_jax.data.read.git import GitError, Store, unquoted

# ours: larger files are data, generated or minified.
MAX_FILE_BYTES = 2**20
_ABSENT = '000000'
_MODES = (_ABSENT, '100644', '100755')


@dataclasses.dataclass(frozen=True)
class Entry:
  """A file that differs between two states; mode '000000' where it does not exist."""

  old_mode: str
  new_mode: str
  old_hash: str
  new_hash: str
  old_path: str
  new_path: str


def patch(store: Store, start: str, end: str) -> tuple[str, tuple[tuple[str, str], ...]] | Drop:
  """The patch from one commit to another and ((path, hash), ...) of the old files that it changes or deletes.

  `git apply` must turn the old files into the new ones, every byte and mode of them; otherwise a Drop says why not. All
  other files are the same in both commits.
  """
  span = f'{start[:12]}..{end[:12]}'
  # The list of files is shorter than the patch.
  try:
    output = head(store.stream('diff-tree', '-r', '--raw', '--no-abbrev', *PATCH, start, end), 2 * MAX_PATCH_BYTES)
  except GitError:
    return Drop('transition: unreadable objects', span)
  raw, _, data = output.partition(b'\n\n')
  if len(data) > MAX_PATCH_BYTES:
    return Drop('transition: a huge patch', span)
  if rule := unsuitable(data):
    return Drop(rule.replace('commit', 'transition'), span)
  data = without_hashes(data)
  try:
    text, entries = data.decode(), [_entry(line) for line in raw.split(b'\n')]
  except UnicodeDecodeError:
    return Drop('transition: not UTF-8', span)
  except ValueError:
    return Drop('transition: no change', span)
  if any(entry.old_mode not in _MODES or entry.new_mode not in _MODES for entry in entries):
    return Drop('transition: a symbolic link or a submodule', span)
  if not all(_is_plain(path) for entry in entries for path in (entry.old_path, entry.new_path)):
    return Drop('transition: an invalid path', span)
  old = {entry.old_path: entry for entry in entries if entry.old_mode != _ABSENT}
  contents = list(store.blobs([entry.old_hash for entry in old.values()], MAX_FILE_BYTES))
  if None in contents:
    return Drop('transition: an old file that is huge or unreadable', span)
  before = {path: (entry.old_mode, content) for (path, entry), content in zip(old.items(), contents)}
  after = {entry.new_path: (entry.new_mode, entry.new_hash) for entry in entries if entry.new_mode != _ABSENT}
  if applied(store, before, data) != after:
    return Drop('transition: git apply gives another state', span)
  return text, tuple((path, entry.old_hash) for path, entry in old.items())


def applied(store: Store, files: Mapping[str, tuple[str, bytes]], patch: bytes) -> dict[str, tuple[str, str]] | None:
  """What `git apply` makes of files: path -> (mode, hash). None if the patch does not apply.

  A temporary folder, not an index: what git writes into an index it looks up in the repository, and touches it there.

  Args:
    files: path -> (mode, content).
  """
  with _folder(store, files) as folder:
    try:
      store.apply(folder, patch)
    except GitError:
      return None
    found = {}
    for path in pathlib.Path(folder).rglob('*'):
      if path.is_file():
        mode = '100755' if path.stat().st_mode & 0o100 else '100644'
        found[str(path.relative_to(folder))] = (mode, _hash(path.read_bytes(), store.head))
  return found


@contextlib.contextmanager
def _folder(store: Store, files: Mapping[str, tuple[str, bytes]]) -> Iterator[str]:
  with tempfile.TemporaryDirectory(prefix='files-') as folder:
    for name, (mode, content) in files.items():
      path = pathlib.Path(folder, name)
      path.parent.mkdir(parents=True, exist_ok=True)
      path.write_bytes(content)
      path.chmod(int(mode[3:], 8))
    yield folder


def _hash(data: bytes, like: str) -> str:
  """git's name of a file's content, of the same form as another."""
  form = hashlib.sha256 if len(like) == 64 else hashlib.sha1
  return form(b'blob %d\0' % len(data) + data).hexdigest()


def _entry(line: bytes) -> Entry:
  """Reads ':100644 100644 1234 5678 M<tab>path', or with two paths of a rename."""
  head, *paths = line.split(b'\t')
  old_mode, new_mode, old_hash, new_hash, _ = head.decode().removeprefix(':').split(' ')
  names = [unquoted(path).decode() for path in paths]
  return Entry(old_mode, new_mode, old_hash, new_hash, names[0], names[-1])


def _is_plain(path: str) -> bool:
  """Whether a path may be written below a folder, and in a line of a text: trees can hold names like '..'."""
  parts: Sequence[str] = path.split('/')
  strange = any(part in ('', '.', '..') or part.lower() == '.git' or len(os.fsencode(part)) > 255 for part in parts)
  return not strange and '\n' not in path and '\r' not in path and len(os.fsencode(path)) < 2048
