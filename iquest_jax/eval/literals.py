"""Python that a model wrote as an answer, parsed and never evaluated: expressions, literal values, calls with literals."""

import ast
import operator
from typing import Any

LONGEST = 20_000  # characters; longer texts are no answers, and parsing them could exhaust the parser's stack
_LARGEST = 1e100  # Of numbers that are computed with: a product of long ones has too many digits to be written.
_ARITHMETIC = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}


def parsed(text: str, mode: str = 'eval') -> ast.Expression | ast.Module | None:
  """The tree of an expression (`eval`) or of statements (`exec`); None if the text is not one."""
  if len(text) > LONGEST:
    return None
  try:
    return ast.parse(text.strip(), mode=mode)
  except (SyntaxError, ValueError, MemoryError, RecursionError):
    return None


def calls(text: str) -> list[dict[str, Any]] | None:
  """The calls of `f(1, x=2)` or `[f(x=1), a.g(y=[2])]` as {'name', 'positional', 'arguments'}; None for another text."""
  tree = parsed(text)
  if tree is None:
    return None
  items = tree.body.elts if isinstance(tree.body, (ast.List, ast.Tuple)) else [tree.body]
  try:
    if not all(isinstance(item, ast.Call) for item in items):
      return None
    return [
        {
            'name': ast.unparse(item.func),
            'positional': [_value(arg) for arg in item.args],
            'arguments': {keyword.arg: _value(keyword.value) for keyword in item.keywords},
        }
        for item in items
    ]
  except (ArithmeticError, TypeError, RecursionError):
    return None


def _value(node: ast.expr) -> Any:
  """A value as JSON has it; a variable or anything else that is not a literal is its own text."""
  match node:
    case ast.Constant(value) if value is None or isinstance(value, (bool, int, float, str)):
      return value
    case ast.List(items) | ast.Tuple(items):
      return [_value(item) for item in items]
    case ast.Dict(keys, items) if None not in keys:
      return {str(_value(key)): _value(item) for key, item in zip(keys, items)}
    case ast.UnaryOp(ast.USub(), item) if isinstance(number := _value(item), (int, float)):
      return -number
    case ast.BinOp(left, sign, right) if type(sign) in _ARITHMETIC:
      sides = _value(left), _value(right)
      if all(isinstance(side, (int, float)) and abs(side) < _LARGEST for side in sides):
        return _ARITHMETIC[type(sign)](*sides)
  return ast.unparse(node)
