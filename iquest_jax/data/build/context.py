"""What of a file or a repository fits into a row beside a completion: an excerpt, and excerpts of the most useful files.

Source: IQuest-Coder-V1 report, mid-training: half of the file and repository level documents are completions.
"""

import collections
import functools
import itertools
import math
import random
from collections.abc import Callable, Iterable, Iterator, Sequence

from iquest_jax.data import syntax
from iquest_jax.data.build import excerpts, fim
from iquest_jax.data.build.neighbours import identifiers
from iquest_jax.data.documents import File, FimSplit, Repository, RepositoryView
from iquest_jax.data.imports import Layout, imported
from iquest_jax.data.languages import language_of
from iquest_jax.text.tokenizer import Tokenizer

# Room for the special tokens and newlines of a completion, and for the tokens that its two cuts split.
_FRAME_TOKENS = 32
# Code seldom has more characters per token; a first guess, shortened until it fits.
_CHARACTERS_PER_TOKEN = 4
# ours: more files are not tried, however small they are.
_MAX_FILES = 64

_Parse = Callable[[], syntax.Tree | None]
_Files = Sequence[tuple[str, str]]


def file(
    document: File, context: int, tokenizer: Tokenizer, rng: random.Random, proportions: fim.Proportions
) -> File | FimSplit:
  """The file itself, or, for a share of the files, a completion of an excerpt that fits into `context` tokens.

  A file that is empty, or whose lines do not fit, is never completed.
  """
  if rng.random() >= proportions.share:
    return document
  parse = _parser(document.path, document.text)
  text, first_byte = _excerpt(('', document.text), context - _FRAME_TOKENS, tokenizer, rng, parse)
  return fim.complete(text, proportions, rng, parse, first_byte) if text else document


def repository(
    document: Repository,
    context: int,
    tokenizer: Tokenizer,
    rng: random.Random,
    proportions: fim.Proportions,
) -> list[RepositoryView]:
  """All files in reading order, or, for a share of the repositories, completions that fit into `context` tokens each.

  There are about as many completions as all files would fill rows, each in another file, so that the share of the
  repositories is also about the share of what is learned.

  A completion gives at most half of the room to the file itself. The rest goes to files that it imports or that import it
  and to those most similar to it, the most useful last, at most a quarter of the room to each. None of them holds three
  consecutive lines of the middle, blank lines and indentation aside.
  """
  targets = [file for file in document.files if file[1]]
  if rng.random() < proportions.share and targets:
    rows = sum(len(text) for _, text in targets) // (context * _CHARACTERS_PER_TOKEN)
    room = context - _FRAME_TOKENS - excerpts.count(document.name, tokenizer)
    alike, views = _Similarity(document.files), []
    for path, text in rng.sample(targets, min(max(rows, 1), len(targets))):
      parse = _parser(path, text)
      target, first_byte = _excerpt((path, text), room // 2, tokenizer, rng, parse)
      if target:
        split = fim.complete(target, proportions, rng, parse, first_byte)
        left = room - excerpts.tokens((path, target), tokenizer)
        shown = tuple(_shown(alike.others(split, path), split, room // 4, left, tokenizer, rng))
        views.append(RepositoryView(document.name, shown[::-1], path, split))
    if views:
      return views
  *before, (path, text) = document.files
  return [RepositoryView(document.name, tuple(before), path, text)]


def _shown(
    others: _Files, split: FimSplit, most: int, left: int, tokenizer: Tokenizer, rng: random.Random
) -> Iterator[tuple[str, str]]:
  """Excerpts of `most` tokens each until no more of `left` tokens are left, without three lines of the middle."""
  secret = _triples(_whole_lines(split)) | _triples(split.middle)
  for path, text in itertools.islice(others, _MAX_FILES):
    if left < most // 8:  # a few lines of one more file are worth little
      return
    snippet, _ = _excerpt((path, text), min(most, left), tokenizer, rng, _parser(path, text))
    snippet = _without(snippet, secret)
    if snippet.strip():
      left -= excerpts.tokens((path, snippet), tokenizer)
      yield path, snippet


class _Similarity:
  """Which files of a repository are useful beside a completion.

  ours: files that the target imports, or that import it, come before others; within both, the cosine of identifiers
  decides, rare ones weighing more. The middle is not looked at, since nobody who completes code knows it.
  """

  def __init__(self, files: _Files):
    self._files = files
    self._names = {path: identifiers(text) for path, text in files}
    count = collections.Counter(itertools.chain.from_iterable(self._names.values()))
    # Integers, so that no sum depends on the order of a set.
    self._weight = {name: round(1e6 * math.log(1 + len(files) / times) ** 2) for name, times in count.items()}
    self._norm = {path: math.sqrt(self._size(found) or 1) for path, found in self._names.items()}
    self._layout = Layout(self._names)

  def _size(self, names: Iterable[str]) -> int:
    return sum(self._weight.get(name, 0) for name in names)

  def others(self, split: FimSplit, path: str) -> list[tuple[str, str]]:
    """The other files, the most useful first; those that have nothing in common with the target are left out."""
    target = identifiers(split.prefix) | identifiers(split.suffix)
    # The cosine, but for the norm of the target, which is the same for all.
    cosine = {other: self._size(target & found) / self._norm[other] for other, found in self._names.items()}
    related = set(imported(path, f'{split.prefix}\n{split.suffix}', self._layout))
    texts = {other: text for other, text in self._files if other != path and (cosine[other] or other in related)}
    ranked = sorted(texts, key=lambda other: -cosine[other])
    related |= {other for other in ranked[:_MAX_FILES] if path in imported(other, texts[other], self._layout)}
    return [(other, texts[other]) for other in sorted(ranked, key=lambda other: other not in related)]


def _excerpt(
    file: tuple[str, str], room: int, tokenizer: Tokenizer, rng: random.Random, parse: _Parse
) -> tuple[str, int]:
  """Whole lines of a file that fill at most `room` tokens with its path, and the byte of the file they start at.

  They start at the first line or, if the file is longer, at a definition; at any line if the language has no grammar.
  """
  path, text = file
  limit = room * _CHARACTERS_PER_TOKEN
  if limit <= 0:
    return '', 0
  first_byte = 0
  if len(text) > limit:
    first, first_byte = _start(text, limit, rng, parse)
    rest = len(text) - first
    text = text[first : first + limit]
    text = text[: text.rfind('\n') + 1] if rest > limit else text
  # No token is shorter than a byte.
  if len(syntax.encode(path + text)) > room:
    _, text = excerpts.head((path, text), room, tokenizer)
  return text, first_byte


def _start(text: str, limit: int, rng: random.Random, parse: _Parse) -> tuple[int, int]:
  """Character and byte of a line at which an excerpt may start, so that it reaches half of its limit if it can."""
  data = syntax.encode(text)
  if (tree := parse()) and (found := syntax.definitions(tree)):
    offsets = sorted({data.rfind(b'\n', 0, offset) + 1 for offset in found})
  else:
    offsets = list(itertools.accumulate(map(len, data.splitlines(keepends=True)), initial=0))[:-1]
  start = rng.choice([offset for offset in offsets if offset <= len(data) - limit // 2] or offsets)
  return len(syntax.decode(data[:start])), start


def _parser(path: str, text: str) -> _Parse:
  """Parses a file when it is first called for, and once."""
  return functools.cache(lambda: syntax.parse(text, language_of(path, text)))


def _whole_lines(split: FimSplit) -> str:
  """The middle with the rest of its first and its last line."""
  before = split.prefix[split.prefix.rfind('\n') + 1 :]
  after = '' if split.middle.endswith('\n') else split.suffix.partition('\n')[0]
  return before + split.middle + after


def _triples(text: str) -> set[tuple[str, str, str]]:
  """Three consecutive lines each, blank lines and indentation aside."""
  lines = [line for line in map(str.strip, text.splitlines()) if line]
  return set(zip(lines, lines[1:], lines[2:]))


def _without(text: str, secret: set[tuple[str, str, str]]) -> str:
  """The longest run of lines of a text that belong to no triple of `secret`."""
  if secret.isdisjoint(_triples(text)):
    return text
  lines = text.splitlines(keepends=True)
  filled = [i for i, line in enumerate(lines) if line.strip()]
  leaks = {i for triple in zip(filled, filled[1:], filled[2:]) for i in triple
           if tuple(lines[j].strip() for j in triple) in secret}  # fmt: skip
  borders = [-1, *sorted(leaks), len(lines)]
  runs = [''.join(lines[start + 1 : end]) for start, end in itertools.pairwise(borders)]
  return max(runs, key=lambda run: len(run.strip()))
