"""What an assistant writes, split into thinking, content and calls while it comes, as text/chat.py splits the whole."""

import re
from typing import Any, NamedTuple

from iquest_jax.text import chat

THINKING, CONTENT, CALL = 'thinking', 'content', 'call'
_END_OF_THINKING, _END_OF_CALL = '</think>', '</tool_call>'


class Part(NamedTuple):
  """A piece of thinking or content, or a whole call ({'name', 'arguments'})."""

  kind: str
  value: Any


class Splitter:
  """Takes a text piece by piece.

  What `chat.parse` reports as a problem stays in the content as it was written: a call that is malformed or not closed.
  """

  def __init__(self, calls: bool):
    """Calls are told apart from content only if the assistant has tools."""
    self._opening = re.compile(r'<think>|\n?<tool_call>' if calls else '<think>')
    self._begun = ('<think>', '\n<tool_call>', '<tool_call>') if calls else ('<think>',)
    # The text not yet given out, the kind of span it is in, how that was opened, and whether a newline is layout.
    self._rest, self._kind, self._opened, self._skips = '', CONTENT, '', False
    self._spans = 0

  def add(self, text: str, last: bool = False) -> list[Part]:
    """The parts that a piece of text makes certain; with the last piece, all that is left."""
    self._rest += text
    parts = []
    while (step := self._step(last)) is not None:
      parts += step
    return [part for part in parts if part.value]

  def _step(self, last: bool) -> list[Part] | None:
    """Takes one span or piece off the rest; None if nothing is left that is certain."""
    if self._skips and self._rest:
      self._rest, self._skips = self._rest.removeprefix('\n'), False
    if not self._rest and not (last and self._kind == CALL):
      return None
    return {CONTENT: self._content, THINKING: self._thinking, CALL: self._call}[self._kind](last)

  def _content(self, last: bool) -> list[Part] | None:
    if found := self._opening.search(self._rest):
      before, self._opened, self._rest = self._rest[: found.start()], found[0], self._rest[found.end() :]
      if found[0] != '<think>':
        self._kind = CALL
        return [Part(CONTENT, before)]
      self._kind, self._skips, self._spans = THINKING, True, self._spans + 1
      return [Part(CONTENT, before), Part(THINKING, '\n' if self._spans > 1 else '')]
    return self._certain(CONTENT, 0 if last else _begun(self._rest, self._begun))

  def _thinking(self, last: bool) -> list[Part] | None:
    at = self._rest.find(_END_OF_THINKING)
    if at >= 0:
      thinking, self._rest = self._rest[:at], self._rest[at + len(_END_OF_THINKING) :]
      self._kind, self._skips = CONTENT, True
      return [Part(THINKING, thinking.removesuffix('\n'))]
    if last:
      thinking, self._rest = self._rest.removesuffix('\n'), ''
      return [Part(THINKING, thinking)]
    return self._certain(THINKING, _begun(self._rest, (_END_OF_THINKING, '\n' + _END_OF_THINKING)))

  def _call(self, last: bool) -> list[Part] | None:
    at = self._rest.find(_END_OF_CALL)
    if at < 0 and not last:
      return None
    end = at + len(_END_OF_CALL) if at >= 0 else len(self._rest)
    written, self._rest, self._kind = self._opened + self._rest[:end], self._rest[end:], CONTENT
    calls = chat.parse(written).tool_calls
    return [Part(CALL, call) for call in calls] or [Part(CONTENT, written)]

  def _certain(self, kind: str, held: int) -> list[Part] | None:
    """Gives out all of the rest but its last `held` characters."""
    certain, self._rest = self._rest[: len(self._rest) - held], self._rest[len(self._rest) - held :]
    return [Part(kind, certain)] if certain else None


def _begun(text: str, tags: tuple[str, ...]) -> int:
  """How many characters at the end of a text may begin one of the tags."""
  return max((n for tag in tags for n in range(1, len(tag)) if text.endswith(tag[:n])), default=0)
