"""Reads histories in bulk: commits with their patches, and, along first parents, what each commit changes."""

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence

from iquest_jax.data.documents import Commit, Drop, LogEntry, content_id
from iquest_jax.data.read.git import GitError, Store, unquoted

# ours: longer patches are imports, generated files and mass edits.
MAX_PATCH_BYTES = 2**20
# ours: of a commit that changes more files, the log holds the first.
MAX_LOGGED_FILES = 64
_MAX_LOG_BYTES = 2**22
# ours: of a repository with more unreadable places, the rest is left out.
_MAX_FAILURES = 64
# Trailers name people: 'Signed-off-by: A <a@b.c>'.
_PEOPLE = re.compile(r'^[ \t]*(?:[A-Za-z]+(?:-[A-Za-z]+)*-by|Cc): .*\n?', re.M | re.I)
# The hashes of a file's versions: nobody can predict them, and git needs them for binary files only.
_INDEX_LINE = re.compile(rb'^index [0-9a-f]+\.\.[0-9a-f]+(?: [0-7]{6})?\n', re.M)
# A rename keeps a patch from deleting and adding the same lines; -l bounds how many pairs of files are compared.
PATCH = ('--patch', '--find-renames', '-l200', '--no-color', '--no-ext-diff', '--no-textconv')
# Every line of message and patch is indented or prefixed, so that a line with a mark alone is ours.
_LAYOUT = '--format=\x1e%n%H %ct %P%n%w(0,1,1)%B%n%w(0,0,0)\x1f'
_LEFT_OUT = (
    (re.compile(rb'^(?:Binary files .* differ|GIT binary patch)$', re.M), 'commit: binary files'),
    (re.compile(rb'^[-+]Subproject commit ', re.M), 'commit: a submodule'),
    (re.compile(rb'^[ -+]version https://git-lfs\.github\.com/', re.M), 'commit: Git LFS pointers'),
)


def read_commits(store: Store) -> Iterator[Commit | Drop]:
  """Commits from the oldest to the newest, without authors; what is left out is a Drop.

  Raises:
    GitError: the history cannot be walked, or has many unreadable commits.
  """
  for name, record in _records(store, ('--topo-order',), PATCH, MAX_PATCH_BYTES):
    yield Drop('commit: unreadable objects', name) if record is None else _commit(store, record)


def _commit(store: Store, record: bytes) -> Commit | Drop:
  name, _, parents, message, patch = _parsed(record)
  if len(record) > MAX_PATCH_BYTES:
    return Drop('commit: a huge patch', name)
  if parents > 1:
    return Drop('commit: a merge', name)
  if name in store.boundary:
    return Drop('commit: the end of a shallow clone', name)
  if not message.strip():
    return Drop('commit: no message', name)
  # Stripped of newlines only: a patch may end with the space of an empty context line.
  patch = patch.strip(b'\n')
  if not patch:
    return Drop('commit: no change', name)
  if rule := unsuitable(patch):
    return Drop(rule, name)
  try:
    text = without_hashes(patch + b'\n').decode()
  except UnicodeDecodeError:
    return Drop('commit: not UTF-8', name)
  return Commit(content_id(message, text), message, text, store.name)


def unsuitable(patch: bytes) -> str:
  """The rule that leaves a patch out: it changes what has no text; '' if there is none."""
  return next((rule for pattern, rule in _LEFT_OUT if pattern.search(patch)), '')


def without_hashes(patch: bytes) -> bytes:
  """A patch without its lines 'index 257cc56..3bd1f0e 100644'; it applies as before."""
  return _INDEX_LINE.sub(b'', patch)


def times(store: Store) -> list[int]:
  """When the commits of the first-parent history were made, in seconds, the oldest first; raises GitError."""
  lines = store.run('rev-list', '--first-parent', '--reverse', '--timestamp', store.head).splitlines()
  return [int(line.split(b' ')[0]) for line in lines]


def log(store: Store, count: int) -> Iterator[LogEntry]:
  """The newest `count` commits along first parents, the oldest first; a merge changes what it brings in.

  Raises:
    GitError: the history cannot be read to its end.
  """
  options = ('--first-parent', '-m', '--numstat', '--no-renames', '--no-ext-diff')
  for name, record in _records(store, ('--first-parent', f'--max-count={count}'), options, _MAX_LOG_BYTES):
    if record is None:
      # More files than are listed: no transition spans it.
      yield LogEntry(name, 1, 0, '', (), 1)
      continue
    name, time, parents, message, stats = _parsed(record)
    lines = stats.strip(b'\n').split(b'\n') if stats.strip(b'\n') else []
    # The last line of a record that was cut is half a line.
    whole = lines[:-1] if len(record) > _MAX_LOG_BYTES else lines
    changes = tuple(map(_change, whole[:MAX_LOGGED_FILES]))
    yield LogEntry(name, parents, time, message, changes, len(lines))


def _change(line: bytes) -> tuple[str, int, int]:
  added, deleted, path = line.split(b'\t', 2)
  numbers = (-1, -1) if added == b'-' else (int(added), int(deleted))
  return unquoted(path).decode(errors='replace'), *numbers


def history_key(store: Store) -> str:
  """Hash of the first commit along first parents: equal for all copies and forks of a repository.

  A shallow clone does not know its first commit; its key is that of the commit at which it ends.

  Raises:
    GitError: the history cannot be read to its end.
  """
  return store.run('rev-list', '--first-parent', '--max-parents=0', store.head).decode().strip()


def _records(
    store: Store, walk: Sequence[str], options: Sequence[str], limit: int
) -> Iterator[tuple[str, bytes | None]]:
  """(hash, what the log prints) of each commit of a walk, the oldest first; None for one that git cannot read."""
  names = store.run('rev-list', '--reverse', *walk, store.head).split()
  done = failures = 0
  while done < len(names):
    first = done
    command = ('log', '--no-walk=unsorted', '--stdin', '--encoding=UTF-8', *options, _LAYOUT)
    chunks = store.stream(*command, stdin=b'\n'.join(names[done:]) + b'\n')
    records = split(itertools.chain([b'\n'], chunks), b'\n\x1e\n', limit)
    try:
      next(records)
      for record in records:
        yield names[done].decode(), record
        done += 1
    except GitError:
      failures += 1
      if failures > _MAX_FAILURES:
        raise
      # What git failed at is the next commit, or the one after it: whose text has no end yet.
      if done == first:
        yield names[done].decode(), None
        done += 1


def head(chunks: Iterable[bytes], limit: int) -> bytes:
  """The first `limit` bytes of a stream, or a little more."""
  held = []
  for chunk in chunks:
    held.append(chunk)
    limit -= len(chunk)
    if limit < 0:
      break
  return b''.join(held)


def split(chunks: Iterable[bytes], separator: bytes, limit: int) -> Iterator[bytes]:
  """The pieces of a stream; of one longer than `limit` bytes, its first `limit + 1`."""
  held, head = b'', b''
  for chunk in chunks:
    *whole, held = (held + chunk).split(separator)
    for piece in whole:
      yield head or piece[: limit + 1]
      head = b''
    # The end of what is held may be half a separator.
    if len(held) > limit + len(separator):
      head, held = head or held[: limit + 1], held[1 - len(separator) :]
  yield (head or held)[: limit + 1]


def _parsed(record: bytes) -> tuple[str, int, int, str, bytes]:
  """Hash, time, number of parents; the message without trailers that name people; what follows it."""
  first, _, rest = record.partition(b'\n')
  name, time, *parents = first.decode().split(' ')
  message, _, rest = (b'\n' + rest).partition(b'\n\x1f')
  text = '\n'.join(line.removeprefix(' ') for line in message.decode(errors='replace').split('\n'))
  # git gives no time for a date that it cannot read, and an empty word for no parents.
  return name, int(time or 0), sum(map(bool, parents)), _PEOPLE.sub('', text).strip() + '\n', rest
