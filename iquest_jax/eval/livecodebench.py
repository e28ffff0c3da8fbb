"""LiveCodeBench, code generation: a contest problem in, a Python program or method out, all tests of both kinds.

Source: its repository. 6 s per test; stdout is compared by stripped lines, then as decimals; results by equality.
"""

import base64
import binascii
import io
import json
import pathlib
import pickle
import zlib
from collections.abc import Sequence
from typing import Any

from iquest_jax.errors import UserError
from iquest_jax.eval import read
from iquest_jax.eval.suite import Outcome, Problem, Prompt, Suite
from iquest_jax.infer.sampler import Sampling
from iquest_jax.sandbox.limits import Limits
from iquest_jax.sandbox.pool import Pool
from iquest_jax.sandbox.verdict import Call, grade_calls, grade_output
from iquest_jax.text import extract

_FIELDS = {
    'question_title': str, 'question_content': str, 'question_id': str, 'starter_code': str, 'public_test_cases': str,
    'private_test_cases': str, 'metadata': str,
}  # fmt: skip
_SECONDS = 6  # per test
_LARGEST = 1 << 30  # bytes of one problem's private tests
# Programs may use these without importing them, as on the sites the problems come from.
_MODULES = (
    'string', 're', 'datetime', 'collections', 'heapq', 'bisect', 'copy', 'math', 'random', 'statistics', 'itertools',
    'functools', 'operator', 'io', 'sys', 'json',
)  # fmt: skip
_PRELUDE = ''.join(f'from {name} import *\n' for name in (*_MODULES, 'builtins', 'typing'))
_PRELUDE += f'import {", ".join(_MODULES)}\nsys.setrecursionlimit(50000)\n'
# The limit of one call is the program's own alarm; should it disable that, the limit of the whole job holds.
_METHOD = """
def the_answer(*args):
  import signal
  def out_of_time(*_):
    raise TimeoutError('more than {seconds} s for one test')
  signal.signal(signal.SIGALRM, out_of_time)
  signal.alarm({seconds})
  result = {function}(*args)
  signal.alarm(0)
  return list(result) if isinstance(result, tuple) else result
"""


class LiveCodeBench(Suite):
  """All problems of the release whose files are in the folder."""

  name = 'livecodebench'
  sampling = Sampling(temperature=0.6, top_p=0.95)
  length = 8192

  def problems(self, folder: pathlib.Path) -> list[Problem]:
    first = read.find(folder, '[lL]ive[cC]ode[bB]ench*/test*.jsonl', 'code_generation*/test*.jsonl', 'test*.jsonl')
    problems = []
    for path in sorted(first.parent.glob('test*.jsonl')):
      for record in read.records(path, _FIELDS):
        where = f'{path}: {record["question_id"]}'
        tests, metadata = _tests(where, record), _loaded(where, 'metadata', record['metadata'], dict)
        if any(test['testtype'] == 'functional' for test in tests):
          if not isinstance(metadata.get('func_name'), str):
            raise UserError(f'{where}: metadata has no "func_name" for its functional tests; download the file again')
          for test in tests:
            _call(where, test)
        problems.append(Problem(record['question_id'], record))
    return problems

  def prompt(self, problem: Problem) -> Prompt:
    fields = problem.fields
    if fields['starter_code']:
      wanted = f'Complete this code:\n```python\n{fields["starter_code"]}\n```'
    else:
      wanted = 'Read the input from standard input and print the answer to standard output.'
    text = f'# {fields["question_title"]}\n\n{fields["question_content"]}\n\n{wanted}'
    chat = f'Solve this problem by a Python program, given in one fenced block.\n\n{text}'
    return Prompt(f'{text}\n\n# Solution in Python\n\n```python\n', [{'role': 'user', 'content': chat}], stop=['```'])

  def extract(self, problem: Problem, answers: Sequence[str]) -> str:
    return extract.code(answers[-1])

  def continued(self, problem: Problem, completion: str) -> str:
    return completion

  def grade(self, problem: Problem, extracted: str, pool: Pool) -> Outcome:
    if not extracted.strip():
      return Outcome.when(False, 'the answer has no code')
    where = problem.id
    tests = _tests(where, problem.fields)
    functional = tests[0]['testtype'] == 'functional'
    if not functional:
      cases = [(test['input'], test['output']) for test in tests]
      limits = Limits(wall_s=_SECONDS, cpu_s=_SECONDS)
      return Outcome.of(grade_output(pool, 'python', _PRELUDE + extracted, cases, limits))
    function = json.loads(problem.fields['metadata'])['func_name']
    function = f'Solution().{function}' if 'class Solution' in extracted else function
    method = _METHOD.format(seconds=_SECONDS, function=function)
    seconds = _SECONDS * (len(tests) + 1)
    calls = [_call(where, test) for test in tests]
    limits = Limits(wall_s=seconds, cpu_s=seconds)
    return Outcome.of(grade_calls(pool, f'{_PRELUDE}{extracted}\n{method}', calls, limits))


def _call(where: str, test: dict[str, str]) -> Call:
  """A functional test: every line of the input is an argument in JSON."""
  try:
    args = tuple(json.loads(line) for line in test['input'].split('\n'))
    return Call('the_answer', args, json.loads(test['output']))
  except ValueError as error:
    raise UserError(f'{where}: a functional test is not JSON: {error}; download the file again') from None


def _tests(where: str, fields: Any) -> list[dict[str, str]]:
  """Public tests, then private ones, all of one kind."""
  tests = _loaded(where, 'public_test_cases', fields['public_test_cases'], list)
  private = fields['private_test_cases']
  if not private.lstrip().startswith('['):
    private = _unpacked(where, private)
  tests = tests + _loaded(where, 'private_test_cases', private, list)
  for test in tests:
    if not isinstance(test, dict) or any(
        not isinstance(test.get(name), str) for name in ('input', 'output', 'testtype')
    ):
      raise UserError(
          f'{where}: a test must have "input", "output" and "testtype", strings all; download the file again'
      )
  kinds = sorted({test['testtype'] for test in tests})
  if kinds not in (['functional'], ['stdin']):
    raise UserError(f'{where}: tests must all be stdin or all functional, got {kinds}; download the file again')
  return tests


def _loaded(where: str, field: str, text: str, kind: type) -> Any:
  try:
    value = json.loads(text)
  except ValueError as error:
    raise UserError(f'{where}: {field} is not JSON: {error}; download the file again') from None
  if not isinstance(value, kind):
    got = type(value).__name__
    raise UserError(f'{where}: {field} must be a JSON {kind.__name__}, got {got}; is it the official file?')
  return value


class _StringUnpickler(pickle.Unpickler):
  """Admits no name of any module, so that nothing can be called."""

  def find_class(self, module: str, name: str) -> Any:
    raise pickle.UnpicklingError(f'names {module}.{name}')

  def persistent_load(self, pid: Any) -> Any:
    raise pickle.UnpicklingError('has a persistent object')


def _unpacked(where: str, data: str) -> str:
  """A string from base64 of zlib of its pickle; anything but a string is refused."""
  try:
    inflate = zlib.decompressobj()
    pickled = inflate.decompress(base64.b64decode(data, validate=True), _LARGEST)
    if not inflate.eof:
      raise pickle.UnpicklingError(f'has more than {_LARGEST} bytes' if inflate.unconsumed_tail else 'is cut off')
    value = _StringUnpickler(io.BytesIO(pickled)).load()
    if type(value) is not str:
      raise pickle.UnpicklingError(f'is of type {type(value).__name__}')
  except (binascii.Error, zlib.error) as error:
    raise UserError(f'{where}: private_test_cases is not base64 of zlib: {error}; download the file again') from None
  except Exception as error:  # A hostile pickle can raise anything.
    reason = f'the pickle in private_test_cases {" ".join(str(error).split())[:200]}'
    raise UserError(f'{where}: {reason}; only a string is admitted, so do not use this file') from None
  return value


LIVECODEBENCH = LiveCodeBench()
