"""Fill in the middle: at which positions a text is cut in three.

Source: IQuest-Coder-V1 report, pre-training data, completion.
"""

import ast
import itertools
import random
import re
from collections.abc import Iterator

from iquest_jax.data.documents import FimSplit

_NODES = {
    'expression': ast.expr,
    'statement': ast.stmt,
    'function': (ast.FunctionDef, ast.AsyncFunctionDef),
}
LEVELS = ('characters', 'lines', *_NODES)


def split(text: str, level: str, rng: random.Random) -> FimSplit:
  """Cuts a text in three; prefix + middle + suffix is the text.

  Args:
    level: one of LEVELS. A syntax level falls back to lines if the text is not Python or has no such node.
  """
  if level == 'characters':
    return _cut(text, *sorted(rng.randint(0, len(text)) for _ in range(2)))
  if level in _NODES and (span := _span(text, _NODES[level], rng)):
    return _cut(text, *span)
  starts = list(itertools.accumulate(map(len, text.splitlines(keepends=True)), initial=0))
  return _cut(text, *sorted(rng.choice(starts) for _ in range(2)))


def _cut(text: str, start: int, end: int) -> FimSplit:
  return FimSplit(text[:start], text[start:end], text[end:])


def _span(text: str, kind: type | tuple[type, ...], rng: random.Random) -> tuple[int, int] | None:
  """Character range of a random syntax node of a kind; None if there is none."""
  try:
    nodes = list(_walk(ast.parse(text), kind))
  except (SyntaxError, ValueError, RecursionError, MemoryError):
    return None
  if not nodes:
    return None
  node = rng.choice(nodes)
  # The parser counts lines from 1, ends them at '\n', '\r\n' and '\r' only, and counts columns in UTF-8 bytes.
  data = text.encode()
  starts = [0, *(match.end() for match in re.finditer(rb'\r\n|\r|\n', data))]
  start, end = starts[node.lineno - 1] + node.col_offset, starts[node.end_lineno - 1] + node.end_col_offset
  return len(data[:start].decode()), len(data[:end].decode())


def _walk(tree: ast.AST, kind: type | tuple[type, ...]) -> Iterator[ast.AST]:
  """Nodes of a kind, none inside an f-string: before Python 3.12 those do not know their position."""
  for node in ast.iter_child_nodes(tree):
    if isinstance(node, kind):
      yield node
    if not isinstance(node, ast.JoinedStr):
      yield from _walk(node, kind)
