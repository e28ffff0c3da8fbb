"""Source text whose strings and comments are blanked out, so that brackets, commas and names can be found by plain search.

A masked text is as long as its source and has the same lines: an offset in one is an offset in the other.
"""

import re
from collections.abc import Iterator

STRING = '\1'  # stands for each character of a string
_CLOSING = {')': '(', ']': '[', '}': '{', '>': '<'}

_QUOTED = r'"(?>[^"\\\n]+|\\.)*+"|\'(?>[^\'\\\n]+|\\.)*+\''
_SLASHES = r'//[^\n]*|/\*(?:.*?\*/|.*)'  # one that is not closed is not searched for again
# A slash begins a regular expression where no value has just ended. Those after a word other than `return` are missed.
# The slash comes first: a pattern whose alternatives all begin with a character is searched many times as fast.
_NO_VALUE = r'(?:(?<=[(,=:\[!&|?{};]/)|(?<=[(,=:\[!&|?{};] /)|(?<=return /))'
_REGEX = '/' + _NO_VALUE + r'(?![*/])(?>\\.|\[(?>\\.|[^\]\\\n])*+\]|[^/\\\n\[])++/'
_JAVASCRIPT = rf'{_SLASHES}|{_QUOTED}|`(?>[^`\\]+|\\.)*+`|{_REGEX}'
_PATTERNS = {
    language: re.compile(pattern, re.DOTALL)
    for language, pattern in {
        'python': '|'.join(
            [r'#[^\n]*', *(rf"{q}(?>[^{q[0]}\\]+|\\.|{q[0]}(?!{q[1:]}))*+{q}" for q in ('"""', "'''")), _QUOTED]
        ),
        'javascript': _JAVASCRIPT,
        'typescript': _JAVASCRIPT,
        'tsx': _JAVASCRIPT,
        'java': rf'{_SLASHES}|"""(?>[^"\\]+|\\.|"(?!""))*+"""|{_QUOTED}',
        'go': rf'{_SLASHES}|{_QUOTED}|`[^`]*`',
    }.items()
}
LANGUAGES = tuple(_PATTERNS)


def with_line_feeds(source: str) -> str:
  """The source with one line feed for whatever ends a line; the rest of this package knows no other."""
  return source.replace('\r\n', '\n').replace('\r', '\n') if '\r' in source else source


def mask(source: str, language: str) -> str:
  """The masked text: comments become blanks, strings become STRING; line ends remain. `language` is one of LANGUAGES."""
  return _PATTERNS[language].sub(_blank, source)


def _blank(match: re.Match) -> str:
  text = match[0]
  filler = ' ' if text[0] == '#' or text[:2] in ('//', '/*') else STRING
  return filler * len(text) if '\n' not in text else '\n'.join(filler * len(line) for line in text.split('\n'))


def unmasked(source: str, masked: str, start: int, end: int) -> str:
  """The source between two offsets, without the blanks and comments at its ends."""
  text = masked[start:end]
  return source[start + len(text) - len(text.lstrip()) : start + len(text.rstrip())]


def occurrences(masked: str, name: str, start: int = 0, end: int | None = None) -> Iterator[int]:
  """Where a name stands as a whole word."""
  end = len(masked) if end is None else end
  place = masked.find(name, start, end)
  while place >= 0:
    after = place + len(name)
    if not _in_word(masked[place - 1 : place]) and not _in_word(masked[after : after + 1]):
      yield place
    place = masked.find(name, after, end)


def _in_word(character: str) -> bool:
  return character.isalnum() or character in ('_', '$')


_BRACKETS = re.compile(r'[()\[\]{}]')
_BRACKETS_AND_ANGLES = re.compile(r'[()\[\]{}<]|(?<![=-])>')


def closing(masked: str, opening: int, end: int | None = None) -> int:
  """Where the bracket that opens at `opening` is closed; -1 if it is not, or by a bracket of another kind."""
  open_brackets = []
  pattern = _BRACKETS_AND_ANGLES if masked[opening] == '<' else _BRACKETS
  for match in pattern.finditer(masked, opening, len(masked) if end is None else end):
    bracket = match[0]
    if bracket not in _CLOSING:
      open_brackets.append(bracket)
    elif not open_brackets or open_brackets.pop() != _CLOSING[bracket]:
      return -1
    if not open_brackets:
      return match.start()
  return -1


def split(masked: str, start: int, end: int, separator: str, angles: bool = False) -> list[tuple[int, int]] | None:
  """(start, end) of the pieces between separators outside brackets; None if brackets do not match.

  Args:
    separator: one character, or several of which each separates.
    angles: whether < and > are brackets, as around the parameters of a type.
  """
  pieces, open_brackets, first = [], [], start
  for place in range(start, end):
    character = masked[place]
    if character in '([{' or angles and character == '<':
      open_brackets.append(character)
    elif character in ')]}' or angles and character == '>' and masked[place - 1] not in '=-':
      if not open_brackets or open_brackets.pop() != _CLOSING[character]:
        return None
    elif character in separator and not open_brackets:
      pieces.append((first, place))
      first = place + 1
  return None if open_brackets else [*pieces, (first, end)]
