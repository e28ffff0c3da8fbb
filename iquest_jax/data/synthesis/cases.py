"""Tests of a problem as cases: which stubs would pass them, and what a statement or a solution gives away.

A case is a call of a function, with arguments and result as plain data, or the standard input and output of a program.
"""

import builtins
import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from iquest_jax.data.documents import Drop
from iquest_jax.sandbox.inside import grader
from iquest_jax.sandbox.verdict import same_output

# ours: of numbers that are computed, in calls and where programs print them.
TOLERANCE = 1e-9
# A name, or a method of an object that is made without arguments. Graders call it by this text.
_FUNCTION = re.compile(r'[^\W\d]\w*(\(\)\.[^\W\d]\w*)?')
# What arguments may stand in: nothing, a list, or text of one.
_WRAPPED = ('{}', '[{}]', '"[{}]"', '"({})"')
_DOCSTRING = re.compile(r'^[ \t]*[rR]?("""|\'\'\').*?\1', re.M | re.S)
_SPACE_AROUND = re.compile(r' ?([][,:;(){}<>=]) ?')


@dataclasses.dataclass(frozen=True)
class Case:
  """A test: of a function, `given` are its arguments and `expected` its result; of a program, both are text."""

  given: Any
  expected: Any


def parse(tests: Sequence[Mapping[str, Any]], function: str) -> list[Case] | Drop:
  """The cases of the tests of a document, each once; see documents.Problem."""
  if function and not _FUNCTION.fullmatch(function):
    return Drop('verify: malformed function name', function[:200])
  # A grader would call its own.
  if function.startswith('__') or hasattr(builtins, function.partition('(')[0]):
    return Drop('verify: built-in function', function)
  found = {}
  for test in tests:
    case = _case(test, function)
    if case is None:
      return Drop('verify: malformed test', _shown(test))
    found.setdefault(repr(case), case)
  return list(found.values()) or Drop('verify: no tests')


def _case(test: Mapping[str, Any], function: str) -> Case | None:
  given, expected = test.get('input'), test.get('output')
  if function:
    try:
      given = json.loads(given) if isinstance(given, str) else given
      expected = json.loads(expected) if isinstance(expected, str) else expected
      written = json.dumps([given, expected], ensure_ascii=False)
    except (ValueError, RecursionError):
      return None
    if not isinstance(given, list) or 'output' not in test or not _is_text(written) or not _is_flat([given, expected]):
      return None
    return Case(given, expected)
  if not isinstance(given, str) or not isinstance(expected, str) or not _is_text(given + expected):
    return None
  return Case(given, expected)


def stubs_pass(cases: Sequence[Case], function: str) -> str:
  """Which stub passes all cases; '' if none does.

  One stub always gives the same answer, which may be None or nothing at all; others return one of their arguments, or print
  their input, its first or its last line. What they answer is known without running them, and is compared as the
  sandbox's graders compare.
  """
  same = _same_result if function else same_output
  if all(same(cases[0].expected, case.expected) for case in cases):
    return 'a stub that always gives the same answer'
  echoes = [_echoes(case, function) for case in cases]
  for name in echoes[0]:
    if all(name in echo and same(echo[name], case.expected) for echo, case in zip(echoes, cases)):
      return f'a stub that returns {name}'
  return ''


def _echoes(case: Case, function: str) -> dict[str, Any]:
  """What stubs answer that give back a part of the input, by what they give.

  The first item and the length of an argument are not among it: they are what small problems ask for.
  """
  if function:
    arguments = {f'argument {number}': value for number, value in enumerate(case.given, 1)}
    return arguments or {'its input': case.given}
  lines = case.given.splitlines() or ['']
  return {'its input': case.given, 'the first line': lines[0], 'the last line': lines[-1]}


def hidden(cases: Sequence[Case], statement: str, function: str) -> list[Case]:
  """The cases that a statement does not show: it lacks their input or their output."""
  shown = _normal(statement)
  shows = lambda texts: any(_stands_in(text, shown) for text in texts)
  return [case for case in cases if not (shows(_inputs(case, function)) and shows(_outputs(case, function)))]


def holds_answers(cases: Sequence[Case], solution: str, function: str) -> bool:
  """Whether a solution looks up answers instead of computing them.

  A case counts as looked up if the solution contains its output, and compares with its input or has it as a key, or if both
  stand side by side. ours: more than half of the cases, and at least two, because a solution may treat 0 and 1 separately.
  Answers that are hidden better, such as a list indexed by the input, are not found.
  """
  code = _normal(_DOCSTRING.sub('', solution))  # examples may stand there
  known = sum(_looks_up(case, code, function) for case in cases)
  return known >= 2 and 2 * known > len(cases)


def _looks_up(case: Case, code: str, function: str) -> bool:
  outputs = [text for text in _outputs(case, function) if _stands_in(text, code)]
  if not outputs or not case.given:
    return False
  inputs = [wrapped.format(text) for text in _inputs(case, function) for wrapped in _WRAPPED]
  if any(_is_key(text, code) for text in inputs):
    return True
  parts = map(_forms, case.given) if function else ([word, f'"{word}"'] for word in _normal(case.given).split())
  if all(any(_is_key(text, code) for text in forms) for forms in parts):
    return True
  return any(_stands_in(f'{given}{apart}{output}', code) for given in inputs for apart in (',', '),') for output in outputs)


def _same_result(got: Any, expected: Any) -> bool:
  return grader.same(got, expected, TOLERANCE, sequences=True)


def _is_key(text: str, code: str) -> bool:
  """Whether code compares with a literal or has it as a key."""
  if not text or text not in code:
    return False
  text = rf'\(?{_alone(text)}\)?'
  # (n == LITERAL, if LITERAL == n, {LITERAL: ...}, case LITERAL, table[LITERAL] = ...)
  pattern = rf'==={{0,1}}{text}|(?:\b(?:if|elif|or|and|not)|\(|&&|\|\|) ?{text}==|[{{,]{text}:|\bcase {text}|\[{text}\]='
  return re.search(pattern, code) is not None


def _stands_in(text: str, where: str) -> bool:
  """Whether a text occurs, and not as a part of a longer number or word."""
  return bool(text) and text in where and re.search(_alone(text), where) is not None


def _alone(text: str) -> str:
  """A pattern for a text that is not a part of a longer number or word."""
  before = r'(?<![\w.-])' if re.match(r'[\w-]', text) else ''
  return before + re.escape(text) + (r'(?!\w|\.\d)' if re.match(r'\w', text[-1]) else '')


def _inputs(case: Case, function: str) -> list[str]:
  if not function:
    text = _normal(case.given)
    return [text, f'"{text}"']
  return [','.join(forms) for forms in zip(*map(_forms, case.given))]


def _outputs(case: Case, function: str) -> list[str]:
  return _forms(case.expected) if function else [_normal(case.expected)]


def _forms(value: Any) -> list[str]:
  """A value as Python and as JSON write it."""
  return [_normal(repr(value)), _normal(json.dumps(value, ensure_ascii=False))]


def _normal(text: str) -> str:
  """The text in one style: one kind of quotation mark, no blanks around punctuation, no escaped line ends."""
  text = text.replace("'", '"').replace('`', ' ').replace('\\n', ' ')
  return _SPACE_AROUND.sub(r'\1', ' '.join(text.split()))


def _is_text(text: str) -> bool:
  try:
    text.encode()
  except UnicodeEncodeError:  # a lone surrogate
    return False
  return True


def _is_flat(value: Any, levels: int = 64) -> bool:
  """Whether data are not nested so deeply that whatever goes through them would run out of stack."""
  items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
  return levels > 0 and all(_is_flat(item, levels - 1) for item in items)


def _shown(test: Any) -> str:
  return repr(test)[:200]
