"""What a model was asked for, taken out of its answer: a JSON object, or sections under headings.

Nothing here raises: what is not there, or not of its type, is None, which a domain drops as malformed.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from iquest_jax.text import extract

_HEADING = re.compile(r'^#{1,6}[ \t]*([^\n#:]+?)[ \t]*:?[ \t]*#*$', re.M)


def fields(text: str, types: Mapping[str, type | tuple[type, ...]]) -> dict[str, Any] | None:
  """The fields of the JSON object in an answer, {name: value}; None unless an object has all of them in their types.

  The object is a fenced block, or reaches from the first brace to the last. A string must not be blank, and a boolean
  does not count as a number.
  """
  text = extract.without_thinking(text)
  candidates = [block.text for block in extract.blocks(text) if block.language in ('', 'json')]
  if '{' in text:
    candidates.append(text[text.find('{') : text.rfind('}') + 1])
  for candidate in candidates:
    try:
      record = json.loads(candidate, parse_constant=_refuse)
    except (ValueError, RecursionError):
      continue
    if isinstance(record, dict) and all(name in record and _is(record[name], kind) for name, kind in types.items()):
      return {name: record[name] for name in types}
  return None


def sections(text: str, names: Sequence[str]) -> dict[str, str] | None:
  """The text under each heading of `names`, as `## Name`, in any order; None if one is missing, empty or given twice.

  Use it where a section is code, which models garble in JSON. Headings inside fenced blocks do not count.
  """
  text = extract.without_thinking(text)
  wanted, found = {name.lower(): name for name in names}, {}
  marks = [mark for mark in _HEADING.finditer(_without_fenced(text)) if mark[1].lower() in wanted]
  for mark, following in zip(marks, [*marks[1:], None]):
    name = wanted[mark[1].lower()]
    if name in found:
      return None
    found[name] = text[mark.end() : following.start() if following else len(text)].strip()
  return found if len(found) == len(wanted) and all(found.values()) else None


def _is(value: Any, kind: type | tuple[type, ...]) -> bool:
  kinds = kind if isinstance(kind, tuple) else (kind,)
  if isinstance(value, bool) and bool not in kinds:
    return False
  return isinstance(value, kinds) and not (isinstance(value, str) and not value.strip())


def _refuse(constant: str) -> Any:
  raise ValueError(f'{constant} is not JSON')


def _without_fenced(text: str) -> str:
  """The text with every line inside a fence replaced by as many blanks, so that places stay the same."""
  lines, fence = [], ''
  for line in text.split('\n'):
    mark = re.match(r'[ \t]*(```+|~~~+)', line)
    inside = bool(fence)
    if mark and not fence:
      fence = mark[1]
    elif mark and line.strip().startswith(fence) and not line.strip().strip(fence[0]):
      fence = ''
    lines.append(' ' * len(line) if inside else line)
  return '\n'.join(lines)
