"""Code out of a model's answer: thinking left out, fenced blocks, or what is left of a text when its prose is dropped.

Everything here takes time linear in the length of the answer and never raises.
"""

import re
from typing import NamedTuple

_TAG, _CLOSE = re.compile('</?think>'), '</think>'
_QUOTE = re.compile('"""|\'\'\'')
# What a fence calls a language, in lower case.
ALIASES = {
    'python': ('python', 'python3', 'py', 'python2'),
    'bash': ('bash', 'sh', 'shell', 'zsh'),
    'sql': ('sql', 'sqlite', 'sqlite3', 'mysql', 'postgresql'),
    'javascript': ('javascript', 'js', 'node', 'jsx', 'mjs'),
    'c': ('c', 'h'),
    'cpp': ('cpp', 'c++', 'cc', 'cxx', 'hpp'),
    'go': ('go', 'golang'),
    'rust': ('rust', 'rs'),
    'java': ('java',),
}
# A line at the left margin that a Python program has and prose has not.
_BEGINS = re.compile(r'(async def|def|class) [^\W\d]\w*|(import|from) [\w.]+($| (import|as) |,)|@[\w.]+|[^\W\d]\w* *= *\S')
_CONTINUES = re.compile(
    r'#|[)\]}]|"""|\'\'\'|(if|elif|for|while|with|try|except|finally|else|assert|return|print|raise|del|global|async)\b.*[:)\]\w]$'
    r'|[^\W\d][\w.]*(\[[^\]]*\])? *([-+*/%&|^]|//|\*\*|>>|<<)?= *\S|[^\W\d][\w.]*\('
)


class Block(NamedTuple):
  """A fenced block: the first word after its fence, in lower case, and its text."""

  language: str
  text: str


def without_thinking(answer: str) -> str:
  """The answer without <think> spans. One that is not closed reaches to the end; one that is not opened, to the start.

  The latter is what a model writes whose prompt already ends with <think>.
  """
  kept, at, inside = [], 0, False
  for tag in _TAG.finditer(answer):
    if tag[0] == _CLOSE and not inside:
      kept = []
    elif tag[0] != _CLOSE and not inside:
      kept.append(answer[at : tag.start()])
    inside, at = tag[0] != _CLOSE, tag.end()
  return ''.join(kept if inside else [*kept, answer[at:]])


def blocks(text: str) -> list[Block]:
  """The fenced blocks of a text in order: of backticks or tildes, indented or not; the last one may be cut off."""
  found, fence, language, margin, lines = [], '', '', 0, []
  for line in _lines(text):
    if not fence:
      if opening := _opening(line):
        fence, language, margin = opening
        lines = []
    elif line.strip().startswith(fence) and not line.strip().strip(fence[0]):
      found.append(Block(language, _joined(lines)))
      fence = ''
    else:
      indent = len(line) - len(line.lstrip(' '))
      lines.append(line[min(margin, indent) :])
  if fence and any(line.strip() for line in lines):
    found.append(Block(language, _joined(lines)))
  return found


def code(answer: str, language: str = 'python', defines: str = '') -> str:
  """The program of an answer; empty if it has none.

  Of fenced blocks, the last of this language (or of no stated language) that defines `defines`, otherwise the last one;
  blocks of other languages count only where there are no others. Without a fence, the lines from the first that looks
  like Python to the last before prose begins; in other languages the whole text.

  Args:
    defines: name of a function or class that the program should define; empty if any will do.
  """
  text = without_thinking(answer)
  if found := blocks(text):
    mine = [block for block in found if block.language in ('', *ALIASES.get(language, (language,)))] or found
    defining = [block for block in mine if defines and _defines(block.text, defines)]
    return (defining or mine)[-1].text
  if language != 'python':
    return _joined([text.strip()]) if text.strip() else ''
  return _python_lines(text)


def _defines(text: str, name: str) -> bool:
  return re.search(rf'(?:^|\n)[ \t]*(?:async def|def|class)[ \t]+{re.escape(name)}\b', text) is not None


def _opening(line: str) -> tuple[str, str, int] | None:
  """(fence, language, its indentation) if a line opens a block, also after words: `Here it is: ```python`."""
  stripped = line.strip()
  margin = len(line) - len(line.lstrip(' '))
  if stripped.startswith('~~~'):
    info = stripped.lstrip('~')
    return stripped[: len(stripped) - len(info)], _first_word(info), margin
  end = stripped.rfind('`') + 1
  before = stripped[:end].rstrip('`')
  fence = stripped[len(before) : end]
  if len(fence) < 3 or '```' in before:
    return None
  return fence, _first_word(stripped[end:]), 0 if before.strip() else margin


def _first_word(info: str) -> str:
  return (info.replace('{', ' ').replace('}', ' ').replace(',', ' ').split() or [''])[0].lower().lstrip('.')


def _lines(text: str) -> list[str]:
  """Lines as a compiler counts them: str.splitlines would also cut at form feeds and Unicode's separators."""
  return text.replace('\r\n', '\n').removesuffix('\n').split('\n')


def _joined(lines: list[str]) -> str:
  return ''.join(f'{line}\n' for line in lines)


def _python_lines(text: str) -> str:
  """The part of a text without fences that looks like Python."""
  kept, quoted = [], ''
  for line in _lines(text):
    inside = bool(quoted)
    quoted = _open_quote(line, quoted)
    at_margin = line[:1].strip() != ''
    if kept and not inside and at_margin and not (_BEGINS.match(line) or _CONTINUES.match(line)):
      break
    if kept or _BEGINS.match(line):
      kept.append(line)
    else:
      quoted = ''  # quotation marks of prose
  while kept and not kept[-1].strip():
    kept.pop()
  return _joined(kept)


def _open_quote(line: str, quoted: str) -> str:
  """The triple quotation mark that is open after a line, given the one open before it."""
  for mark in _QUOTE.findall(line):
    quoted = mark if not quoted else '' if mark == quoted else quoted
  return quoted
