"""Programming problems with tests, from the fields of our own records and of three published sets.

  ours            statement, tests, solution, function
  APPS            question, input_output (JSON: inputs, outputs, fn_name), solutions (JSON), starter_code
  CodeContests    description, public_tests, private_tests, generated_tests ({input: [...], output: [...]}), solutions
  LiveCodeBench   question_content, public_test_cases, private_test_cases (JSON: input, output, testtype), metadata,
                  starter_code

The first Python solution is taken; private tests of LiveCodeBench that are packed by pickle are left out.
Source: the official files of Hendrycks et al. 2021, Li et al. 2022, Jain et al. 2024.
"""

import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

from iquest_jax.data.documents import Drop, Problem, content_id
from iquest_jax.data.read import records

_ID = ('id', 'problem_id', 'question_id', 'task_id', 'name')
_FIELDS = ('language', 'difficulty', 'checks')
_COLUMNS = (
    *_ID, 'kind', 'statement', 'tests', 'solution', 'function', *_FIELDS,
    'question', 'input_output', 'solutions', 'starter_code',
    'description', 'public_tests', 'private_tests', 'generated_tests', 'input_file',
    'question_content', 'public_test_cases', 'private_test_cases', 'metadata',
)  # fmt: skip
# CodeContests names languages by numbers: Python 3 is 3.
_PYTHON = 3

# input and output as text, or as a call's arguments and result.
_Test = dict[str, str]


class _Malformed(ValueError):
  """The rule of a Drop, and what it saw."""


def read_problems(path: str | os.PathLike) -> Iterator[Problem | Drop]:
  """The problems of a file of .jsonl, .jsonl.gz, .jsonl.zst or .parquet; a malformed line is a Drop in its place.

  Raises:
    UserError: the file is missing, a folder, or unreadable.
  """
  for where, record in records.records(path, _COLUMNS):
    yield record if isinstance(record, Drop) else read(record, where)


def read(record: Mapping[str, Any], where: str = '') -> Problem | Drop:
  """The problem of a record in one of the forms above, or why it is none."""
  try:
    for field, form in _FORMS.items():
      if record.get(field) is not None:
        statement, tests, solution, function = form(record)
        break
    else:
      return Drop('problem: no statement', f'{where}: none of {", ".join(_FORMS)}')
  except _Malformed as error:
    return Drop(error.args[0], ': '.join(filter(None, (where, error.args[1]))))
  except ValueError as error:
    return Drop('problem: a field is not JSON', f'{where}: {error}')
  if not isinstance(statement, str) or not statement.strip():
    return Drop('problem: no statement', where)
  if not tests:
    return Drop('problem: no tests', where)
  id = records.id_of(record, _ID) or content_id(statement, solution)
  problem = Problem(id, statement, tuple(tests), solution, function)
  return records.with_fields(problem, record, _FIELDS, where) if form is _ours else problem


def _ours(record: Mapping[str, Any]) -> tuple[str, list[dict[str, Any]], str, str]:
  tests = records.parsed(record.get('tests') or [])
  is_test = lambda test: isinstance(test, dict) and {'input', 'output'} <= test.keys()
  if not isinstance(tests, list) or not all(map(is_test, tests)):
    raise _Malformed('problem: malformed tests', 'not a list of {"input", "output"}')
  solution, function = record.get('solution') or '', record.get('function') or ''
  if not isinstance(solution, str) or not isinstance(function, str):
    raise _Malformed('problem: malformed solution', 'solution and function must be strings')
  return record['statement'], tests, solution, function


def _apps(record: Mapping[str, Any]) -> tuple[str, list[_Test], str, str]:
  given = records.parsed(record.get('input_output') or '{}')
  if not isinstance(given, dict):
    raise _Malformed('problem: malformed tests', 'input_output is not an object')
  function = given.get('fn_name') or ''
  if not isinstance(function, str):
    raise _Malformed('problem: malformed tests', 'fn_name is not a string')
  pairs = _pairs(given.get('inputs') or [], given.get('outputs') or [])
  if function:
    tests = [{'input': _json(arguments), 'output': _json(_unwrapped(result))} for arguments, result in pairs]
  else:
    tests = [{'input': _lines(given), 'output': _lines(expected)} for given, expected in pairs]
  solutions = records.parsed(record.get('solutions') or '[]')
  solution = solutions[0] if isinstance(solutions, list) and solutions and isinstance(solutions[0], str) else ''
  return _with_starter(record, 'question'), tests, solution, function


def _code_contests(record: Mapping[str, Any]) -> tuple[str, list[_Test], str, str]:
  if record.get('input_file'):
    raise _Malformed('problem: reads a file', str(record['input_file'])[:40])
  tests = []
  for name in ('public_tests', 'private_tests', 'generated_tests'):
    given = records.parsed(record.get(name) or {})
    if not isinstance(given, dict):
      raise _Malformed('problem: malformed tests', f'{name} is not an object')
    pairs = _pairs(given.get('input') or [], given.get('output') or [])
    tests += [{'input': _lines(text), 'output': _lines(expected)} for text, expected in pairs]
  solutions = records.parsed(record.get('solutions') or {})
  solution = ''
  if isinstance(solutions, dict):
    texts = zip(solutions.get('language') or (), solutions.get('solution') or ())
    solution = next((text for language, text in texts if language in (_PYTHON, 'PYTHON3') and isinstance(text, str)), '')
  return record['description'], tests, solution, ''


def _live_code_bench(record: Mapping[str, Any]) -> tuple[str, list[_Test], str, str]:
  given = []
  for name in ('public_test_cases', 'private_test_cases'):
    cases = record.get(name) or '[]'
    if name.startswith('private') and isinstance(cases, str) and not cases.lstrip().startswith('['):
      continue  # packed by pickle, which a reader of foreign files must not open
    cases = records.parsed(cases)
    if not isinstance(cases, list) or not all(isinstance(test, dict) and _is_text(test) for test in cases):
      raise _Malformed('problem: malformed tests', f'{name} is not a list of {{"input", "output"}}')
    given += cases
  metadata = records.parsed(record.get('metadata') or '{}')
  function = (metadata.get('func_name') or '') if isinstance(metadata, dict) else ''
  if any(test.get('testtype') == 'functional' for test in given):
    if not function or not isinstance(function, str):
      raise _Malformed('problem: malformed tests', 'functional tests without metadata.func_name')
    # Every line of the input is an argument.
    arguments = lambda text: [records.parsed(line) for line in text.split('\n')]
    calls = [(arguments(test['input']), records.parsed(test['output'])) for test in given]
    tests = [{'input': _json(given), 'output': _json(result)} for given, result in calls]
  else:
    tests, function = [{'input': test['input'], 'output': test['output']} for test in given], ''
  return _with_starter(record, 'question_content'), tests, '', function


# By the field that holds the statement.
_FORMS = {
    'statement': _ours, 'question': _apps, 'description': _code_contests, 'question_content': _live_code_bench,
}  # fmt: skip


def _with_starter(record: Mapping[str, Any], field: str) -> str:
  statement, starter = record[field], record.get('starter_code')
  if not isinstance(statement, str) or not isinstance(starter, str) or not starter.strip():
    return statement
  return f'{statement.rstrip()}\n\n{starter}'


def _pairs(inputs: Any, outputs: Any) -> list[tuple[Any, Any]]:
  if not isinstance(inputs, list) or not isinstance(outputs, list) or len(inputs) != len(outputs):
    raise _Malformed('problem: malformed tests', 'inputs and outputs are not lists of one length')
  return list(zip(inputs, outputs))


def _lines(value: Any) -> str:
  """Text of standard input or output, which may be given line by line."""
  if isinstance(value, list) and all(isinstance(line, str) for line in value):
    value = '\n'.join(value)
  if not isinstance(value, str):
    raise _Malformed('problem: malformed tests', f'{type(value).__name__} in place of text')
  return value


def _unwrapped(result: Any) -> Any:
  """The result of a call. ours: a list of one is the list of results, as in nearly all of APPS."""
  return result[0] if isinstance(result, list) and len(result) == 1 else result


def _is_text(test: Mapping[str, Any]) -> bool:
  return isinstance(test.get('input'), str) and isinstance(test.get('output'), str)


def _json(value: Any) -> str:
  return json.dumps(value, ensure_ascii=False)
