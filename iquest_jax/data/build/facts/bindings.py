"""What else may bind a name of a Python file: the third check, which looks at every statement that mentions the name.

It shares Python's parser with what extracts facts, since it can only reject. A rebinding counts wherever it stands: in a
branch, after a semicolon, within brackets, through `global`, or as an attribute set from elsewhere.
"""

import ast
import bisect
import re

from iquest_jax.data.build.facts import masked as masking
from iquest_jax.data.build.facts import parsing

# Whoever writes these changes what a function or class is; writers of module attributes by a computed name may mean any.
_OF_FUNCTIONS = frozenset(['__defaults__', '__kwdefaults__', '__code__', '__annotations__', '__signature__', '__bases__'])
_SETTERS = frozenset(['setattr', 'delattr', '__setattr__', '__delattr__', 'object'])  # `object` as in mock.patch.object
# Each begins with a word, which a search finds fast.
_COMPUTED = tuple(map(re.compile, (
    # Given to another function, or a name of its own, it may be written to as well.
    r'globals\(\)(?<!in globals\(\))(?!\s*(?:\[\s*[\'"]|\.(?:get|items|keys|values)\b))', r'vars\(\)\s*(?:\[|\.update\b)',
    r'locals\(\)\s*(?:\[[^\]\'"]+\]\s*=(?!=)|\.update\b)', r'\nexec\(', r'setattr\(\s*sys\.modules\[__name__\],\s*[^\s\'"]',
    r'sys\.modules\[__name__\]\.__dict__',
)))  # fmt: skip
_STAR, _FROM = re.compile(r'import[ \t]+\*'), re.compile(r'[^#>\'"\n]*\bfrom\b')
_LOCAL = '<locals>.'
# Nodes that `_binds` knows: most of a tree are others.
_BINDING = frozenset([
    ast.Name, ast.ClassDef, *parsing.FUNCTIONS, ast.ExceptHandler, ast.MatchAs, ast.MatchStar, ast.MatchMapping, ast.Import,
    ast.ImportFrom, ast.Global, ast.Attribute, ast.Subscript, ast.Call,
])  # fmt: skip


class Bindings:
  """One source. Raises what Python's parser raises: SyntaxError, ValueError, RecursionError, MemoryError."""

  def __init__(self, source: str):
    self._source, self._tree = source, parsing.parse(source)
    self._starts = [0, *(match.end() for match in re.finditer('\n', source))]
    self._computed = any(pattern.search(source) for pattern in _COMPUTED)
    stars = [bisect.bisect_right(self._starts, match.start()) for match in _STAR.finditer(source)]
    stars = [line for line in stars if _FROM.match(source, self._starts[line - 1])]
    self._last_star = max(stars, default=0)
    self._doubts: dict[tuple[str, str], str] = {}

  def doubt(self, subject: str) -> str:
    """Why a definition may not be all that its qualified name, such as 'C.method', stands for; '' if nothing speaks for it.

    One of 'two answers', 'decorated' and 'subject not found'.
    """
    owner = ''
    for name in subject.split('.'):
      if (name, owner) not in self._doubts:
        self._doubts[name, owner] = self._doubt(name, owner)
      if doubt := self._doubts[name, owner]:
        return doubt
      owner += f'{name}.'
    return ''

  def _doubt(self, name: str, owner: str) -> str:
    bound = self._bound(name, owner)
    if len(bound) != 1:
      return 'two answers' if bound else 'subject not found'
    if not owner and (self._computed or self._last_star > bound[0].lineno):
      return 'two answers'
    return 'decorated' if isinstance(bound[0], parsing.FUNCTIONS) and not parsing.is_plain(bound[0]) else ''

  def _bound(self, name: str, owner: str) -> list[ast.AST]:
    """What binds a name in the class `owner`, whose name ends with a dot, or at the top level."""
    mentions = [bisect.bisect_right(self._starts, place) for place in masking.occurrences(self._source, name)]
    found, todo = [], [(self._tree, '')]
    while todo:  # deep chains of `elif` leave no room for recursion
      node, scope = todo.pop()
      kind = type(node)
      if kind in _BINDING and _binds(node, name, scope, owner):
        found.append(node)
      body = scope
      if kind is ast.ClassDef:
        body += f'{node.name}.'
      elif kind in parsing.FUNCTIONS:
        body += f'{node.name}.{_LOCAL}'
      elif kind is ast.Lambda:
        scope += _LOCAL
      elif kind is ast.AnnAssign and node.value is None:
        continue  # It declares a type and binds nothing.
      for child in ast.iter_child_nodes(node):
        if hasattr(child, 'lineno'):
          first = bisect.bisect_left(mentions, child.lineno)
          if first == len(mentions) or mentions[first] > child.end_lineno:
            continue
        if isinstance(child, ast.stmt):
          todo.append((child, body))
        else:
          # Names that a comprehension binds are its own.
          own = kind is ast.comprehension and child is node.target
          todo.append((child, scope + _LOCAL if own else scope))
    return found


def _binds(node: ast.AST, name: str, scope: str, owner: str) -> bool:
  """Whether a node that stands in a scope binds a name of the scope `owner`, or may."""
  match node:
    case ast.Name(other, ast.Store() | ast.Del()) | ast.ClassDef(other):
      return other == name and scope == owner
    case ast.FunctionDef(other) | ast.AsyncFunctionDef(other):
      # "The function `f`" may mean one within another function as well.
      return other == name and (scope == owner or not owner and scope.endswith(_LOCAL))
    case ast.ExceptHandler(_, other) | ast.MatchAs(_, other) | ast.MatchStar(other) | ast.MatchMapping(rest=other):
      return other == name and scope == owner
    case ast.Import(names) | ast.ImportFrom(names=names):
      return scope == owner and any((each.asname or each.name.partition('.')[0]) == name for each in names)
    case ast.Global(names):
      return not owner and name in names
    case ast.Attribute(_, attribute, ast.Store() | ast.Del()) if attribute == name:
      # Attributes of an object have nothing to do with a function of the module, nor with another class.
      own = isinstance(node.value, ast.Name) and node.value.id in ('self', 'cls')
      return bool(owner) and scope.startswith(owner) if own else True
    case ast.Attribute(base, attribute):
      changed = attribute in _OF_FUNCTIONS or attribute == '__doc__' and not isinstance(node.ctx, ast.Load)
      return changed and _last(base) == name
    case ast.Subscript(base, ast.Constant(key), ast.Store() | ast.Del()) if key == name:
      return isinstance(base, ast.Call) or _last(base) == '__dict__'
    case ast.Call(function, [changed, ast.Constant(str(key)), *_]):
      return _last(function) in _SETTERS and (key == name or key in _OF_FUNCTIONS and _last(changed) == name)
  return False


def _last(node: ast.expr) -> str:
  return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ''
