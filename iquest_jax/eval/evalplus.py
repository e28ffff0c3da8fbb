"""EvalPlus: HumanEval+ and MBPP+, whose many inputs are checked against what the canonical solution returns.

A sample passes `base` if it agrees on the base inputs, and `plus` if it agrees on all. A call may take max(4 s, 4 x the
reference's time). The canonical solution runs beside the tests, in the grader's sandbox.

Source: Liu et al. 2023, and the package evalplus 0.3.1 for what its files leave out: which inputs of MBPP+ stand for
tuples, sets and complex numbers, and where other results than the reference's are right.
"""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from iquest_jax.errors import UserError
from iquest_jax.eval import read
from iquest_jax.eval.humaneval import function_of, function_prompt
from iquest_jax.eval.suite import Outcome, Problem, Prompt, Suite, pass_at
from iquest_jax.sandbox.inside import values
from iquest_jax.sandbox.limits import Limits
from iquest_jax.sandbox.pool import Pool
from iquest_jax.sandbox.verdict import FAILED, PASSED, TIMEOUT, grade_script
from iquest_jax.text import extract

_FIELDS = {
    'task_id': str, 'prompt': str, 'entry_point': str, 'canonical_solution': str, 'base_input': (list, dict),
    'plus_input': (list, dict), 'atol': (int, float),
}  # fmt: skip
_LIMITS = Limits(wall_s=60.0, cpu_s=60.0, memory_bytes=4 << 30)  # of all calls together, as published
_MBPP_REQUEST = '{}\n\nAnswer with the whole program in one ```python block.'
_MBPP_STOP = ('\nif __name__', '\nprint(', '\nassert', '\n"""', '\n```')

# Runs in front of the tests. The names begin with an underscore so that they hide none of the program's.
_SETUP = '''
import copy as _copy, json as _json, math as _math, signal as _signal, time as _time
from iquest_jax.sandbox.inside import values as _values


def _reference():
  scope = {'__name__': 'reference'}
  exec(compile(_SOLUTION, '<reference>', 'exec'), scope)
  return scope[_ENTRY]


def _close(got, expected):
  if isinstance(expected, (list, tuple)):
    return isinstance(got, (list, tuple)) and len(got) == len(expected) and all(map(_close, got, expected))
  return abs(got - expected) <= _atol + 1e-7 * abs(expected) or got == expected


def _only_floats(value):
  return isinstance(value, float) or isinstance(value, (list, tuple)) and value and all(isinstance(v, float) for v in value)


def _right(given, got, expected):
  global _atol
  if _ENTRY in _BY_ENTRY:
    return _BY_ENTRY[_ENTRY](given, got, expected)
  if _atol == 0 and _only_floats(expected):
    _atol = 1e-6  # and for the calls after it, as published
  if got == expected or _atol == 0:
    return got == expected
  return type(got) is type(expected) and _close(got, expected)


def _polynomial(given, x):
  return abs(sum(c * _math.pow(x, i) for i, c in enumerate(given[0]))) <= _atol


def _digits_apart(a, b):
  a, b = str(a), str(b)
  return sum(abs(int(x) - int(y)) for x, y in zip(a.zfill(len(b)), b.zfill(len(a))))


def _pyramid(base, height):
  return round(base**2 + 2 * base * _math.sqrt((base / 2) ** 2 + height**2))


_same_set = lambda given, got, expected: set(got) == set(expected)
_found = lambda given, got, expected: expected == (got if isinstance(got, bool) else got is not None)
_BY_ENTRY = {}
if _MBPP:
  _BY_ENTRY = {
      'are_equivalent': lambda given, got, expected: True,
      'sum_div': lambda given, got, expected: got in (expected, 0),
      'surface_Area': lambda given, got, expected: got == expected or abs(got - _pyramid(*given)) <= _atol,
      'digit_distance_nums': lambda given, got, expected: got in (expected, _digits_apart(*given)),
  }
  for _name in ('similar_elements', 'find_char_long', 'common_in_nested_lists', 'extract_singly', 'larg_nnum',
                'intersection_array', 'find_dissimilar', 'Diff'):
    _BY_ENTRY[_name] = _same_set
  for _name in ('check_str', 'text_match_three', 'text_starta_endb'):
    _BY_ENTRY[_name] = _found
else:
  _BY_ENTRY['find_zero'] = lambda given, got, expected: _polynomial(given, got)


class _TooSlow(Exception):  # a TimeoutError is an OSError, which would look like a broken pipe to the program
  pass


def _late(*_):
  raise _TooSlow('a call took longer than the reference allows')


def _check(program):
  reference = _reference()
  _signal.signal(_signal.SIGALRM, _late)
  for number, given in enumerate(_values.decode(_json.loads(_INPUTS)), start=1):
    start = _time.monotonic()
    expected = reference(*_copy.deepcopy(given))
    if _MBPP and _BY_ENTRY.get(_ENTRY) is _found and not isinstance(expected, bool):
      expected = expected is not None
    _signal.setitimer(_signal.ITIMER_REAL, max(4.0, 4 * (_time.monotonic() - start)))
    got = program(*_copy.deepcopy(given))
    _signal.setitimer(_signal.ITIMER_REAL, 0)
    shown = f'input {number}: {repr(given)[:100]} gave {repr(got)[:80]}, not {repr(expected)[:80]}'
    assert _right(given, got, expected), shown
'''


@dataclasses.dataclass
class EvalPlus(Suite):
  """HumanEval+ or MBPP+; `file` is the name of its file without the suffix."""

  name: str
  file: str
  length: int = 1024

  def problems(self, folder: pathlib.Path) -> list[Problem]:
    # A release names its version, as in HumanEvalPlus-v0.1.10.jsonl.gz.
    path = read.find(folder, *(f'{self.file}{version}.jsonl{zipped}' for version in ('', '-*') for zipped in ('', '.gz')))
    problems = []
    for record in read.records(path, _FIELDS):
      for name in ('base_input', 'plus_input'):
        if isinstance(record[name], dict) and record[name]:
          raise UserError(f'{path}: "{name}" of {record["task_id"]} must be a list; is it the official file?')
      problems.append(Problem(record['task_id'], record))
    return problems

  def prompt(self, problem: Problem) -> Prompt:
    text = problem.fields['prompt']
    if not self._is_mbpp:
      return function_prompt(text)
    request = _MBPP_REQUEST.format(text.strip().strip('"').strip())
    return Prompt(text=text, messages=[{'role': 'user', 'content': request}], stop=_MBPP_STOP)

  def extract(self, problem: Problem, answers: Sequence[str]) -> str:
    entry_point = problem.fields['entry_point']
    if self._is_mbpp:
      return extract.code(answers[-1], defines=entry_point)
    return function_of(answers[-1], problem.fields['prompt'], entry_point)

  def continued(self, problem: Problem, completion: str) -> str:
    return problem.fields['prompt'] + completion

  def grade(self, problem: Problem, extracted: str, pool: Pool) -> Outcome:
    base = self._agrees(problem, extracted, problem.fields['base_input'], pool)
    plus = self._agrees(problem, extracted, problem.fields['plus_input'], pool) if base.status == PASSED else base
    figures = {'base': float(base.status == PASSED), 'plus': float(plus.status == PASSED)}
    seconds = base.seconds + (plus.seconds if plus is not base else 0.0)
    return dataclasses.replace(plus, seconds=seconds, figures=figures)

  def score(self, problems: Mapping[str, Problem], outcomes: Mapping[str, Sequence[Outcome]]) -> dict[str, float]:
    of_base = lambda sample: dataclasses.replace(sample, status=PASSED if sample.figures['base'] else FAILED)
    base = {key: [of_base(sample) for sample in samples] for key, samples in outcomes.items()}
    return {'base': pass_at(1, base), 'plus': pass_at(1, outcomes)}

  @property
  def _is_mbpp(self) -> bool:
    return self.file == 'MbppPlus'

  def _agrees(self, problem: Problem, program: str, inputs: Any, pool: Pool) -> Outcome:
    fields = problem.fields
    given = [list(one) for one in inputs]
    if self._is_mbpp:
      given = mbpp_inputs(int(fields['task_id'].rpartition('/')[2]), given)
    constants = {
        '_SOLUTION': fields['prompt'] + fields['canonical_solution'],
        '_ENTRY': fields['entry_point'],
        '_INPUTS': json.dumps(values.encode(given)),
        '_MBPP': self._is_mbpp,
        '_atol': fields['atol'],
    }
    setup = ''.join(f'{name} = {value!r}\n' for name, value in constants.items()) + _SETUP
    entry_point = fields['entry_point']
    verdict = grade_script(pool, program, f'_check({entry_point})\n', (entry_point,), setup, limits=_LIMITS)
    if verdict.reason.startswith('_TooSlow: '):
      verdict = dataclasses.replace(verdict, status=TIMEOUT, reason=verdict.reason.removeprefix('_TooSlow: '))
    return Outcome.of(verdict)


def _tuple(value: Any) -> Any:
  return tuple(value) if isinstance(value, list) else value


def _tuples(value: list) -> list:
  return [_tuple(item) for item in value]


def _deep(value: Any) -> Any:
  return tuple(map(_deep, value)) if isinstance(value, list) else value


# How JSON stands for other types in MBPP+: [numbers of tasks], what each list of arguments becomes.
_CONVERSIONS: list[tuple[tuple[int, ...], Callable[[list], list]]] = [
    (
        (2, 116, 132, 143, 222, 261, 273, 394, 399, 421, 424, 429, 470, 560, 579, 596, 616, 630, 726, 740, 744, 809),
        _tuples,
    ),
    ((63, 64, 70, 94, 120, 237, 272, 299, 400, 409, 417, 438, 473, 614, 780), lambda given: list(map(_tuples, given))),
    ((75, 413, 444, 753), lambda given: [_tuples(given[0]), given[1]]),
    ((106, 750), lambda given: [given[0], _tuple(given[1])]),
    ((115,), lambda given: [[set(item) if isinstance(item, list) and item else {} for item in given[0]]]),
    ((124,), lambda given: [float(given[0]), complex(given[1])]),
    ((250, 405, 446, 617, 720, 763, 808), lambda given: [_tuple(given[0]), given[1]]),
    ((259, 401, 445), lambda given: [tuple(_tuples(arg)) for arg in given]),
    ((278,), lambda given: [tuple(_tuples(given[0]))]),
    ((307,), lambda given: [_tuple(given[0]), given[1], given[2]]),
    ((722,), lambda given: [{key: tuple(value) for key, value in given[0].items()}, *given[1:]]),
    ((252,), lambda given: [complex(given[0])]),
    ((580, 615, 791), lambda given: [_deep(arg) for arg in given]),
]


def mbpp_inputs(number: int, inputs: list[list]) -> list[list]:
  """The inputs of a task of MBPP+ with the types that its tests mean."""
  convert = next((convert for numbers, convert in _CONVERSIONS if number in numbers), list)
  return [convert(given) for given in inputs]


HUMANEVAL_PLUS = EvalPlus('humaneval_plus', 'HumanEvalPlus')
MBPP_PLUS = EvalPlus('mbpp_plus', 'MbppPlus')
