"""What documentation says of a function in so many words: what it returns, and when it raises an error.

Documentation comes without comment signs, as lines. Understood are first sentences that begin with 'Returns', tags
(`@return`, `@throws`, `:raises X:`), and the sections of Google's and numpy's conventions.
"""

import re
from collections.abc import Iterator

_RETURNS = re.compile(r'returns?\s+', re.IGNORECASE)
_RESULT = re.compile(r'\b(?:return|yield)', re.IGNORECASE)
_TAG = re.compile(r'@returns?\s+(?:\{(?!@)[^}\n]*\}\s*)?')
_THROWS = re.compile(r'@(?:throws|exception)\s+\{?([\w.]+)\}?\s+(.*)')
_RAISES = re.compile(r':raises?\s+([\w.]+):\s*(.*)')
_CONDITION = re.compile(r'-?\s*((?:if|when|unless)\s.*)', re.IGNORECASE)
_ENTRY = re.compile(r'([A-Z]\w+):\s+(.*)')


def result(lines: list[str], name: str = '', tagged: bool = False) -> str:
  """What is returned, '' if that is not said in so many words.

  Args:
    name: what the first sentence may begin with, as in Go.
    tagged: whether a tag says it, as in Java and JavaScript, rather than the first sentence.
  """
  if not tagged:
    first = ' '.join(_paragraph(lines))
    first = first.removeprefix(name).lstrip() if name else first
    match = _RETURNS.match(first)
    once = len(_RESULT.findall('\n'.join(lines))) == 1
    return _sentence(first[match.end() :]) if match and once else ''
  tags = [number for number, line in enumerate(lines) if _TAG.match(line.strip())]
  if len(tags) != 1:
    return ''
  text = ' '.join(_paragraph(lines[tags[0] :]))
  return _sentence(text[_TAG.match(text).end() :])


def errors(lines: list[str]) -> Iterator[tuple[str, str]]:
  """(name of the error, condition) of each error that is documented with 'if', 'when' or 'unless'."""
  section, indent = False, 0
  for number, line in enumerate(lines):
    bare = line.strip()
    if tag := _THROWS.match(bare) or _RAISES.match(bare):
      text = ' '.join(_paragraph(lines[number:]))
      yield from _with_condition(tag[1], text[text.index(tag[1]) + len(tag[1]) :].lstrip('}: '))
    elif bare in ('Raises:', 'Raises'):
      section, indent = True, len(line) - len(line.lstrip())
    elif section and bare and not set(bare) <= {'-'}:
      depth = len(line) - len(line.lstrip())
      numpy_entry = re.fullmatch(r'[A-Z]\w+', bare) and number + 1 < len(lines) and _depth(lines[number + 1]) > depth
      if depth < indent or depth == indent and not numpy_entry:
        section = False
      elif entry := _ENTRY.match(bare):
        yield from _with_condition(entry[1], ' '.join([entry[2], *_deeper(lines[number + 1 :], depth)]))
      elif numpy_entry:
        yield from _with_condition(bare, ' '.join(_deeper(lines[number + 1 :], depth)))


def _with_condition(error: str, text: str) -> Iterator[tuple[str, str]]:
  match = _CONDITION.match(text)
  if match and (condition := _sentence(match[1])):
    yield error, condition


def _paragraph(lines: list[str]) -> list[str]:
  """The first lines, up to a blank one, a tag or the heading of a section."""
  found = []
  for line in lines:
    bare = line.strip()
    if not bare and not found:
      continue
    if not bare or found and (bare[0] in '@:' or bare.endswith(':') and ' ' not in bare):
      break
    found.append(bare)
  return found


def _deeper(lines: list[str], depth: int) -> list[str]:
  found = []
  for line in lines:
    if not line.strip() or _depth(line) <= depth:
      break
    found.append(line.strip())
  return found


def _depth(line: str) -> int:
  return len(line) - len(line.lstrip())


_END = re.compile(r'\.(?=\s|$)')


def _sentence(text: str) -> str:
  """The text up to its first full stop, without markup; '' if that may be an abbreviation, or half of a bracket."""
  text = ' '.join(re.sub(r'\{@\w+\s([^{}]*)\}', r'\1', text).split())
  match = _END.search(text)
  sentence = text[: match.start()] if match else text
  if re.search(r'\b(?:e\.g|i\.e|etc|vs|cf)$', sentence) or any(
      sentence.count(opening) != sentence.count(end) for opening, end in ('()', '[]', '{}')
  ):
    return ''
  return sentence.rstrip(' .,;:')
