"""Small expressions computed one operation at a time, by other means than running them as Python."""

import ast
import operator
from collections.abc import Callable, Mapping

_OPERATORS = {
    ast.Add: ('+', operator.add), ast.Sub: ('-', operator.sub), ast.Mult: ('*', operator.mul),
    ast.FloorDiv: ('//', operator.floordiv), ast.Mod: ('%', operator.mod),
    ast.Lt: ('<', operator.lt), ast.LtE: ('<=', operator.le), ast.Gt: ('>', operator.gt), ast.GtE: ('>=', operator.ge),
    ast.Eq: ('==', operator.eq), ast.NotEq: ('!=', operator.ne), ast.In: ('in', lambda a, b: operator.contains(b, a)),
}  # fmt: skip


def evaluate(expression: str, names: Mapping[str, object] | None = None) -> tuple[object, list[str]]:
  """The value of an expression, and its operations in the order in which Python does them: '3 * 4 = 12', '5 > 7 is False'.

  Known are arithmetic, comparisons, `and`, `or`, `not`, indices and slices, the functions len, sum, max, min, sorted and
  abs, and methods of strings without arguments.

  Args:
    names: values of the variables.

  Raises:
    ValueError: the expression has another operation.
  """
  found: list[str] = []
  return _value(ast.parse(expression, mode='eval').body, names or {}, found), found


def _value(node: ast.expr, names: Mapping[str, object], found: list[str]) -> object:
  value = lambda inner: _value(inner, names, found)
  match node:
    case ast.Constant(constant):
      return constant
    case ast.Name(name):
      return names[name]
    case ast.List(items):
      return [value(item) for item in items]
    case ast.Dict(keys, items):
      return {value(key): value(item) for key, item in zip(keys, items)}
    case ast.UnaryOp(ast.USub(), inner):
      return -value(inner)
    case ast.UnaryOp(ast.Not(), inner):
      truth = value(inner)
      return _say(found, f'not {truth!r}', not truth)
    case ast.BinOp(left, sign, right) | ast.Compare(left, [sign], [right]) if type(sign) in _OPERATORS:
      symbol, apply = _OPERATORS[type(sign)]
      one, other = value(left), value(right)
      if symbol == '%':
        below = one // other * other
        found.append(f'{one // other!r} * {other!r} = {below!r}')
        return _say(found, f'{one!r} - {below!r}', one - below)
      return _say(found, f'{one!r} {symbol} {other!r}', apply(one, other))
    case ast.BoolOp(sign, [left, right]):
      one, ends = value(left), isinstance(sign, ast.Or)
      if bool(one) is ends:  # The right side is not looked at.
        return one
      return value(right)
    case ast.Subscript(container, index):
      inner, text = value(container), ast.unparse(container)
      if isinstance(inner, str):  # A model sees a word in a few tokens; letters it must spell.
        found.append(' '.join(inner))
      if isinstance(index, ast.Slice):
        bounds = [None if part is None else value(part) for part in (index.lower, index.upper, index.step)]
        return _say(found, f'{text}[{ast.unparse(index)}]', inner[slice(*bounds)])
      place = value(index)
      return _say(found, f'{text}[{place!r}]', inner[place])
    case ast.Call(ast.Name(name), [argument], []) if name in _CALLS:
      return _CALLS[name](value(argument), found)
    case ast.Call(ast.Attribute(inner, 'upper' | 'lower' | 'title' as method), [], []):
      text = value(inner)
      return _say(found, f'{text!r}.{method}()', getattr(text, method)())
  raise ValueError(f'no steps for {ast.unparse(node)}')


def _say(found: list[str], left: str, value: object) -> object:
  found.append(f'{left} {"is" if isinstance(value, bool) else "="} {value!r}')
  return value


def _length(items, found):
  return _say(found, f'{", ".join(map(repr, items))}: count', len(items))


def _sum(items, found):
  total = items[0]
  for item in items[1:]:
    total = _say(found, f'{total!r} + {item!r}', total + item)
  return total


def _most(better: Callable) -> Callable:
  def most(items, found):
    best = items[0]
    for item in items[1:]:
      best = _say(found, f'of {best!r} and {item!r}', item if better(item, best) else best)
    return best

  return most


def _sorted(items, found):
  """Insertion: every item goes to its place among those before it."""
  done: list = []
  for item in items:
    place = sum(other <= item for other in done)
    done = [*done[:place], item, *done[place:]]
  return _say(found, 'in order', done)


_CALLS = {
    'len': _length, 'sum': _sum, 'max': _most(operator.gt), 'min': _most(operator.lt), 'sorted': _sorted,
    'abs': lambda number, found: _say(found, f'abs({number!r})', number if number >= 0 else -number),
}  # fmt: skip
