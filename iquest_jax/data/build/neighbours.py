"""The files of a repository around those that a change touches: what they import, then those most similar to the change."""

import collections
import functools
import heapq
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from iquest_jax.data.build import patches
from iquest_jax.data.imports import Layout, imported
from iquest_jax.data.languages import LANGUAGES, language_of

# ours: text of the context in bytes; more never fits into a row.
MAX_CONTEXT_BYTES = 2**20
# ours: how many files are compared, those nearest in the tree, and how many are taken.
_MAX_COMPARED, _MAX_TAKEN = 256, 64
_MAX_REMEMBERED = 4096
_GROUP = 32
# ours: the beginning of a long file stands for all of it.
_READ_CHARACTERS = 2**16
# Bytes of no identifier become spaces: many times faster than a pattern.
_SPACED = bytes(byte if byte > 127 or chr(byte).isalnum() or byte == ord('_') else 32 for byte in range(256))

Files = tuple[tuple[str, str], ...]


class Names:
  """Identifiers of files by hash. They are remembered: most files are the same in the next state of a repository."""

  def __init__(self, texts: Callable[[Iterable[str]], Mapping[str, str]]):
    self.texts = texts
    self._known: collections.OrderedDict[str, frozenset[bytes]] = collections.OrderedDict()

  def of(self, hashes: Sequence[str]) -> Iterator[frozenset[bytes]]:
    """The identifiers of each file; a file that is not text has none."""
    for first in range(0, len(hashes), _GROUP):
      group = hashes[first : first + _GROUP]
      texts = self.texts(name for name in group if name not in self._known)
      for name in group:
        if name not in self._known:
          self._known[name] = identifiers(texts.get(name, ''))
        yield self._known[name]
      while len(self._known) > _MAX_REMEMBERED:
        self._known.popitem(last=False)


def identifiers(text: str) -> frozenset[bytes]:
  """Identifiers, words and numbers at the beginning of a text, in UTF-8."""
  return frozenset(text[:_READ_CHARACTERS].encode().translate(_SPACED).split())


def around(files: Files, patch: str, tree: Mapping[str, str], names: Names) -> Files:
  """Files beside `files`, the most useful first: those they import, then those that share most identifiers with the patch.

  Args:
    files: (path, text) that the patch changes; the patch itself speaks for files that it adds.
    tree: path to hash of all files.
  """
  touched = {path for path, _ in files}
  added = [(change.new_path, ''.join(change.new)) for change in patches.changes(patch) if change.new_path not in touched]
  layout = Layout(tree)
  needed = dict.fromkeys(other for path, text in (*files, *added) for other in imported(path, text, layout))
  # Names that are short, and numbers, are in every file.
  telling = frozenset(word for word in identifiers(patch) if len(word) > 2 and not word[:1].isdigit())
  similar = _similar(telling, [path for path, _ in (*files, *added)], tree, names)
  paths = [path for path in dict.fromkeys((*needed, *similar)) if path not in touched]
  return _capped(paths[:_MAX_TAKEN], tree, names)


def _similar(target: frozenset[bytes], touched: Sequence[str], tree: Mapping[str, str], names: Names) -> list[str]:
  """Paths of code, the most similar first; only those nearest to the touched files are compared."""
  here = {path.rpartition('/')[0] for path in touched}
  near = functools.cache(lambda folder: _shared(folder, here))
  candidates = [(-near(path.rpartition('/')[0]), path) for path in tree.keys() - set(touched) if _is_code(path)]
  paths = [path for _, path in heapq.nsmallest(_MAX_COMPARED, candidates)]
  scores = {}
  for path, found in zip(paths, names.of([tree[path] for path in paths])):
    # The cosine of the two sets: a long file shares much with any other.
    if shared := len(target & found):
      scores[path] = shared / math.sqrt(len(target) * len(found))
  return sorted(scores, key=lambda path: (-scores[path], path))


def _shared(folder: str, folders: Iterable[str]) -> int:
  """How many leading folders a folder has in common with the nearest of others."""
  parts = folder.split('/')
  common = lambda other: sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(parts, other.split('/'))))
  return max(map(common, folders), default=0)


@functools.lru_cache(1 << 16)
def _is_code(path: str) -> bool:
  language = LANGUAGES.get(language_of(path))
  return bool(language) and language.kind == 'code'


def _capped(paths: Sequence[str], tree: Mapping[str, str], names: Names) -> Files:
  taken, left = [], MAX_CONTEXT_BYTES
  for path in paths:
    text = names.texts([tree[path]]).get(tree[path], '')
    size = len(text.encode())
    if text.strip() and size <= left:
      taken.append((path, text))
      left -= size
  return tuple(taken)
