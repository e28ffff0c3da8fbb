"""Finds the functions of a Python file that run on their own: pure, without input or output, from syntax alone.

What a function calls of its file comes along, if that runs on its own too: other functions, constants, imports of pure
modules. Nothing is executed here.
"""

import ast
import builtins
import collections
import dataclasses
import functools
import re
import symtable
import warnings
from collections.abc import Iterator, Sequence
from typing import NamedTuple

# ours: modules whose functions return the same for the same arguments and touch nothing.
MODULES = frozenset({
    'bisect', 'cmath', 'collections', 'copy', 'fractions', 'functools', 'heapq', 'itertools', 'math', 'numbers', 'operator',
    're', 'statistics', 'string', 'textwrap', 'typing', 'unicodedata',
})  # fmt: skip
# Names that would let a function see more than its arguments, or act on more than its result.
_REFUSED = frozenset({
    '__build_class__', '__debug__', '__doc__', '__import__', '__loader__', '__name__', '__package__', '__spec__',
    'aiter', 'anext', 'breakpoint', 'compile', 'copyright', 'credits', 'delattr', 'dir', 'eval', 'exec', 'exit',
    'getattr', 'globals', 'hasattr', 'hash', 'help', 'id', 'input', 'license', 'locals', 'memoryview', 'object', 'open',
    'print', 'quit', 'setattr', 'super', 'type', 'vars', 'BaseException', 'GeneratorExit', 'KeyboardInterrupt',
    'SystemExit',
})  # fmt: skip
BUILTINS = frozenset(dir(builtins)) - _REFUSED
_ATTRIBUTES = frozenset().union(*map(dir, (int, float, str, list, tuple, dict, set)))
_NODES = (
    ast.AsyncFunctionDef, ast.AsyncFor, ast.AsyncWith, ast.Await, ast.ClassDef, ast.Global, ast.Import, ast.ImportFrom,
    ast.Match, ast.With, ast.Yield, ast.YieldFrom,
)  # fmt: skip
_MOST_LINES, _MOST_CHARACTERS = 40, 2000  # ours: of a whole program
_MOST_PARAMETERS = 4
_MOST_LINES_WITH_DOCSTRING = 90
_LONGEST_CONSTANT, _MOST_LINES_OF_CONSTANT = 400, 12
_LONGEST_FILE = 1 << 20
_LINE = re.compile('\r\n|\r|\n')  # What ends a line of Python.
_CANDIDATE = re.compile(r'^def \w+\(\s*[^)\s]', re.MULTILINE)  # Most files have none and need not be parsed.


@dataclasses.dataclass(frozen=True)
class Function:
  """A function that runs on its own.

  Attributes:
    source: a program that defines it, without docstrings; it ends with a newline.
    node: the function's syntax tree, in its file.
    parameters: the names of those that a call must give.
  """

  name: str
  source: str
  node: ast.FunctionDef
  parameters: tuple[str, ...]


def find(text: str) -> Iterator[Function]:
  """The functions of a file in their order; none if it is not Python or longer than a megabyte."""
  if len(text) > _LONGEST_FILE or not _CANDIDATE.search(text) or (tree := parsed(text)) is None:
    return
  module = _Module(tree, text)
  for name, node in module.functions.items():
    if _worth_asking(node) and (names := module.closure(name)):
      source = module.program(names)
      if source.count('\n') <= _MOST_LINES and len(source) <= _MOST_CHARACTERS:
        arguments = node.args.posonlyargs + node.args.args
        yield Function(name, source, node, tuple(a.arg for a in arguments[: len(arguments) - len(node.args.defaults)]))


@functools.lru_cache(maxsize=1)  # Functions are found, then calls of them, in the same file.
def parsed(text: str) -> ast.Module | None:
  """The syntax tree of Python; None if it is not Python."""
  try:
    with warnings.catch_warnings():  # The parser warns of odd escapes; they are not ours.
      warnings.simplefilter('ignore')
      return ast.parse(text)
  except (SyntaxError, ValueError, RecursionError, MemoryError):
    return None


class _Statement(NamedTuple):
  """A statement of the top level that a program may repeat."""

  line: int
  text: str
  imports: bool
  needs: frozenset[str] = frozenset()


class _Module:
  """What a file defines at its top level, by name; a name that is bound twice is not known."""

  def __init__(self, tree: ast.Module, text: str):
    self._lines = _LINE.split(text)
    self.functions: dict[str, ast.FunctionDef] = {}
    self._statements: dict[str, _Statement] = {}
    self._sources: dict[str, str] = {}
    self._needs: dict[str, frozenset[str] | None] = {}
    bound = collections.Counter()
    for node in tree.body:
      names = _binds(node)
      bound.update(names)
      match node:
        case ast.FunctionDef(decorator_list=[]):
          self.functions[node.name] = node
        case ast.Assign([ast.Name()]) | ast.AnnAssign(ast.Name(), simple=1):
          self._statements |= _constant(names[0], node)
        case ast.Import() | ast.ImportFrom():
          self._statements |= _pure_imports(node)
    for name, times in bound.items():
      if times > 1:
        self.functions.pop(name, None)
        self._statements.pop(name, None)

  def closure(self, name: str) -> list[str]:
    """The names that a function needs, its own among them; none if one of them does not run on its own."""
    found, queue = [name], [name]
    while queue:
      needs = self._needed(queue.pop())
      if needs is None:
        return []
      for other in sorted(needs - set(found)):
        found.append(other)
        queue.append(other)
    return found

  def _needed(self, name: str) -> frozenset[str] | None:
    """The names of the file that a name needs; None if it needs anything else."""
    if name not in self._needs:
      self._needs[name] = self._computed(name)
    return self._needs[name]

  def _computed(self, name: str) -> frozenset[str] | None:
    if name in self._statements:
      return self._statements[name].needs
    if name not in self.functions or not _is_pure(self.functions[name]):
      return None
    try:
      for source in self._forms(name):
        free = _free_names(source)
        known = free & (self.functions.keys() | self._statements.keys())
        if free - known <= BUILTINS:
          self._sources[name] = source
          return frozenset(known)
    except (SyntaxError, RecursionError):  # As of two parameters of one name, or of very deep expressions.
      pass
    return None

  def program(self, names: Sequence[str]) -> str:
    """The statements of names in the order of the file; imports first, a blank line between functions."""
    small = sorted(self._statements[name] for name in names if name in self._statements)
    imports, constants = ([each.text for each in small if each.imports == kind] for kind in (True, False))
    functions = sorted((self.functions[name].lineno, name) for name in names if name in self.functions)
    parts = ['\n'.join(block) for block in (imports, constants) if block]
    return '\n\n'.join(parts + [self._sources[name] for _, name in functions]) + '\n'

  def _forms(self, name: str) -> Iterator[str]:
    """The text of a function without its docstring: as it stands, then without annotations."""
    node = self.functions[name]
    lines = self._lines[node.lineno - 1 : node.end_lineno]
    apart, has_docstring = True, ast.get_docstring(node, clean=False) is not None
    kept = lines
    if has_docstring:
      doc, after = node.body[0], node.body[1] if len(node.body) > 1 else None
      apart = after is not None and node.lineno < doc.lineno and doc.end_lineno < after.lineno
      kept = lines[: doc.lineno - node.lineno] + lines[doc.end_lineno - node.lineno + 1 :]
    if apart:
      yield '\n'.join(line.rstrip() for line in kept)
    annotated = any(isinstance(inner, ast.arg) and inner.annotation for inner in ast.walk(node)) or node.returns
    if annotated or not apart:
      bare = ast.parse('\n'.join(lines)).body[0]
      if has_docstring:
        bare.body = bare.body[1:] or [ast.Pass()]
      for inner in ast.walk(bare):
        if isinstance(inner, ast.arg):
          inner.annotation = None
        elif isinstance(inner, ast.FunctionDef):
          inner.returns = None
      yield ast.unparse(bare)


def _binds(node: ast.stmt) -> list[str]:
  """The names that a statement of the top level binds, also inside `if` and `try`."""
  if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
    return [node.name]
  names = []
  for inner in ast.walk(node):
    match inner:
      case ast.Name(name, ast.Store() | ast.Del()) | ast.FunctionDef(name) | ast.ClassDef(name):
        names.append(name)
      case ast.Import() | ast.ImportFrom():
        names += [alias.asname or alias.name.partition('.')[0] for alias in inner.names]
  return names


def _pure_imports(node: ast.Import | ast.ImportFrom) -> dict[str, _Statement]:
  """The statement for each pure module, or name of one, that a statement imports."""
  found = {}
  for alias in node.names:
    module = alias.name if isinstance(node, ast.Import) else node.module
    relative = isinstance(node, ast.ImportFrom) and node.level
    if module in MODULES and not relative and alias.name != '*' and not alias.name.startswith('_'):
      origin = '' if isinstance(node, ast.Import) else f'from {module} '
      renamed = f' as {alias.asname}' if alias.asname else ''
      found[alias.asname or alias.name] = _Statement(node.lineno, f'{origin}import {alias.name}{renamed}', True)
  return found


def _constant(name: str, node: ast.Assign | ast.AnnAssign) -> dict[str, _Statement]:
  """The statement of a constant, if it is plain data or a pattern compiled from a string."""
  if node.value is None or node.end_lineno - node.lineno > _MOST_LINES_OF_CONSTANT:
    return {}
  needs = frozenset()
  match node.value:
    case ast.Call(ast.Attribute(ast.Name('re'), 'compile'), [ast.Constant(str())], []):
      needs = frozenset({'re'})
    case _:
      try:
        ast.literal_eval(node.value)
      except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return {}
  text = f'{name} = {ast.unparse(node.value)}'
  return {name: _Statement(node.lineno, text, False, needs)} if len(text) <= _LONGEST_CONSTANT else {}


def _is_pure(node: ast.FunctionDef) -> bool:
  """Whether a function's syntax stays clear of what could reach beyond it."""
  for inner in ast.walk(node):
    if isinstance(inner, _NODES) or isinstance(inner, ast.FunctionDef) and inner.decorator_list:
      return False
    if isinstance(inner, ast.Attribute) and (inner.attr.startswith('_') or not isinstance(inner.ctx, ast.Load)):
      return False
    if isinstance(inner, ast.ExceptHandler) and inner.type is None:  # It would catch the limit on lines.
      return False
  return True


def _free_names(source: str) -> set[str]:
  """The names that a function takes from its module or the built-in ones, annotations and defaults included."""
  top = symtable.symtable(source, '<source>', 'exec')
  names = {symbol.get_name() for symbol in top.get_symbols() if symbol.is_referenced() and not symbol.is_assigned()}
  tables = list(top.get_children())
  for table in tables:
    names |= {symbol.get_name() for symbol in table.get_symbols() if symbol.is_global()}
    tables += table.get_children()
  return names


def _worth_asking(node: ast.FunctionDef) -> bool:
  """Whether a call needs only a few arguments of built-in types, and its result takes some steps to work out."""
  arguments = node.args
  required = len(arguments.posonlyargs + arguments.args) - len(arguments.defaults)
  if node.end_lineno - node.lineno > _MOST_LINES_WITH_DOCSTRING:
    return False
  if not 1 <= required <= _MOST_PARAMETERS or any(default is None for default in arguments.kw_defaults):
    return False
  inner, names = list(ast.walk(node)), {argument.arg for argument in arguments.posonlyargs + arguments.args}
  for each in inner:
    match each:
      case ast.Attribute(ast.Name(name), attribute) if name in names and attribute not in _ATTRIBUTES:
        return False
      case ast.Call(ast.Name(name)) if name in names:
        return False
  returns = any(isinstance(each, ast.Return) and each.value is not None for each in inner)
  statements = sum(isinstance(each, ast.stmt) for each in inner) - (ast.get_docstring(node) is not None)
  return returns and statements >= 4  # The definition, two statements and a return.
