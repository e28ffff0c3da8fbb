"""Reads repositories: their files, whole or in parts, their commits, and the states that transitions lie between."""

import collections
import contextlib
import itertools
import pathlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

from iquest_jax.data import imports
from iquest_jax.data.documents import Commit, Drop, File, LogEntry, Repository, Transition, content_id
from iquest_jax.data.read import commits, states
from iquest_jax.data.read.git import GitError, Store
from iquest_jax.data.read.states import MAX_FILE_BYTES

# ours: a larger repository becomes several documents, each of whole directories where they are small enough.
MAX_REPOSITORY_BYTES = 8 * 2**20
# git itself looks for a NUL byte in as many bytes.
_SNIFFED_BYTES = 8000
# Texts of files kept while transitions of one repository are read: neighbouring states share most of them.
_CACHE_BYTES = 64 * 2**20

Decode = Callable[[bytes], str | Drop]


def utf8(data: bytes) -> str | Drop:
  """Text of bytes; the default of readers, which take any function of this form."""
  try:
    return data.decode()
  except UnicodeDecodeError as error:
    return Drop('file: not UTF-8', f'byte {error.start}')


def read_repository(
    path: str | pathlib.Path,
    kinds: Collection[type],
    name: str = '',
    decode: Decode = utf8,
    transitions: Callable[['History'], Iterator[Transition | Drop]] = lambda _: iter(()),
) -> Iterator[File | Repository | Commit | Transition | Drop]:
  """The documents of the given kinds in one repository; whatever is left out of it is a Drop, and nothing raises.

  Args:
    name: what documents call it; the name of its folder if ''.
    decode: bytes of a file to its text.
    transitions: finds transitions in a history: build/transitions.py.

  Raises:
    UserError: git is missing.
  """
  with contextlib.ExitStack() as stack:
    try:
      store = stack.enter_context(Store(path, name))
    except GitError as error:
      yield Drop(error.rule, str(error))
      return
    readers = (
        ((File, Repository), lambda: snapshot(store, kinds, decode)),
        ((Commit,), lambda: commits.read_commits(store)),
        ((Transition,), lambda: transitions(History(store))),
    )
    # Where the files cannot be read, the history may be, and the other way round.
    for of, read in readers:
      try:
        if set(of) & set(kinds):
          yield from read()
      except GitError as error:
        yield Drop(error.rule, str(error))


def snapshot(
    store: Store, kinds: Collection[type] = (File, Repository), decode: Decode = utf8
) -> Iterator[File | Repository | Drop]:
  """The current files, and the repository as documents of at most MAX_REPOSITORY_BYTES, files in reading order.

  Memory is bounded by one such document. Raises GitError if the repository cannot be read.
  """
  entries = []
  for path, mode, name, size in tree(store, store.head, sizes=True):
    if rule := _unreadable(path, mode, size):
      yield Drop(rule, path.decode(errors='replace'))
    else:
      entries.append((path.decode(), name, size))
  for part in parts(entries, MAX_REPOSITORY_BYTES):
    files = []
    for (path, *_), data in zip(part, store.blobs((name for _, name, _ in part), MAX_FILE_BYTES)):
      text = text_of(data, decode)
      if isinstance(text, Drop):
        yield Drop(text.rule, f'{path} {text.evidence}'.rstrip())
      else:
        files.append((path, text))
    if File in kinds:
      yield from (File(content_id(store.name, path, text), path, text, store.name) for path, text in files)
    if Repository in kinds and files:
      ordered = tuple(imports.reading_order(files))
      yield Repository(content_id(store.name, *itertools.chain(*ordered)), store.name, ordered)


def named_files(store: Store, is_wanted: Callable[[str], bool]) -> Iterator[tuple[str, str]]:
  """(path, text) of the current files whose paths are wanted; raises GitError if the repository cannot be read."""
  entries = [(path.decode(), name) for path, mode, name, size in tree(store, store.head, sizes=True)
             if not _unreadable(path, mode, size) and is_wanted(path.decode())]  # fmt: skip
  for (path, _), data in zip(entries, store.blobs((name for _, name in entries), MAX_FILE_BYTES)):
    if not isinstance(text := text_of(data), Drop):
      yield path, text


def tree(store: Store, commit: str, sizes: bool = False) -> Iterator[tuple[bytes, bytes, str, int]]:
  """(path, mode, hash, size in bytes or -1) of every file of a commit, in git's order; raises GitError."""
  listing = store.run('ls-tree', '-r', '-z', '--full-tree', *(['-l'] if sizes else []), commit)
  for line in listing.split(b'\0')[:-1]:
    head, _, path = line.partition(b'\t')
    mode, _, name, *size = head.split()
    # A submodule has '-', an object that is missing 'BAD'.
    yield path, mode, name.decode(), int(size[0]) if size and size[0].isdigit() else -1


def parts(entries: Sequence[tuple[str, str, int]], limit: int, depth: int = 0) -> Iterator[list[tuple[str, str, int]]]:
  """Parts (path, hash, size) entries into groups of at most `limit` bytes: whole directories, neighbours joined."""
  if sum(size for *_, size in entries) <= limit or len(entries) == 1:
    if entries:
      yield list(entries)
    return
  groups = collections.defaultdict(list)
  for entry in entries:
    folders = entry[0].split('/')
    # A file that lies here is a group of its own.
    groups[folders[depth], len(folders) == depth + 1].append(entry)
  joined: list[tuple[str, str, int]] = []
  room = limit
  for group in groups.values():
    size = sum(size for *_, size in group)
    if size > room and joined:
      yield joined
      joined, room = [], limit
    if size > limit:
      yield from parts(group, limit, depth + 1)
    else:
      joined, room = joined + group, room - size
  if joined:
    yield joined


def text_of(data: bytes | None, decode: Decode = utf8) -> str | Drop:
  """The text of a file as git stores it, None if the store lacks it or it is too large."""
  if data is None:
    return Drop('file: unreadable')
  if b'\0' in data[:_SNIFFED_BYTES]:
    return Drop('file: binary')
  if data.startswith(b'version https://git-lfs.github.com/spec/'):
    return Drop('file: a Git LFS pointer')
  return decode(data)


def _unreadable(path: bytes, mode: bytes, size: int = 0) -> str:
  """The rule by which an entry of a tree is left out without a look at its content, or ''."""
  if mode == b'160000':
    return 'file: a submodule'
  if mode == b'120000':
    return 'file: a symbolic link'
  if size > MAX_FILE_BYTES:
    return 'file: huge'
  if b'\n' in path or b'\r' in path:
    return 'file: a line break in its path'
  try:
    path.decode()
  except UnicodeDecodeError:
    return 'file: a path that is not UTF-8'
  return ''


class History:
  """The first-parent history of a repository, as build/transitions.py asks for it.

  Every method raises GitError if the repository cannot be read.
  """

  def __init__(self, store: Store):
    self.name, self.shallow = store.name, bool(store.boundary)
    self._store = store
    self._texts: collections.OrderedDict[str, str | None] = collections.OrderedDict()
    self._cached = 0

  def times(self) -> list[int]:
    return commits.times(self._store)

  def log(self, count: int) -> Iterator[LogEntry]:
    return commits.log(self._store, count)

  def patch(self, start: str, end: str) -> tuple[str, tuple[tuple[str, str], ...]] | Drop:
    """The patch between two commits and ((path, hash), ...) of the old files it changes.

    Checked with `git apply`: see states.patch.
    """
    return states.patch(self._store, start, end)

  def files(self, commit: str) -> dict[str, str]:
    """Path to hash of the files of a commit that may be text."""
    entries = tree(self._store, commit)
    return {path.decode(): name for path, mode, name, _ in entries if not _unreadable(path, mode)}

  def texts(self, names: Iterable[str]) -> Mapping[str, str]:
    """Text of files by hash; those that are none are missing."""
    wanted = dict.fromkeys(names)
    unknown = [name for name in wanted if name not in self._texts]
    for name, data in zip(unknown, self._store.blobs(unknown, MAX_FILE_BYTES)):
      text = text_of(data)
      self._texts[name] = None if isinstance(text, Drop) else text
      self._cached += len(self._texts[name] or '')
    found = {name: text for name in wanted if (text := self._texts[name]) is not None}
    while self._cached > _CACHE_BYTES:
      self._cached -= len(self._texts.popitem(last=False)[1] or '')
    return found
