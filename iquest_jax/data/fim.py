"""Fill in the middle: where a file is cut in three, and the two formats of the cut.

The cuts lose nothing: prefix + middle + suffix is the file. Source: IQuest-Coder-V1 report, pre-training data, completion.
"""

import ast
import random
import re
from collections.abc import Iterator, Sequence

from iquest_jax.text import tokenizer
from iquest_jax.text.example import Segment, Structure

_NODES = {
    'expression': ast.expr,
    'statement': ast.stmt,
    'function': (ast.FunctionDef, ast.AsyncFunctionDef),
}
LEVELS = ('characters', 'lines', *_NODES)

Split = tuple[str, str, str]


def split(text: str, level: str, rng: random.Random) -> Split:
  """Cuts a text into (prefix, middle, suffix).

  Args:
    text: the file.
    level: one of LEVELS. A syntax level falls back to lines where the text is not Python or has no such node.
    rng: the only source of chance.
  """
  if level == 'characters':
    return _cut(text, *sorted(rng.randint(0, len(text)) for _ in range(2)))
  if level in _NODES and (span := _span(text, _NODES[level], rng)):
    return _cut(text, *span)
  starts = [0]
  for line in text.splitlines(keepends=True):
    starts.append(starts[-1] + len(line))
  return _cut(text, *sorted(rng.choice(starts) for _ in range(2)))


def file_segments(parts: Split) -> list[Segment]:
  """The format of one file; every token is learned."""
  prefix, middle, suffix = parts
  return [
      (Structure(tokenizer.FIM_PREFIX), 1.0),
      (prefix, 1.0),
      (Structure(tokenizer.FIM_SUFFIX), 1.0),
      (suffix, 1.0),
      (Structure(tokenizer.FIM_MIDDLE), 1.0),
      (middle, 1.0),
      (Structure(tokenizer.IM_END), 1.0),
  ]


def repository_segments(
    name: str, context: Sequence[tuple[str, str]], target: tuple[str, Split | str]
) -> list[Segment]:
  """The format of a repository: name, files as context, then the file to complete.

  Args:
    name: of the repository.
    context: ((path, text), ...) of the files before.
    target: (path, split) for completion in the middle, (path, text) for a last file in reading order.
  """
  path, content = target
  parts: list[Segment] = [(Structure(tokenizer.REPO_NAME), 1.0), (f'{name}\n', 1.0)]
  for other, text in context:
    ending = '' if text.endswith('\n') else '\n'
    parts += [(Structure(tokenizer.FILE_SEP), 1.0), (f'{other}\n{text}{ending}', 1.0)]
  parts += [(Structure(tokenizer.FILE_SEP), 1.0), (f'{path}\n', 1.0)]
  if isinstance(content, str):
    return [*parts, (content, 1.0), (Structure(tokenizer.END_OF_TEXT), 1.0)]
  return [*parts, *file_segments(content)]


def _cut(text: str, start: int, end: int) -> Split:
  return text[:start], text[start:end], text[end:]


def _span(text: str, nodes: type | tuple[type, ...], rng: random.Random) -> tuple[int, int] | None:
  """Character range of one syntax node of a kind; None where there is none."""
  try:
    found = list(_walk(ast.parse(text), nodes))
  except (SyntaxError, ValueError, RecursionError, MemoryError):
    return None
  if not found:
    return None
  node = rng.choice(found)
  # The parser counts lines from 1, ends them at '\n', '\r\n' and '\r' alone, and counts columns in UTF-8 bytes.
  data = text.encode()
  starts = [0, *(match.end() for match in re.finditer(rb'\r\n|\r|\n', data))]
  start, end = starts[node.lineno - 1] + node.col_offset, starts[node.end_lineno - 1] + node.end_col_offset
  return len(data[:start].decode()), len(data[:end].decode())


def _walk(tree: ast.AST, nodes: type | tuple[type, ...]) -> Iterator[ast.AST]:
  """Nodes of a kind, none inside an f-string: before Python 3.12 those do not know where they stand."""
  for node in ast.iter_child_nodes(tree):
    if isinstance(node, nodes):
      yield node
    if not isinstance(node, ast.JoinedStr):
      yield from _walk(node, nodes)
