"""A trace as text: each line that ran, with the variables it changed, in the form of Python comments.

  f(n=2)
  total = 0  # total = 0
  for i in range(n):  # i = 0
  total += i  # total = 0
  ...
  return total  # returns 1
"""

import ast
from collections.abc import Sequence
from typing import NamedTuple

from iquest_jax.data.build.reasoning.functions import parsed
from iquest_jax.sandbox.tracing import Event

# Statements that change nothing.
_SILENT = (ast.Try, ast.FunctionDef, ast.Pass, ast.Nonlocal)


class _Header(NamedTuple):
  """The lines of a statement up to its body, and the lines of its body (none if it has none of its own)."""

  node: ast.AST
  first: int
  last: int
  body: range


class Listing:
  """A program by lines: which statement a line belongs to, and what it assigns. The program must be Python."""

  def __init__(self, source: str):
    self._lines = source.split('\n')
    self._headers: dict[int, _Header] = {}
    self._texts: dict[int, str] = {}
    self.targets: dict[int, list[str]] = {}
    for node in ast.walk(parsed(source)):
      if isinstance(node, (ast.stmt, ast.excepthandler)):
        self._add(node)

  def _add(self, node: ast.stmt | ast.excepthandler) -> None:
    body = getattr(node, 'body', [])
    last, inside = node.end_lineno, range(0)
    if body:
      last = max(node.lineno, body[0].lineno - 1)
      inside = range(last + 1, body[-1].end_lineno + 1)
    header = _Header(node, node.lineno, last, inside)
    names = _assigned(node)
    for line in range(header.first, header.last + 1):
      self._headers[line] = header
      if names:
        self.targets.setdefault(line, []).extend(names)

  def header(self, line: int) -> _Header:
    return self._headers.get(line) or _Header(ast.Pass(), line, line, range(0))

  def text(self, header: _Header) -> str:
    """A statement on one line, without its body and comments."""
    if header.first not in self._texts:
      line = self._lines[header.first - 1].strip()
      text = ast.unparse(header.node).splitlines()[0] if '#' in line or header.last > header.first else line
      self._texts[header.first] = f'el{text}' if line.startswith('elif') and text.startswith('if') else text
    return self._texts[header.first]


def trace(events: Sequence[Event], listing: Listing) -> str:
  """The text of a trace; what a called function does is indented below its call.

  The last line ends with 'returns VALUE' or 'raises NAME'.
  """
  lines: list[str] = []
  later: dict[int, str] = {}  # By depth: what to say of a line once the calls in it have returned.
  newest: dict[int, int] = {}  # By depth: the number of its newest line.
  events = _merged(events, listing)
  for number, event in enumerate(events):
    depth, indent = event.depth, '  ' * event.depth
    if depth in later:
      lines.append(f'{indent}# {later.pop(depth)}')
    if event.kind == 'call':
      lines.append(f'{indent}{event.text}({", ".join(f"{name}={value}" for name, value in event.changes.items())})')
      newest.pop(depth, None)
    elif event.kind == 'line':
      header = listing.header(event.line)
      if isinstance(header.node, _SILENT):
        continue
      lines.append(indent + listing.text(header))
      newest[depth] = len(lines) - 1
      comment = _comment(event, header, _next(events, number))
      if comment and events[number + 1].depth > depth:
        later[depth] = comment
      elif comment:
        lines[-1] += f'  # {comment}'
    else:
      comment = f'{event.kind}s {event.text}'
      if newest.get(depth) == len(lines) - 1:
        lines[-1] += f', {comment}' if '  # ' in lines[-1] else f'  # {comment}'
      else:
        lines.append(f'{indent}# {comment}')
  return '\n'.join(lines)


def changes(events: Sequence[Event], listing: Listing) -> str:
  """Only the changes; those of consecutive lines of the program share a line: 'x = 3, i = 0, x = 5'."""
  lines, before = [], 0
  for number, event in enumerate(events):
    if event.kind == 'line':
      header = listing.header(event.line)
      ended = isinstance(header.node, ast.For) and _next(events, number).line not in header.body
      text = '' if ended else _assignments(event.changes)
      if event.line <= before or not lines:
        lines.append(text)
      elif text:
        lines[-1] += f', {text}' if lines[-1] else text
      before = event.line
  return '\n'.join(filter(None, lines))


def _comment(event: Event, header: _Header, after: Event) -> str:
  """What a line did: its changes, and whether a condition held or a loop continued."""
  found = _assignments(event.changes)
  if not header.body or not isinstance(header.node, (ast.If, ast.For, ast.While)) or after.kind == 'raise':
    return found
  enters = after.kind == 'line' and after.line in header.body
  if isinstance(header.node, ast.For):
    return found if enters else 'done'
  return f'{enters}, {found}' if found else str(enters)


def _next(events: Sequence[Event], number: int) -> Event:
  """The next event of the same call."""
  return next(event for event in events[number + 1 :] if event.depth == events[number].depth)


def _merged(events: Sequence[Event], listing: Listing) -> list[Event]:
  """The events, those of one statement that extends over several lines joined."""
  found: list[Event] = []
  newest: dict[int, int] = {}
  for event in events:
    before = found[newest[event.depth]] if event.depth in newest else None
    if event.kind == 'line' and before is not None:
      header = listing.header(event.line)
      if header.last > header.first and listing.header(before.line) is header:
        before.changes.update(event.changes)
        continue
    found.append(event._replace(changes=dict(event.changes)))
    if event.kind == 'line':
      newest[event.depth] = len(found) - 1
    else:
      newest.pop(event.depth, None)
  return found


def _assignments(values: dict[str, str]) -> str:
  return ', '.join(f'{name} = {value}' for name, value in values.items())


def _assigned(node: ast.AST) -> list[str]:
  """The names that a statement itself assigns, so that the same value again is shown as well."""
  match node:
    case ast.Assign(targets):
      parts = targets
    case ast.For(target) | ast.AugAssign(target) | ast.AnnAssign(target):
      parts = [target]
    case _:
      parts = []
  names = (name for part in parts for name in ast.walk(part) if isinstance(name, ast.Name))
  return [name.id for name in names if isinstance(name.ctx, ast.Store)]
