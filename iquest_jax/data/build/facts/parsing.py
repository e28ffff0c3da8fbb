"""Python's parser, and which decorators leave a function what its definition says."""

import ast
import functools
import gc
import warnings

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
# ours: these keep parameters, documentation and result. Any other decorator may put another function in the place of its
# own, or something other than a function, as `property` does.
_PLAIN = frozenset([
    'staticmethod', 'classmethod', 'abstractmethod', 'override', 'final', 'no_type_check', 'cache', 'lru_cache', 'no_grad',
])  # fmt: skip
_MODULES = frozenset(['abc', 'typing', 'typing_extensions', 'functools', 'torch'])


@functools.lru_cache(maxsize=1)  # A file is read, then each of its facts is checked.
def parse(source: str) -> ast.Module:
  """The syntax tree, which nobody may change.

  Raises:
    SyntaxError, ValueError, RecursionError, MemoryError: Python cannot parse the source.
  """
  # A tree is thousands of objects and no garbage: the collector would take a quarter of the time.
  enabled = gc.isenabled()
  gc.disable()
  try:
    with warnings.catch_warnings():
      warnings.simplefilter('ignore')  # of escapes in strings
      return ast.parse(source)
  finally:
    if enabled:
      gc.enable()


def is_plain(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
  """Whether a function is what its definition says, whatever its decorators do besides."""
  return all(map(_is_plain, node.decorator_list))


def _is_plain(decorator: ast.expr) -> bool:
  match decorator.func if isinstance(decorator, ast.Call) else decorator:
    case ast.Name(name):
      return name in _PLAIN
    case ast.Attribute(ast.Name(module), name):
      return module in _MODULES and name in _PLAIN
  return False
