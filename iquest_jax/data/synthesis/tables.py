"""Answers that stand in a Python program as literals beside the inputs they belong to, seen in its tree.

A pair is an input and an answer: an item of a dict, an item assigned to one, two literals side by side, an answer under a
comparison of something with a literal (if, conditional expression, match). An input may be one argument of several, or
text that is made of all of them. Answers that are computed in the middle of a table, or read from text that is taken
apart, are not found; see `cases.holds_answers` for what is searched in other languages.
"""

import ast
import itertools
import re
from collections.abc import Iterator, Sequence
from typing import Any

from iquest_jax.data.synthesis.cases import Case

# ours: different answers under comparisons that alone make a table, whatever they are compared with.
_ANSWERS = 3
_ARITHMETIC = (ast.Add, ast.Sub, ast.Mult)
_EXACT = (ast.Eq, ast.NotEq, ast.In, ast.NotIn, ast.Is, ast.IsNot)
# What may stand in a comparison of an input with a literal. A remainder, a call or an order decides about many inputs.
_COMPARED = (
    ast.Compare, ast.BoolOp, ast.UnaryOp, ast.BinOp, ast.Name, ast.Constant, ast.Tuple, ast.List, ast.Set, ast.expr_context,
    ast.boolop, ast.unaryop, *_ARITHMETIC, *_EXACT,
)  # fmt: skip


def holds_answers(cases: Sequence[Case], solution: str, function: str) -> bool:
  """Whether a solution in Python holds the answers, or the inputs, of more than half of the cases, and at least two."""
  try:
    return _holds_answers(cases, list(ast.walk(ast.parse(solution))), function)
  except (SyntaxError, ValueError, RecursionError, MemoryError):  # numbers of thousands of digits are ValueErrors
    return False


def _holds_answers(cases: Sequence[Case], nodes: Sequence[ast.AST], function: str) -> bool:
  most = lambda known: known >= 2 and 2 * known > len(cases)
  pairs = set(itertools.chain.from_iterable(map(_pairs, nodes)))
  expected = [_results(case, function) for case in cases]
  forms = [itertools.product(_keys(case, function), results) for case, results in zip(cases, expected)]
  paired = [not pairs.isdisjoint(one) for one in forms]
  # True and False count only if all are: a predicate may treat the small numbers that its tests have too on their own.
  few = sum(one and isinstance(case.expected, bool | None) for one, case in zip(paired, cases))
  if most(sum(paired) - few) or 2 <= few == len(cases):
    return True
  guarded = set(itertools.chain.from_iterable(map(_guarded, nodes)))
  answered = [min(results & guarded) for results in expected if not results.isdisjoint(guarded)]
  if len(set(answered)) >= _ANSWERS and most(len(answered)):
    return True
  if any(_in_order(node, expected) for node in nodes):
    return True
  asked = [known for known in map(_members, nodes) if known]
  return any(most(sum(not known.isdisjoint(_whole(case, function)) for case in cases)) for known in asked)


def _pairs(node: ast.AST) -> Iterator[tuple[str, str]]:
  """(Input, answer) of each pair that a node holds."""
  match node:
    case ast.Dict():
      for key, value in zip(node.keys, node.values):
        yield from _crossed([key], [value])
    case ast.Tuple(elts=[key, value]) | ast.List(elts=[key, value]):
      yield from _crossed([key], [value])
    case ast.Assign(targets=[ast.Subscript(slice=key)], value=value):
      yield from _crossed([key], [value])
    case ast.If() | ast.IfExp():
      compared = [item for one in ast.walk(node.test) if isinstance(one, ast.Compare) for item in _literals(one)]
      yield from _crossed(compared, _answers(node.body, assigned=True))
    case ast.match_case():
      compared = [one.value for one in ast.walk(node.pattern) if isinstance(one, ast.MatchValue)]
      yield from _crossed(compared, _answers(node.body, assigned=True))
      parts = node.pattern.patterns if isinstance(node.pattern, ast.MatchSequence) else []
      if parts and all(isinstance(part, ast.MatchValue) for part in parts):
        yield from _crossed([ast.Tuple([part.value for part in parts])], _answers(node.body, assigned=True))


def _crossed(inputs: Sequence[ast.AST | None], answers: Sequence[ast.AST]) -> Iterator[tuple[str, str]]:
  values = [[_key(item[0]) for one in nodes if (item := _literal(one))] for nodes in (inputs, answers)]
  yield from itertools.product(*values)


def _guarded(node: ast.AST) -> Iterator[str]:
  """The answers that a node gives after nothing but comparisons with literals, and those that it gives otherwise."""
  if isinstance(node, ast.If | ast.IfExp) and all(isinstance(one, _COMPARED) for one in ast.walk(node.test)):
    answers = [*_answers(node.body), *_answers(node.orelse)]
  elif isinstance(node, ast.FunctionDef | ast.Module):
    answers = _answers(node.body)
  else:
    return
  for answer in answers:
    found = _literal(answer)
    if found and not isinstance(found[0], bool | None):  # of these there are few, and everyone returns them
      yield _key(found[0])


def _in_order(node: ast.AST, expected: Sequence[set[str]]) -> bool:
  """Whether a literal is the list of all answers, in the order of the tests."""
  if not isinstance(node, ast.List | ast.Tuple) or len(node.elts) != len(expected) or len(expected) < _ANSWERS:
    return False
  items = [_literal(item) for item in node.elts]
  return all(item and _key(item[0]) in results for item, results in zip(items, expected))


def _members(node: ast.AST) -> set[str]:
  """The items of a literal in which a program looks for something."""
  if not isinstance(node, ast.Compare) or not any(isinstance(kind, ast.In | ast.NotIn) for kind in node.ops):
    return set()
  items = [
      item for one in node.comparators if isinstance(one, ast.List | ast.Tuple | ast.Set) for item in one.elts
  ]
  return {_key(found[0]) for item in items if (found := _literal(item))}


def _answers(body: ast.AST | list[ast.stmt], assigned: bool = False) -> list[ast.AST]:
  """What the statements of a branch return and print, and what they assign; an expression is its own answer."""
  if isinstance(body, ast.AST):
    return [body]
  found: list[ast.AST] = []
  for statement in body:
    match statement:
      case ast.Return(value=value) if value:
        found.append(value)
      case ast.Assign(value=value) if assigned:
        found.append(value)
      case ast.Expr(value=ast.Call(func=ast.Name(id='print'), args=[value])):
        found.append(value)
  return found


def _literals(compare: ast.Compare) -> list[ast.AST]:
  """The sides of an exact comparison, and the items of those that are literals of several."""
  if not all(isinstance(kind, _EXACT) for kind in compare.ops):
    return []
  sides = [compare.left, *compare.comparators]
  return [*sides, *(item for side in sides if isinstance(side, ast.List | ast.Tuple | ast.Set) for item in side.elts)]


def _literal(node: ast.AST | None) -> list[Any]:
  """The value of a literal, or of sums and products of numbers, in a list; an empty list if it is none."""
  match node:
    case ast.BinOp(left=left, right=right, op=ast.Add() | ast.Sub() | ast.Mult() as kind):
      numbers = [*_literal(left), *_literal(right)]
      if len(numbers) < 2 or not all(isinstance(one, int | float) and abs(one) < 1e100 for one in numbers):
        return []
      a, b = numbers
      return [a + b if isinstance(kind, ast.Add) else a - b if isinstance(kind, ast.Sub) else a * b]
    case ast.Constant() | ast.UnaryOp() | ast.List() | ast.Tuple() | ast.Dict() | ast.Set():
      try:
        return [ast.literal_eval(node)]
      except (ValueError, TypeError, RecursionError, MemoryError, SyntaxError):
        return []
  return []


def _keys(case: Case, function: str) -> set[str]:
  """The forms in which a table may have the input of a case, or one argument of it, as a key."""
  if not function:
    words = case.given.split()
    numbers = _numbers(words)
    return {_key(form) for form in (case.given, case.given.strip(), words, numbers, *words, *numbers)} - {_key([])}
  apart = [','.join, ', '.join, ' '.join, '-'.join, '_'.join, ':'.join, '|'.join, ''.join]
  written = [[str(one) for one in case.given], [repr(one) for one in case.given]]
  texts = [join(words) for words in written for join in apart]
  texts += [wrapped.format(text) for text in texts[:2] for wrapped in ('({})', '[{}]')]
  return {_key(form) for form in (case.given, *case.given, *texts)} if case.given else set()


def _results(case: Case, function: str) -> set[str]:
  """The forms of an answer; what a program prints may be a number or the text of one."""
  if function:
    return {_key(case.expected)}
  text = case.expected.strip()
  return {_key(form) for form in (text, *_numbers([text]))}


def _numbers(words: Sequence[str]) -> list[int]:
  return [int(word) for word in words if len(word) < 100 and re.fullmatch(r'-?[0-9]+', word)]


def _whole(case: Case, function: str) -> set[str]:
  """The forms of a whole input, all arguments together."""
  if function and len(case.given) == 1:
    return {_key(case.given[0]), _key(case.given)}
  parts = case.given if function else (words := case.given.split()) and [*words, *_numbers(words)]
  alone = not function and len(parts) < 2
  return _keys(case, function) - (set() if alone else set(map(_key, parts)))


def _key(value: Any) -> str:
  """A value as text, the same for lists and tuples, and for 1 and 1.0."""
  if isinstance(value, list | tuple):
    return f'[{", ".join(map(_key, value))}]'
  if isinstance(value, float) and value.is_integer():
    return repr(int(value))
  return repr(value)
