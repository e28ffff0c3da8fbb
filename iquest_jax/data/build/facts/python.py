"""Facts of a Python file, read from the syntax tree of Python's own parser."""

import ast
import functools
from collections.abc import Iterator

from iquest_jax.data.build.facts import documented, parsing
from iquest_jax.data.build.facts.candidates import (
    MAX_ANSWER_CHARACTERS,
    MAX_NAMED,
    NO_TYPE,
    Candidate,
    Definition,
    is_constant,
    is_public,
)
from iquest_jax.data.build.facts.questions import ORDINALS


def definitions(source: str) -> list[Definition]:
  """Top-level functions, classes, their methods, and constants.

  Args:
    source: with line feeds alone as line ends.

  Raises:
    SyntaxError, ValueError, RecursionError, MemoryError: Python cannot parse the source.
  """
  return list(_Reading(source).within(parsing.parse(source).body, ''))


class _Reading:
  """One file; offsets of a tree are bytes within a line."""

  def __init__(self, source: str):
    self._lines = source.split('\n')
    self._ascii = source.isascii()

  def within(self, body: list[ast.stmt], owner: str) -> Iterator[Definition]:
    """Definitions in a module, or in the class `owner`, whose name ends with a dot."""
    for node in body:
      if isinstance(node, parsing.FUNCTIONS):
        if is_public(node.name) and parsing.is_plain(node):
          yield functools.partial(self._function, node, owner)
      elif isinstance(node, ast.ClassDef):
        if is_public(node.name):
          yield functools.partial(self._class, node, owner)
          yield from self.within(node.body, f'{owner}{node.name}.')
      elif isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value is not None:
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        named = len(targets) == 1 and isinstance(targets[0], ast.Name) and is_constant(targets[0].id)
        if named and isinstance(node.value, (ast.Constant, ast.UnaryOp)):
          yield functools.partial(self._constant, owner + targets[0].id, node.value)

  def _constant(self, name: str, value: ast.expr) -> Iterator[Candidate]:
    if text := self._text(value):
      yield Candidate('value', 'constant', name, text)

  def _class(self, node: ast.ClassDef, owner: str) -> Iterator[Candidate]:
    single = len(node.bases) == 1 and not node.keywords and isinstance(node.bases[0], (ast.Name, ast.Attribute))
    if single and (base := self._text(node.bases[0])) not in ('', 'object'):
      yield Candidate('base', 'class', owner + node.name, base)

  def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef, owner: str) -> Iterator[Candidate]:
    noun, subject, arguments = 'method' if owner else 'function', owner + node.name, node.args
    positional = [*arguments.posonlyargs, *arguments.args]
    defaults = [None] * (len(positional) - len(arguments.defaults)) + arguments.defaults
    pairs = [*zip(positional, defaults), *zip(arguments.kwonlyargs, arguments.kw_defaults)]
    receiver = bool(owner) and not any(isinstance(d, ast.Name) and d.id == 'staticmethod' for d in node.decorator_list)
    if receiver:
      if not positional or positional[0].arg not in ('self', 'cls'):
        return
      positional, pairs = positional[1:], pairs[1:]
    if not arguments.vararg and not arguments.kwarg:
      yield Candidate('count', noun, subject, str(len(pairs)), receiver=receiver)
      if 2 <= len(pairs) <= MAX_NAMED:
        yield Candidate('names', noun, subject, ', '.join(a.arg for a, _ in pairs), receiver=receiver)
    if len(positional) > 1:
      for ordinal, argument in zip(ORDINALS, positional):
        yield Candidate('position', noun, subject, argument.arg, ordinal, receiver)
    for argument, default in pairs:
      if default is not None and _is_plain(default) and (text := self._text(default)):
        yield Candidate('default', noun, subject, text, argument.arg)
      if argument.annotation is not None and (text := self._text(argument.annotation)) and text not in NO_TYPE:
        yield Candidate('type', noun, subject, text, argument.arg)
    if node.returns is not None and (text := self._text(node.returns)) and text not in NO_TYPE:
      yield Candidate('returns', noun, subject, text)
    if (error := self._raised(node.body)) is not None:
      yield Candidate('raises', noun, subject, error)
    if owner and not node.name.startswith('_'):
      yield Candidate('owner', 'method', node.name, owner[:-1])
    yield from _documented(node, noun, subject)

  def _text(self, node: ast.expr) -> str:
    """The source of an expression on one line, '' if it is longer."""
    if node.end_lineno != node.lineno:
      return ''
    line = self._lines[node.lineno - 1]
    line = line if self._ascii else line.encode('utf-8', 'surrogatepass')
    text = line[node.col_offset : node.end_col_offset]
    text = text if self._ascii else text.decode('utf-8', 'surrogatepass')
    return text if len(text) <= MAX_ANSWER_CHARACTERS else ''

  def _raised(self, body: list[ast.stmt]) -> str | None:
    """The one exception that statements raise; None if there are more, or one may be caught or belong to another body."""
    found, rest = set(), list(body)
    while rest:
      node = rest.pop()
      if isinstance(node, (*parsing.FUNCTIONS, ast.ClassDef, ast.Try, ast.TryStar)):
        return None
      if isinstance(node, ast.Raise):
        error = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
        name = self._text(error) if isinstance(error, (ast.Name, ast.Attribute)) else ''
        if not name.rpartition('.')[2][:1].isupper():
          return None
        found.add(name)
      for block in ('body', 'orelse', 'cases'):
        rest.extend(getattr(node, block, ()))
    return found.pop() if len(found) == 1 else None


def _documented(node: ast.FunctionDef | ast.AsyncFunctionDef, noun: str, subject: str) -> Iterator[Candidate]:
  first = node.body[0]
  if not isinstance(first, ast.Expr) or not isinstance(first.value, ast.Constant):
    return
  text = first.value.value
  if not isinstance(text, str) or 'eturn' not in text and 'aise' not in text:
    return
  lines = ast.get_docstring(node).split('\n')
  if answer := documented.result(lines):
    yield Candidate('documented result', noun, subject, answer)
  if 'aise' in text:
    for error, condition in documented.errors(lines):
      yield Candidate('documented error', noun, subject, condition, error)


def _is_plain(node: ast.expr) -> bool:
  """Whether an expression is a constant, a name, a signed number, or an empty or short tuple or list of these."""
  if isinstance(node, ast.UnaryOp):
    return isinstance(node.operand, ast.Constant)
  if isinstance(node, (ast.Tuple, ast.List)):
    return len(node.elts) <= 4 and all(map(_is_plain, node.elts))
  if isinstance(node, ast.Attribute):
    return _is_plain(node.value) and not isinstance(node.value, ast.Constant)
  return isinstance(node, (ast.Constant, ast.Name)) or isinstance(node, ast.Dict) and not node.keys
