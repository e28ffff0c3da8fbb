"""Fits files to a number of tokens: whole, around some of their lines, or their first lines."""

from collections.abc import Sequence

from iquest_jax.text.tokenizer import Tokenizer

# Room for the special token, newline and heading of a file.
_FILE_TOKENS = 4
# A text longer than this cannot fit: tokens are seldom longer. It saves encoding it.
_MAX_CHARACTERS_PER_TOKEN = 12
# ours: stands for the lines between two excerpts.
GAP = '...\n'


def excerpt(text: str, ranges: Sequence[tuple[int, int]], radius: int) -> str:
  """The lines of a text around (first, count) ranges of lines, with GAP for what is between; '' if there are no ranges."""
  lines = text.split('\n')
  lines = [line + '\n' for line in lines[:-1]] + ([lines[-1]] if lines[-1] else [])
  kept: list[list[int]] = []
  for first, count in ranges:
    low, high = max(0, first - 1 - radius), min(len(lines), first - 1 + count + radius)
    if kept and low <= kept[-1][1]:
      kept[-1][1] = max(high, kept[-1][1])
    elif low < high:
      kept.append([low, high])
  pieces = [''.join(lines[low:high]) for low, high in kept]
  before = GAP if kept and kept[0][0] > 0 else ''
  after = GAP if kept and kept[-1][1] < len(lines) else ''
  return before + GAP.join(pieces) + after


def head(file: tuple[str, str], room: int, tokenizer: Tokenizer) -> tuple[str, str]:
  """A file with as many of its first lines as fit into `room` tokens."""
  path, text = file
  room -= _FILE_TOKENS + count(path, tokenizer)
  lines = text[: max(room, 0) * _MAX_CHARACTERS_PER_TOKEN].splitlines(keepends=True)
  while lines and (size := count(''.join(lines), tokenizer)) > room:
    lines = lines[: min(len(lines) - 1, len(lines) * room // size)]
  return path, ''.join(lines)


def tokens(file: tuple[str, str], tokenizer: Tokenizer, enough: int | None = None) -> int:
  """Tokens of a file with its path; more than `enough` if it is clear that there are more."""
  path, text = file
  if enough is not None and len(text) > enough * _MAX_CHARACTERS_PER_TOKEN:
    return enough + 1
  return count(path, tokenizer) + count(text, tokenizer) + _FILE_TOKENS


def count(text: str, tokenizer: Tokenizer) -> int:
  return len(tokenizer.encode(text))
