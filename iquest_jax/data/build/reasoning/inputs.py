"""Arguments to try on a function: those its file calls it with, and finite domains of plausible types.

The pools, their sizes and the guesses of types are ours.
"""

import ast
import dataclasses
import itertools
import math
import random
from collections.abc import Iterator, Mapping

from iquest_jax.data.build.reasoning.functions import Function, parsed

_WORDS = ('', 'a', 'ab', 'abc', 'hello', 'Hello World', 'aabbcc', 'level', '12', '3.5', 'x1y2', 'a,b,c', 'foo_bar',
          'fooBar', ' trim ', 'A-B', '(a)', 'one two  three', '0', 'Zebra')  # fmt: skip
_NAMES = {
    'int': 'n m k i j x y z a b c num number count size width height length index idx start stop end step limit total '
           'value val low high lo hi base exp year month day seed depth level offset pos digit digits left right',
    'str': 's t text string str word words_str name line path key prefix suffix char c ch pattern msg message content '
           'title label filename url code source token sep delimiter expr query body version lang language fmt',
    'list_int': 'nums numbers arr array xs values vals data items list lst l seq sequence shape dims sizes indices counts '
                'scores weights a b v vector',
    'list_str': 'words lines names strings tokens parts keys args paths columns fields lst items labels',
    'dict': 'd dict mapping map config options params kwargs table counts env obj attrs metadata data',
    'pairs': 'pairs edges intervals points ranges spans tuples items',
    'matrix': 'matrix grid board rows table mat m image',
    'bool': 'flag verbose strict reverse ascending inclusive',
    'float': 'x y ratio rate price t alpha radius weight value threshold temperature seconds',
}  # fmt: skip
_ANNOTATIONS = {
    'int': 'int', 'str': 'str', 'bool': 'bool', 'float': 'float', 'dict': 'dict', 'list': 'list_int', 'tuple': 'list_int',
    'list[int]': 'list_int',
    'list[float]': 'list_int', 'list[str]': 'list_str', 'sequence[int]': 'list_int', 'sequence[str]': 'list_str',
    'iterable[int]': 'list_int', 'iterable[str]': 'list_str', 'list[list[int]]': 'matrix', 'tuple[int, ...]': 'list_int',
    'list[tuple[int, int]]': 'pairs', 'sequence': 'list_int', 'iterable': 'list_int', 'mapping': 'dict',
}  # fmt: skip
_STR_METHODS = frozenset(dir(str)) - frozenset(dir(list)) - frozenset(dir(dict)) - frozenset(dir(bytes)) | {
    'split', 'strip', 'lower', 'upper', 'startswith', 'endswith', 'replace', 'lstrip', 'rstrip', 'join', 'find', 'isdigit',
    'splitlines', 'title', 'partition', 'rpartition', 'rsplit', 'isalpha', 'isspace', 'isupper', 'islower',
}  # fmt: skip
_FLOATS = (-1.5, 0.0, 0.25, 0.5, 1.0, 2.5, 4.0, 10.0)
_MOST_ELEMENTS = {1: 14, 2: 5, 3: 3, 4: 2}  # values per parameter, by the number of parameters
_MOST_DOMAINS = 6


@dataclasses.dataclass(frozen=True)
class Domain:
  """A finite set of arguments.

  Attributes:
    values: per parameter its name, how the set of its values is written, and their literals.
  """

  values: tuple[tuple[str, str, tuple[str, ...]], ...]

  def elements(self) -> list[str]:
    """Argument lists as text, such as '1, "ab"'."""
    return [', '.join(each) for each in itertools.product(*(literals for _, _, literals in self.values))]

  def statement(self) -> str:
    """How a question states the domain: '`n` in `range(0, 5)` and `s` in `["a", "b"]`'."""
    return ' and '.join(f'`{name}` in `{written}`' for name, written, _ in self.values)


def examples(text: str, functions: Mapping[str, Function]) -> dict[str, list[str]]:
  """Argument lists by function, from calls with literal arguments anywhere in a file, doctests included."""
  found: dict[str, dict[str, None]] = {name: {} for name in functions}
  called = any(text.count(f'{name}(') > 1 for name in functions)  # Once is the definition.
  trees = [parsed(text)] if called else []
  for function in functions.values():
    for line in (ast.get_docstring(function.node) or '').splitlines():
      if line.strip().startswith('>>> ') and len(line) < 300:
        trees.append(parsed(line.strip()[4:]))
  for node in itertools.chain.from_iterable(map(ast.walk, filter(None, trees))):
    match node:
      case ast.Call(ast.Name(name), arguments, keywords) if name in found and (arguments or keywords):
        if all(map(_is_literal, [*arguments, *(keyword.value for keyword in keywords)])):
          parts = [*map(ast.unparse, arguments), *(f'{k.arg}={ast.unparse(k.value)}' for k in keywords if k.arg)]
          if sum(map(len, parts)) < 120 and all(k.arg for k in keywords):
            found[name][', '.join(parts)] = None
  return {name: list(texts) for name, texts in found.items()}


def _is_literal(node: ast.expr) -> bool:
  try:
    ast.literal_eval(node)
  except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
    return False
  return True


def domains(function: Function, rng: random.Random) -> list[Domain]:
  """Domains for a function, the most plausible types first."""
  names = function.parameters
  votes = {name: _votes(function, name) for name in names}
  ranked = [sorted(_POOLS, key=lambda kind, name=name: -votes[name].get(kind, 0)) for name in names]
  combinations = sorted(
      itertools.product(*(range(min(len(_POOLS), 4 if len(names) > 2 else 6)) for _ in names)),
      key=lambda ranks: (sum(votes[name].get(kinds[0], 0) - votes[name].get(kinds[rank], 0)
                             for rank, name, kinds in zip(ranks, names, ranked)), sum(ranks)),
  )  # fmt: skip
  most, literals = _MOST_ELEMENTS[len(names)], _strings(function)
  pools = {kind: pool(rng, most, literals) for kind, pool in _POOLS.items()}
  found = []
  for ranks in combinations[:_MOST_DOMAINS]:
    chosen = [(name, *pools[kinds[rank]]) for name, rank, kinds in zip(names, ranks, ranked)]
    found.append(Domain(tuple(chosen)))
  return found


def _votes(function: Function, name: str) -> dict[str, float]:
  """How plausible each kind is for a parameter, from its annotation, its name and what is done with it."""
  votes = {kind: 1.0 for kind, names in _NAMES.items() if name.lower() in names.split()}
  if name.lower().endswith('s') and not votes:
    votes |= {'list_int': 0.5, 'list_str': 0.4}
  for argument in (*function.node.args.posonlyargs, *function.node.args.args):
    if argument.arg == name and argument.annotation is not None:
      text = ast.unparse(argument.annotation).removeprefix('typing.').lower().removesuffix(' | none')
      text = text.removeprefix('optional[').removesuffix(']') if text.startswith('optional[') else text
      kind = _ANNOTATIONS.get(text) or _ANNOTATIONS.get(text.partition('[')[0])
      if kind:
        votes[kind] = votes.get(kind, 0) + 8
  for node in ast.walk(function.node):
    for kind, weight in _use(node, name):
      votes[kind] = votes.get(kind, 0) + weight
  return votes


def _use(node: ast.AST, name: str) -> Iterator[tuple[str, float]]:
  """What a piece of syntax says of the kind of a variable."""
  is_it = lambda other: isinstance(other, ast.Name) and other.id == name
  match node:
    case ast.Attribute(ast.Name(other), attribute) if other == name:
      if attribute in _STR_METHODS:
        yield 'str', 4
      elif attribute in ('items', 'keys', 'values', 'get'):
        yield 'dict', 4
      elif attribute in ('append', 'sort', 'extend', 'insert'):
        yield 'list_int', 4
    case ast.Call(ast.Name('range' | 'abs' | 'chr'), arguments) if any(map(is_it, arguments)):
      yield 'int', 3
    case ast.Call(ast.Name('len' | 'enumerate' | 'sorted'), [first, *_]) if is_it(first):
      yield from (('list_int', 1.5), ('str', 1.2), ('list_str', 1))
    case ast.Call(ast.Name('sum' | 'max' | 'min'), [first]) if is_it(first):
      yield 'list_int', 3
    case ast.Call(ast.Name('int' | 'float'), [first]) if is_it(first):
      yield from (('int', 1), ('float', 1))
    case ast.For(_, iterated) | ast.comprehension(_, iterated) if is_it(iterated):
      yield from (('list_int', 1.5), ('list_str', 1.2), ('str', 1))
    case ast.BinOp(left, ast.Mod() | ast.FloorDiv() | ast.LShift() | ast.RShift() | ast.BitAnd() | ast.Sub(), right):
      if is_it(left) or is_it(right):
        yield 'int', 2
    case ast.BinOp(left, _, right) if is_it(left) or is_it(right):
      yield 'int', 1
    case ast.Compare(left, _, [ast.Constant(value), *_]) if is_it(left):
      yield ('str' if isinstance(value, str) else 'int'), 2
    case ast.Subscript(inner, index) if is_it(inner):
      text_key = isinstance(index, ast.Constant) and isinstance(index.value, str)
      yield from [('dict', 3)] if text_key else [('list_int', 1), ('str', 0.8), ('matrix', 0.5)]
    case ast.Subscript(ast.Subscript(inner)) if is_it(inner):
      yield 'matrix', 3


def _strings(function: Function) -> list[str]:
  """Short strings that the function's own text mentions: they lead into its branches."""
  found = {n.value: None for n in ast.walk(function.node) if isinstance(n, ast.Constant) and isinstance(n.value, str)}
  return [text for text in found if 0 < len(text) <= 12 and text.isprintable()]


def _integers(rng, most, literals):
  low = rng.choice((0, 0, 1, 2, -1)) if most <= 5 else rng.choice((-3, -1, 0, 0, 1))
  return f'range({low}, {low + most})', tuple(map(repr, range(low, low + most)))


def _listed(values):
  texts = tuple(dict.fromkeys(map(repr, values)))
  return f'[{", ".join(texts)}]', texts


def _texts(rng, most, literals):
  most = min(most, 8)
  own = rng.sample(literals, min(len(literals), math.ceil(most / 2)))
  mixed = [text + rng.choice(_WORDS) for text in own[: most // 4]]
  chosen = list(dict.fromkeys([*own, *mixed, *rng.sample(_WORDS, len(_WORDS))]))[:most]
  return _listed(chosen)


def _lists_of_int(rng, most, literals):
  sizes = [0, 1, 2, 3, 3, 4, 4, 5][-min(most, 8) :]
  return _listed([[rng.randint(-3, 9) for _ in range(size)] for size in sizes])


def _lists_of_str(rng, most, literals):
  pool = [*literals, *_WORDS]
  return _listed([rng.sample(pool, size) for size in [0, 1, 2, 2, 3, 4][-min(most, 6) :]])


def _dicts(rng, most, literals):
  keys = [*literals, 'a', 'b', 'x', 'name', 'size']
  sizes = [0, 1, 2, 2, 3][-min(most, 5) :]
  return _listed([{key: rng.randint(0, 9) for key in rng.sample(keys, size)} for size in sizes])


def _pairs(rng, most, literals):
  sizes = [0, 1, 2, 2, 3, 4][-min(most, 6) :]
  return _listed([[(rng.randint(0, 4), rng.randint(0, 9)) for _ in range(size)] for size in sizes])


def _matrices(rng, most, literals):
  shapes = [(1, 1), (1, 3), (2, 2), (2, 3), (3, 3)][-min(most, 5) :]
  return _listed([[[rng.randint(0, 5) for _ in range(columns)] for _ in range(rows)] for rows, columns in shapes])


_POOLS = {
    'int': _integers,
    'str': _texts,
    'list_int': _lists_of_int,
    'list_str': _lists_of_str,
    'dict': _dicts,
    'pairs': _pairs,
    'float': lambda rng, most, literals: _listed(sorted(rng.sample(_FLOATS, min(most, 6)))),
    'matrix': _matrices,
    'bool': lambda rng, most, literals: _listed((False, True)),
}
