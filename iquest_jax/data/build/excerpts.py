"""Fits a transition to a row: the whole patch, the files that it changes, then as much context as there is room for."""

import dataclasses
import random
from collections.abc import Sequence

from iquest_jax.data.build import patches
from iquest_jax.data.documents import Drop, Transition
from iquest_jax.text.tokenizer import Tokenizer

# Room for the special tokens, newlines and headings of the form, and for those of each file.
_FRAME_TOKENS, _FILE_TOKENS = 32, 4
# ours: lines kept around each hunk if the files are too long to be shown whole, as many as fit.
_RADII = (256, 64, 16, 4)
# ours: stands for the lines between two excerpts.
GAP = '...\n'
# A text longer than this cannot fit: tokens are seldom longer. It saves encoding it.
_MAX_CHARACTERS_PER_TOKEN = 12
# ours: the first lines of a file are worth showing if there are at least as many tokens.
_LEAST_TOKENS = 64


def view(transition: Transition, context: int, tokenizer: Tokenizer, rng: random.Random | None = None) -> Transition | Drop:
  """The transition with what fits into `context` tokens; a Drop if the patch alone does not.

  Files that do not fit together are cut to the lines around the hunks, and left out if those are too long as well: the
  patch shows the lines it changes. `rng` is not used: every builder takes one.
  """
  fixed = (transition.repo, transition.message, transition.patch)
  room = context - _FRAME_TOKENS - sum(_count(text, tokenizer) for text in fixed)
  if room < 0:
    return Drop('transition: the patch is longer than a row', transition.id)
  files = _touched(transition, room, tokenizer)
  room -= sum(_tokens(file, tokenizer) for file in files)
  shown = []
  for file in transition.context:
    if room < _LEAST_TOKENS:
      break
    if (size := _tokens(file, tokenizer, room)) > room:
      file = (file[0], _head(file[1], room - _FILE_TOKENS - _count(file[0], tokenizer), tokenizer))
      size = _tokens(file, tokenizer)
    if file[1] and size <= room:
      shown.append(file)
      room -= size
  return dataclasses.replace(transition, files=files, context=tuple(shown))


def _touched(transition: Transition, room: int, tokenizer: Tokenizer) -> tuple[tuple[str, str], ...]:
  """The files that the patch changes, whole or around its hunks, in at most `room` tokens."""
  fits = lambda files: sum(_tokens(file, tokenizer, room) for file in files) <= room
  if fits(transition.files):
    return transition.files
  ranges = {change.old_path: change.ranges for change in patches.changes(transition.patch)}
  for radius in _RADII:
    files = tuple((path, excerpt(text, ranges.get(path, ()), radius)) for path, text in transition.files)
    files = tuple(file for file in files if file[1])
    if fits(files):
      return files
  return ()


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


def _head(text: str, room: int, tokenizer: Tokenizer) -> str:
  """The first lines of a text that fill at most `room` tokens."""
  lines = text[: max(room, 0) * _MAX_CHARACTERS_PER_TOKEN].splitlines(keepends=True)
  while lines and (size := _count(''.join(lines), tokenizer)) > room:
    lines = lines[: min(len(lines) - 1, len(lines) * room // size)]
  return ''.join(lines)


def _tokens(file: tuple[str, str], tokenizer: Tokenizer, enough: int | None = None) -> int:
  """Tokens of a file with its path; more than `enough` if it is clear that there are more."""
  path, text = file
  if enough is not None and len(text) > enough * _MAX_CHARACTERS_PER_TOKEN:
    return enough + 1
  return _count(path, tokenizer) + _count(text, tokenizer) + _FILE_TOKENS


def _count(text: str, tokenizer: Tokenizer) -> int:
  return len(tokenizer.encode(text))
