"""Which source is rendered how: one document in, one example out."""

import ast
import bisect
import dataclasses
import itertools
import random
import re
from collections.abc import Callable

from iquest_jax.data import commits, fim
from iquest_jax.data.documents import Document
from iquest_jax.errors import UserError, nearest
from iquest_jax.text import chat, tokenizer
from iquest_jax.text.example import Example, Segment, Structure, build
from iquest_jax.text.tokenizer import Tokenizer

# IQuest-Coder-V1 report, mid-training: half of the file and repository level documents of mid-training are completions.
FIM_SHARE = 0.5
# Room for the structure tokens and newlines of a completion, and for the tokens that its two cuts split.
_FRAME_TOKENS = 32
# Code seldom has more characters a token; a first guess, shortened until it fits.
_CHARACTERS_PER_TOKEN = 4


@dataclasses.dataclass(frozen=True)
class Format:
  """How the documents of a source become examples.

  Attributes:
    segments: (document, context in tokens, tokenizer, rng) -> segments.
    whole: whether an example longer than a row is dropped; otherwise it goes on in further rows.
  """

  segments: Callable[[Document, int, Tokenizer, random.Random], list[Segment]]
  whole: bool = False


def render(source: str, document: Document, tok: Tokenizer, context: int, seed: int) -> Example:
  """Formats a document that `check` let pass; the chance in it depends on the seed and the document's id alone."""
  rng = random.Random(f'{seed}:{source}:{document.id}')
  return build(tok, format_of(source).segments(document, context, tok, rng))


def check(source: str, document: Document) -> None:
  """Raises UserError where a document is not of the kind that the format of its source needs."""
  needed = 'messages' if format_of(source).segments is _chat else 'files'
  if not getattr(document, needed):
    raise UserError(f'documents: "{document.id}" of "{source}" has no {needed}; its format needs them')
  if source == 'code_edit' and dict(document.files).keys() != {'message', 'patch'}:
    raise UserError(f'documents: "{document.id}" of "{source}" is no commit; its files are "message" and "patch"')


def format_of(source: str) -> Format:
  """The format of a source; UserError with the nearest name where there is no such source."""
  if source not in FORMATS:
    raise UserError(f'data: unknown source "{source}"{nearest(source, FORMATS)}')
  return FORMATS[source]


def _text(document: Document, context: int, tok: Tokenizer, rng: random.Random) -> list[Segment]:
  del context, tok, rng
  text = '\n'.join(text for _, text in document.files)
  return [(text, 1.0), (Structure(tokenizer.END_OF_TEXT), 1.0)]


def _file(document: Document, context: int, tok: Tokenizer, rng: random.Random) -> list[Segment]:
  if rng.random() >= FIM_SHARE:
    return _text(document, context, tok, rng)
  text = _excerpt(document.files[0][1], context - _FRAME_TOKENS, tok, rng)
  if not text:
    return _text(document, context, tok, rng)
  return fim.file_segments(fim.split(text, rng.choice(fim.LEVELS), rng))


def _repository(document: Document, context: int, tok: Tokenizer, rng: random.Random) -> list[Segment]:
  completes = rng.random() < FIM_SHARE
  path, text = rng.choice(document.files)
  room = context - _FRAME_TOKENS - len(tok.encode(document.repo)) - len(tok.encode(path))
  if not completes or room <= 0:
    *before, last = document.files
    return fim.repository_segments(document.repo, before, last)
  # Half of the room for the file itself, a quarter for each of the two files most like it.
  text = _excerpt(text, room // 2, tok, rng)
  others = [file for file in document.files if file[0] != path]
  snippets = []
  for other, content in sorted(others, key=lambda file: _similarity(text, file[1]))[-2:]:
    if snippet := _excerpt(content, room // 4 - len(tok.encode(other)), tok, rng):
      snippets.append((other, snippet))
  split = fim.split(text, rng.choice(fim.LEVELS), rng)
  return fim.repository_segments(document.repo, snippets, (path, split))


def _chat(document: Document, context: int, tok: Tokenizer, rng: random.Random) -> list[Segment]:
  del context, tok, rng
  return chat.segments(document.messages)


def _code_edit(document: Document, context: int, tok: Tokenizer, rng: random.Random) -> list[Segment]:
  del context, tok, rng
  return chat.segments(commits.as_edit(document))


def _excerpt(text: str, room: int, tok: Tokenizer, rng: random.Random) -> str:
  """Whole lines of a text that fill at most `room` tokens; from the start of a definition where the text is Python."""
  limit = max(room, 0) * _CHARACTERS_PER_TOKEN
  lines = text.splitlines(keepends=True)
  if len(text) > limit:
    lines = lines[rng.choice(_good_starts(text, len(lines))) :]
  sizes = itertools.accumulate(map(len, lines))
  lines = lines[: bisect.bisect_right(list(sizes), limit)]
  while lines and len(tok.encode(''.join(lines))) > room:
    lines = lines[: len(lines) * 4 // 5]
  return ''.join(lines)


def _good_starts(text: str, lines: int) -> list[int]:
  """Line indices at which an excerpt may start; 0 is always one, so that there is a choice."""
  try:
    starts = [node.lineno - 1 for node in ast.parse(text).body]
  except (SyntaxError, ValueError, RecursionError, MemoryError):
    starts = list(range(lines))
  return [start for start in starts if start < lines] or [0]


def _similarity(left: str, right: str) -> float:
  """Share of common names (Jaccard)."""
  a, b = (set(re.findall(r'[^\W\d]\w{2,}', text)) for text in (left, right))
  return len(a & b) / max(len(a | b), 1)


FORMATS = {
    'web_text': Format(_text),
    'code': Format(_text),
    'code_high_quality': Format(_text),
    'facts': Format(_text),
    'stage1': Format(_text),
    'replay': Format(_text),
    'commits': Format(_text),
    'file_level': Format(_file),
    'repository_level': Format(_repository),
    'reasoning_qa': Format(_chat, whole=True),
    'agent_trajectories': Format(_chat, whole=True),
    'chat_instruct': Format(_chat, whole=True),
    'chat_thinking': Format(_chat, whole=True),
    'reasoning_thinking': Format(_chat, whole=True),
    'code_edit': Format(_code_edit, whole=True),
}
