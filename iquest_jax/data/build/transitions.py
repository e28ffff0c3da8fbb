"""Transitions: where in a history a meaningful change starts and ends, and the triplet (R_old, P, R_new) that it gives.

Starts lie between 40 % and 80 % of a project's life, one at most in each stretch of the history; from a start the search
runs forward to the end whose change has the best score.
Source: IQuest-Coder-V1 report, pre-training data, repository transitions.
"""

import collections
import dataclasses
import itertools
import math
import random
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol

from iquest_jax.data.build import excerpts, neighbours, patches, significance
from iquest_jax.data.documents import Drop, LogEntry, Transition, content_id
from iquest_jax.text.tokenizer import Tokenizer

LIFE = (0.4, 0.8)
# ours: a shorter history has no life to speak of.
MIN_COMMITS = 10
# ours: commits that a window may span, and that a stretch has, so that neighbouring windows leave each other room.
HORIZON = 16
# ours: the text of all files that a patch changes.
_MAX_OLD_BYTES = 2**22
# Room for the special tokens, newlines and headings of the form.
_FRAME_TOKENS = 32
# ours: lines kept around each hunk if the files are too long to be shown whole, as many as fit.
_RADII = (256, 64, 16, 4)
# ours: with less room left, no further file of the context is shown.
_LEAST_TOKENS = 64


class History(Protocol):
  """What is asked of a repository; read/repositories.py answers it from git.

  Attributes:
    shallow: whether the beginning is missing.
  """

  name: str
  shallow: bool

  def times(self) -> Sequence[int]:
    """When its commits were made, along first parents, the oldest first."""

  def log(self, count: int) -> Iterable[LogEntry]:
    """The newest `count` of them, the oldest first."""

  def patch(self, start: str, end: str) -> tuple[str, Sequence[tuple[str, str]]] | Drop:
    """The verified patch between two commits, and (path, hash) of the old files that it changes."""

  def files(self, commit: str) -> Mapping[str, str]:
    """Path to hash of the files of a commit."""

  def texts(self, names: Iterable[str]) -> Mapping[str, str]:
    """Texts by hash; files that are not text are missing."""


@dataclasses.dataclass(frozen=True)
class Window:
  """A change within a history: the state it starts from, the commits that make it, its score."""

  start: LogEntry
  commits: tuple[LogEntry, ...]
  score: float


def transitions(history: History, seed: int = 0, by: str = 'commits') -> Iterator[Transition | Drop]:
  """The transitions of a repository, spread over its life; a Drop for each stretch of the history that gives none.

  Args:
    by: what a project's life is measured in: 'commits' or 'dates'.
  """
  if history.shallow:
    yield Drop('transition: a shallow clone', history.name)
    return
  times = history.times()
  starts = eligible(times, by)
  if len(times) < MIN_COMMITS or not starts:
    yield Drop('transition: a short history', f'{history.name} has {len(times)} commits')
    return
  rng = random.Random(f'{seed}:{history.name}')
  names = neighbours.Names(history.texts)
  for window in windows(history.log(len(times) - starts.start), len(starts), rng):
    yield window if isinstance(window, Drop) else triplet(history, window, names)


def eligible(times: Sequence[int], by: str = 'commits') -> range:
  """Indices at which a transition may start: within LIFE, by the number of commits or by their dates.

  Raises:
    ValueError: `by` is neither.
  """
  low, high = LIFE
  last = len(times) - 1
  if by == 'commits':
    return range(math.ceil(low * last), math.floor(high * last) + 1) if last > 0 else range(0)
  if by != 'dates':
    raise ValueError(f'a life is measured by commits or dates, got "{by}"')
  # Clocks of authors differ: a commit is never older than those before it.
  dates = list(itertools.accumulate(times, max))
  life = max(dates[-1] - dates[0], 1) if dates else 1
  inside = [index for index, date in enumerate(dates[:-1]) if low <= (date - dates[0]) / life <= high]
  return range(inside[0], inside[-1] + 1) if inside else range(0)


def windows(history: Iterable[LogEntry], starts: int, rng: random.Random) -> Iterator[Window | Drop]:
  """Windows that do not overlap: at most one start in each stretch of about HORIZON commits, tried in random order.

  Args:
    history: the first `starts` commits are possible starts; holds HORIZON commits more, if there are as many. It is read
      as a stream.

  Yields:
    For each stretch a Window, or a Drop if no start in it leads to a meaningful change.
  """
  entries, held, base, free = iter(history), collections.deque(), 0, 0
  stretches = max(1, starts // HORIZON)
  for number in range(stretches):
    low, high = starts * number // stretches, starts * (number + 1) // stretches
    while base < low and held:
      held.popleft()
      base += 1
    held.extend(itertools.islice(entries, high + HORIZON - base - len(held)))
    around = list(held)
    order = list(range(max(low, free), high))
    rng.shuffle(order)
    found = filter(None, (search(around[start - base : start - base + HORIZON + 1]) for start in order))
    if window := next(found, None):
      free = base + next(n for n, entry in enumerate(around) if entry is window.commits[-1])
      yield window
    else:
      first = around[0].hash[:12] if around else ''
      yield Drop('transition: no meaningful change', f'{high - low} commits from {first}')


def search(entries: Sequence[LogEntry]) -> Window | None:
  """The best end for a start: entries[0] is the state before the change, the others are the commits that follow it."""
  best = None
  for end in range(1, len(entries)):
    entry = entries[end]
    if not significance.is_readable(entries[1 : end + 1]) or significance.is_revert(entry):
      break
    if not significance.is_end(entry):
      continue
    value = significance.score(entries[1 : end + 1])
    if value >= significance.MEANINGFUL and (best is None or value > best.score):
      best = Window(entries[0], tuple(entries[1 : end + 1]), value)
  return best


def triplet(history: History, window: Window, names: neighbours.Names) -> Transition | Drop:
  """The transition of a window, with the files around it; a Drop if its patch shows that it is none."""
  start, end = window.start.hash, window.commits[-1].hash
  span = f'{history.name} {start[:12]}..{end[:12]}'
  verified = history.patch(start, end)
  if isinstance(verified, Drop):
    return verified
  patch, old = verified
  if is_formatting(patch):
    return Drop('transition: only formatting', span)
  texts = history.texts(name for _, name in old)
  if any(name not in texts for _, name in old):
    return Drop('transition: an old file is not text', span)
  files = tuple((path, texts[name]) for path, name in old)
  if sum(len(text) for _, text in files) > _MAX_OLD_BYTES:
    return Drop('transition: huge old files', span)
  context = neighbours.around(files, patch, history.files(start), names)
  message = significance.message_of(window.commits)
  return Transition(content_id(message, patch), history.name, message, patch, files, context, (start, end))


def is_formatting(patch: str) -> bool:
  """Whether every file has the same code before and after, but for white space, quotes, commas and parentheses."""
  plain = lambda lines: re.sub(r'''[\s,;'"()\\]+''', '', ''.join(lines))
  return all(plain(file.old) == plain(file.new) and file.old_path == file.new_path for file in patches.changes(patch))


def view(transition: Transition, context: int, tokenizer: Tokenizer, rng: random.Random | None = None) -> Transition:
  """The transition with what fits into `context` tokens; a longer patch stands alone and continues in further rows.

  First come the files that the patch changes: whole; or the lines around its hunks; or not at all, since the patch shows
  the lines that it changes. Then the context, as far as it fits. `rng` is not used: every builder takes one.
  """
  fixed = (transition.repo, transition.message, transition.patch)
  room = max(0, context - _FRAME_TOKENS - sum(excerpts.count(text, tokenizer) for text in fixed))
  files = _touched(transition, room, tokenizer)
  room -= sum(excerpts.tokens(file, tokenizer) for file in files)
  shown = []
  for file in transition.context:
    if room < _LEAST_TOKENS:
      break
    if (size := excerpts.tokens(file, tokenizer, room)) > room:
      file = excerpts.head(file, room, tokenizer)
      size = excerpts.tokens(file, tokenizer)
    if file[1] and size <= room:
      shown.append(file)
      room -= size
  return dataclasses.replace(transition, files=files, context=tuple(shown))


def _touched(transition: Transition, room: int, tokenizer: Tokenizer) -> tuple[tuple[str, str], ...]:
  """The files that the patch changes, whole or around its hunks, in at most `room` tokens."""
  fits = lambda files: sum(excerpts.tokens(file, tokenizer, room) for file in files) <= room
  if room > 0 and fits(transition.files):
    return transition.files
  ranges = {change.old_path: change.ranges for change in patches.changes(transition.patch)}
  for radius in _RADII if room > 0 else ():
    cut = ((path, excerpts.excerpt(text, ranges.get(path, ()), radius)) for path, text in transition.files)
    if fits(files := tuple(file for file in cut if file[1])):
      return files
  return ()
