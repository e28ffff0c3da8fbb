"""What of a file or a repository fits into a row beside a completion: an excerpt, and excerpts of the most similar files.

Source: IQuest-Coder-V1 report, mid-training: half of the file and repository level documents are completions.
"""

import ast
import bisect
import itertools
import random
import re

from iquest_jax.data.build import fim
from iquest_jax.data.documents import File, FimSplit, Repository, RepositoryView
from iquest_jax.text.tokenizer import Tokenizer

FIM_SHARE = 0.5
# Room for the special tokens and newlines of a completion, and for the tokens that its two cuts split.
_FRAME_TOKENS = 32
# Code seldom has more characters per token; a first guess, shortened until it fits.
_CHARACTERS_PER_TOKEN = 4


def file(document: File, context: int, tokenizer: Tokenizer, rng: random.Random) -> File | FimSplit:
  """The file itself, or, for half of the files, a completion of an excerpt that fits into `context` tokens."""
  if rng.random() >= FIM_SHARE:
    return document
  text = _excerpt(document.text, context - _FRAME_TOKENS, tokenizer, rng)
  return _split(text, rng) if text else document


def repository(document: Repository, context: int, tokenizer: Tokenizer, rng: random.Random) -> RepositoryView:
  """All files in reading order, or, for half of the repositories, a completion that fits into `context` tokens.

  A completion gives half of the room to the file itself and a quarter to each of the two files most similar to it.
  """
  completes = rng.random() < FIM_SHARE
  path, text = rng.choice(document.files)
  room = context - _FRAME_TOKENS - len(tokenizer.encode(document.name)) - len(tokenizer.encode(path))
  if not completes or room <= 0:
    *before, (path, text) = document.files
    return RepositoryView(document.name, tuple(before), path, text)
  text = _excerpt(text, room // 2, tokenizer, rng)
  others = [other for other in document.files if other[0] != path]
  snippets = []
  for other, content in sorted(others, key=lambda other: _similarity(text, other[1]))[-2:]:
    if snippet := _excerpt(content, room // 4 - len(tokenizer.encode(other)), tokenizer, rng):
      snippets.append((other, snippet))
  return RepositoryView(document.name, tuple(snippets), path, _split(text, rng))


def _split(text: str, rng: random.Random) -> FimSplit:
  return fim.split(text, rng.choice(fim.LEVELS), rng)


def _excerpt(text: str, room: int, tokenizer: Tokenizer, rng: random.Random) -> str:
  """Whole lines of a text that fill at most `room` tokens; starts at a definition if the text is Python."""
  limit = max(room, 0) * _CHARACTERS_PER_TOKEN
  lines = text.splitlines(keepends=True)
  if len(text) > limit:
    lines = lines[rng.choice(_good_starts(text, len(lines))) :]
  sizes = itertools.accumulate(map(len, lines))
  lines = lines[: bisect.bisect_right(list(sizes), limit)]
  while lines and len(tokenizer.encode(''.join(lines))) > room:
    lines = lines[: len(lines) * 4 // 5]
  return ''.join(lines)


def _good_starts(text: str, lines: int) -> list[int]:
  """Line indices at which an excerpt may start; never empty."""
  try:
    starts = [node.lineno - 1 for node in ast.parse(text).body]
  except (SyntaxError, ValueError, RecursionError, MemoryError):
    starts = list(range(lines))
  return [start for start in starts if start < lines] or [0]


def _similarity(left: str, right: str) -> float:
  """Jaccard index of the names in two texts."""
  a, b = (set(re.findall(r'[^\W\d]\w{2,}', text)) for text in (left, right))
  return len(a & b) / max(len(a | b), 1)
