"""Finds programs that branch on the visible examples of their problem instead of computing.

An example counts if the program holds its input as a literal that is compared with ==, !=, in or by a case, is a key whose
value is the expected result, or stands in a pair or in parallel lists with it. A program is suspicious if at least two
examples count. Inputs that any honest program may treat separately, such as 0, 1 and what is empty, do not.

Found programs are logged, not punished: where a table is the honest solution, it looks the same. What hides better, such as
comparisons of hashes or of lengths, is not found. Only Python is read.
"""

import ast
import json
import re
from collections.abc import Iterator
from typing import Any

from iquest_jax.data.documents import Problem
from iquest_jax.data.synthesis.cases import Case

SUSPICIOUS = 2  # examples
# ours: characters of a program, and words of a program's input that are compared one by one.
_LONGEST, _WORDS = 100_000, 8
# Of lists that may be parallel.
_LONGEST_ROW, _MOST_ROWS = 200, 32
_LITERAL = r'[^\n]{1,500}?'
# Of a functional problem: "nums = [1, 2], k = 3".
_LABELLED = re.compile(rf'Input:?\**\s*({_LITERAL})\n+\s*\**Output:?\**\s*({_LITERAL})\s*(?:\n|\Z)', re.I)
_BLOCKS = re.compile(
    r'^\W*(?:sample |example )?input\b[^\n]{0,20}\n(.{1,2000}?)\n\W*(?:sample |example )?output\b[^\n]{0,20}\n'
    r'(.{1,2000}?)(?=\n\s*\n|\n\W*(?:sample |example )?input\b|\n```|\Z)',
    re.I | re.M | re.S,
)
_FENCE = re.compile(r'^\s*```\w*\s*$', re.M)
# Where the literal that a line begins with may end.
_ENDS = re.compile(r'[.,;)]*(?:\s|$)')
_JSON_NAMES, _PYTHON_NAMES = re.compile(r'\b(true|false|null)\b'), {'true': 'True', 'false': 'False', 'null': 'None'}


def count(program: str, problem: Problem) -> int:
  """How many visible examples of its problem a program branches on; 0 if it is not Python, or cannot be read."""
  if problem.language != 'python' or len(program) > _LONGEST:
    return 0
  shown = examples(problem)
  if len(shown) < SUSPICIOUS:
    return 0
  try:
    found = _Literals(ast.parse(program))
  except (SyntaxError, ValueError, RecursionError, MemoryError):
    return 0
  return sum(found.branch_on(case, problem.function) for case in shown)


def examples(problem: Problem) -> list[Case]:
  """The examples that a statement shows, each once: calls with results, or input and output by name."""
  statement, function = problem.statement, problem.function
  found = list(_calls(statement, function)) if function else []
  if function:
    for given, expected in _LABELLED.findall(statement):
      try:
        arguments = ast.parse(f'f({given.strip()})', mode='eval').body
        values = [ast.literal_eval(argument) for argument in (*arguments.args, *(k.value for k in arguments.keywords))]
        found.append(Case(values, _first_literal(expected)))
      except (SyntaxError, ValueError, RecursionError, MemoryError, AttributeError):
        continue
  else:
    found += [Case(given.strip(), expected.strip()) for given, expected in _BLOCKS.findall(_FENCE.sub('', statement))]
  return list({_key([case.given, case.expected]): case for case in found}.values())


def _calls(statement: str, function: str) -> Iterator[Case]:
  """Examples as `f(1, 2) == 3`, also with is, ->, =>, returns or a comment in place of ==, or below `>>> f(1, 2)`."""
  lines = statement.replace('`', '').splitlines()
  name = re.escape(function.rpartition('.')[2])
  between = re.compile(r'\s*(?:==|=>|->|→|=|is|returns|#(?:\s*(?:=>|->|==))?)\s*(.+)')
  for line, after in zip(lines, [*lines[1:], '']):
    for start in re.finditer(rf'(?<!def )\b{name}\(', line):
      end = _closing(line, start.end())
      rest = between.match(line, end)
      result = rest[1] if rest else after if line.lstrip().startswith('>>>') else ''
      try:
        arguments = ast.parse(f'f({line[start.end() : end]}', mode='eval').body
        given = [ast.literal_eval(argument) for argument in (*arguments.args, *(k.value for k in arguments.keywords))]
        yield Case(given, _first_literal(result))
      except (SyntaxError, ValueError, RecursionError, MemoryError, AttributeError):
        continue


def _closing(line: str, start: int) -> int:
  """Where the parenthesis that was opened before `start` is closed, brackets and quotes considered."""
  depth, quote = 1, ''
  for place in range(start, len(line)):
    character = line[place]
    if quote:
      quote = '' if character == quote and line[place - 1] != '\\' else quote
    elif character in '"\'':
      quote = character
    elif character in '([{':
      depth += 1
    elif character in ')]}':
      depth -= 1
      if not depth:
        return place + 1
  return len(line)


def _first_literal(text: str) -> Any:
  """The literal that a text is or begins with, such as `3` of `3, because`; ValueError if there is none."""
  text = text.strip()
  for end in (len(text), *(match.start() for match in list(_ENDS.finditer(text))[:20])):
    for written in (text[:end], _JSON_NAMES.sub(lambda name: _PYTHON_NAMES[name[0]], text[:end])):
      try:
        return ast.literal_eval(written.strip())
      except (SyntaxError, ValueError, RecursionError, MemoryError):
        continue
  raise ValueError(text)


def _number(text: str) -> Any:
  try:
    return int(text)
  except ValueError:
    return text


class _Literals:
  """The literals of a program by what it does with them."""

  def __init__(self, tree: ast.AST):
    self.compared: set[str] = set()  # by ==, !=, in, case
    self._pairs: set[tuple[str, str]] = set()  # (key, value) of displays and of stores
    self._rows: list[list[str]] = []  # elements of displays
    for node in ast.walk(tree):
      self._read(node)
    for given in self._rows:
      for results in self._rows:
        if given is not results and len(given) == len(results):
          self._pairs |= set(zip(given, results))

  def branch_on(self, case: Case, function: str) -> bool:
    """Whether the program branches on the input of an example, at once or part by part."""
    if function:
      wholes = case.given if len(case.given) == 1 else [case.given]
      parts, outputs = [case.given] if len(case.given) > 1 else [], [case.expected]
    else:
      words = case.given.split()[: _WORDS + 1]
      numbers = list(map(_number, words))
      wholes = [case.given, words, numbers, *(numbers if len(words) == 1 else [])]
      parts, outputs = [words, numbers] if 1 < len(words) <= _WORDS else [], [case.expected, _number(case.expected)]
    keys = {key for value in wholes if not _is_trivial(value) for key in _alternatives(value)}
    if keys & self.compared or any((key, _key(output)) in self._pairs for key in keys for output in outputs):
      return True
    # A digit is trivial as text, though not as the number that it stands for: the numbers are the last.
    if not parts or all(map(_is_trivial, parts[-1])):
      return False
    return any(self.compared.issuperset(map(_key, values)) for values in parts)

  def _read(self, node: ast.AST) -> None:
    match node:
      case ast.Compare():
        sides = [node.left, *node.comparators]
        for operator, left, right in zip(node.ops, sides, sides[1:]):
          if isinstance(operator, (ast.Eq, ast.NotEq, ast.Is, ast.IsNot)):
            self.compared |= {*_literal(left), *_literal(right)}
          elif isinstance(operator, (ast.In, ast.NotIn)) and isinstance(right, (ast.List, ast.Tuple, ast.Set)):
            self.compared |= {key for element in right.elts for key in _literal(element)}
      case ast.match_case():
        for pattern in ast.walk(node.pattern):
          self.compared |= set(_pattern(pattern))
      case ast.Dict():
        for key, value in zip(node.keys, node.values):
          self._pairs |= {(k, v) for k in _literal(key) for v in _literal(value)}
      case ast.List() | ast.Tuple() | ast.Set():
        keys = [next(iter(_literal(element)), '') for element in node.elts]
        self._rows += [keys] if 1 < len(keys) <= _LONGEST_ROW and len(self._rows) < _MOST_ROWS else []
        if len(keys) == 2 and all(keys):
          self._pairs.add((keys[0], keys[1]))
      case ast.Assign(targets=[ast.Subscript() as target]):
        self._pairs |= {(k, v) for k in _literal(target.slice) for v in _literal(node.value)}


def _literal(node: ast.AST | None) -> list[str]:
  """The key of a literal, as a list of one; [] if it is none."""
  try:
    return [_key(ast.literal_eval(node))]
  except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
    return []


def _pattern(pattern: ast.AST) -> list[str]:
  match pattern:
    case ast.MatchValue():
      return _literal(pattern.value)
    case ast.MatchSequence() if all(isinstance(one, ast.MatchValue) for one in pattern.patterns):
      return _literal(ast.List([one.value for one in pattern.patterns]))
  return []


def _is_trivial(value: Any) -> bool:
  """Whether an input is 0, 1, -1, a boolean, None, a single character, or empty."""
  return value in (0, 1, -1, None, [], {}) or isinstance(value, str) and len(value) < 2


def _alternatives(value: Any) -> list[str]:
  """A value as literals that a program may compare with: itself, or its text."""
  return [_key(value), *([] if isinstance(value, str) else [_key(repr(value)), _key(str(value))])]


def _key(value: Any) -> str:
  """A text that is equal for equal values; a tuple is a list, and a whole number has no point."""
  return json.dumps(_plain(value), default=repr)


def _plain(value: Any) -> Any:
  if isinstance(value, (list, tuple)):
    return [_plain(item) for item in value]
  if isinstance(value, dict):
    return sorted(([repr(_plain(key)), _plain(item)] for key, item in value.items()), key=repr)
  if isinstance(value, (set, frozenset)):
    return sorted(map(_key, value))
  return int(value) if isinstance(value, float) and value.is_integer() else value
