"""HumanEval+ and MBPP+: base and plus inputs against the reference, with its tolerances, types and special cases."""

import json

import pytest

from iquest_jax.errors import UserError
from iquest_jax.eval.evalplus import HUMANEVAL_PLUS, MBPP_PLUS, mbpp_inputs
from iquest_jax.eval.suite import Problem

from tests.eval.conftest import MALFORMED, graded, score, write_lines

HALF = {
    'task_id': 'HumanEval/0', 'prompt': 'def half(x):\n  """Half of x."""\n', 'entry_point': 'half',
    'canonical_solution': '  return x / 2\n', 'contract': '', 'base_input': [[2], [4]], 'plus_input': [[0.3]], 'atol': 0,
}  # fmt: skip
PAIRS = {
    'task_id': 'Mbpp/2', 'prompt': '"""\nWrite similar_elements.\nassert True\n"""\n', 'entry_point': 'similar_elements',
    'canonical_solution': '\ndef similar_elements(a, b):\n  return tuple(set(a) & set(b))\n', 'contract': '',
    'base_input': [[[1, 2, 3], [2, 3]]], 'plus_input': [[[], []]], 'atol': 0,
}  # fmt: skip


def problem(suite, folder, record):
  write_lines(folder / f'{suite.file}-v0.1.jsonl', record)
  return suite.problems(folder)[0]


def answer(body, signature='half(x)'):
  return f'```python\ndef {signature}:\n  {body}\n```'


def test_plus_inputs_catch_what_base_inputs_do_not(tmp_path, pool):
  half = problem(HUMANEVAL_PLUS, tmp_path, HALF)
  assert score(HUMANEVAL_PLUS, half, answer('return x / 2'), pool) == {'base': 100, 'plus': 100}
  assert score(HUMANEVAL_PLUS, half, answer('return float(x // 2)'), pool) == {'base': 100, 'plus': 0}
  assert score(HUMANEVAL_PLUS, half, answer('return x'), pool) == {'base': 0, 'plus': 0}
  outcome = graded(HUMANEVAL_PLUS, half, answer('return float(x // 2)'), pool)
  assert outcome.reason == '_check(half): AssertionError: input 1: [0.3] gave 0.0, not 0.15'
  for malformed in MALFORMED:
    assert graded(HUMANEVAL_PLUS, half, malformed, pool).status == 'failed'
  continued = HUMANEVAL_PLUS.continued(half, '  return x / 2\n')
  assert HUMANEVAL_PLUS.grade(half, continued, pool).status == 'passed'


@pytest.mark.parametrize(
    ('body', 'atol', 'passes'),
    [
        ('return x / 2 + 5e-7', 0, True),  # floats are allowed 1e-6 anyway
        ('return x / 2 + 5e-6', 0, False),
        ('return x / 2 + 5e-6', 1e-5, True),
        ('return x / 2 + 5e-5', 1e-5, False),
        ('return str(x / 2)', 1e-5, False),
        ('return [x / 2]', 1e-5, False),
        ('return True if x == 2 else x / 2', 0, True),  # equal is right, whatever its type
        ('return None', 0, False),
        ('return float("nan")', 0, False),
    ],
)
def test_floats_may_differ_by_the_tolerance(tmp_path, pool, body, atol, passes):
  half = problem(HUMANEVAL_PLUS, tmp_path, HALF | {'atol': atol})
  assert (graded(HUMANEVAL_PLUS, half, answer(body), pool).status == 'passed') == passes


def test_a_program_that_changes_its_input_is_compared_with_the_reference_on_the_input(tmp_path, pool):
  record = HALF | {'canonical_solution': '  x.sort()\n  return x\n', 'base_input': [[[2, 1]]], 'plus_input': []}
  sort = problem(HUMANEVAL_PLUS, tmp_path, record)
  assert graded(HUMANEVAL_PLUS, sort, answer('x.sort()\n  return x'), pool).status == 'passed'
  assert graded(HUMANEVAL_PLUS, sort, answer('return x'), pool).status == 'failed'


def test_a_call_that_takes_too_long_is_a_timeout(tmp_path, pool, monkeypatch):
  from iquest_jax.eval import evalplus

  monkeypatch.setattr(evalplus, '_SETUP', evalplus._SETUP.replace('max(4.0, ', 'max(0.2, '))
  half = problem(HUMANEVAL_PLUS, tmp_path, HALF)
  outcome = graded(HUMANEVAL_PLUS, half, answer('import time; time.sleep(0.6 * (x == 4)); return x / 2'), pool)
  assert outcome.status == 'timeout' and outcome.reason.endswith('a call took longer than the reference allows')


def test_mbpp_inputs_have_their_types_and_special_tasks_their_comparison(tmp_path, pool):
  pairs = problem(MBPP_PLUS, tmp_path, PAIRS)
  in_list = answer('assert type(a) is tuple\n  return [v for v in b[::-1] if v in a]', 'similar_elements(a, b)')
  assert graded(MBPP_PLUS, pairs, in_list, pool).status == 'passed'  # as a set
  assert graded(MBPP_PLUS, pairs, answer('return a', 'similar_elements(a, b)'), pool).status == 'failed'
  assert MBPP_PLUS.prompt(pairs).messages[0]['content'].startswith('Write similar_elements.\nassert True\n')


@pytest.mark.parametrize(
    ('entry', 'reference', 'body', 'passes'),
    [
        ('check_str', 'return __import__("re").search("a", s)', 'return "a" in s', True),
        ('check_str', 'return __import__("re").search("a", s)', 'return "a" not in s', False),
        ('are_equivalent', 'return 1', 'return 2', True),
        ('sum_div', 'return 6', 'return 0', True),
        ('sum_div', 'return 6', 'return 5', False),
        ('other', 'return 6', 'return 0', False),
    ],
)
def test_other_results_than_the_references_are_right_where_the_benchmark_says_so(
    tmp_path, pool, entry, reference, body, passes
):
  record = PAIRS | {
      'task_id': 'Mbpp/9', 'entry_point': entry, 'canonical_solution': f'def {entry}(s):\n  {reference}\n',
      'base_input': [['a'], ['b']], 'plus_input': [],
  }  # fmt: skip
  outcome = graded(MBPP_PLUS, problem(MBPP_PLUS, tmp_path, record), answer(body, f'{entry}(s)'), pool)
  assert (outcome.status == 'passed') == passes


def test_a_root_is_right_if_the_polynomial_vanishes_there(tmp_path, pool):
  record = HALF | {
      'entry_point': 'find_zero', 'prompt': 'def find_zero(xs):\n', 'canonical_solution': '  return 1.0\n',
      'base_input': [[[-1, 0, 1]]], 'plus_input': [], 'atol': 1e-4,
  }  # fmt: skip
  roots = problem(HUMANEVAL_PLUS, tmp_path, record)
  assert graded(HUMANEVAL_PLUS, roots, answer('return -1.0', 'find_zero(xs)'), pool).status == 'passed'
  for wrong in ('return 0.9', 'xs.clear(); return 5.0'):
    assert graded(HUMANEVAL_PLUS, roots, answer(wrong, 'find_zero(xs)'), pool).status == 'failed'


def test_json_becomes_tuples_sets_and_complex_numbers_by_task():
  assert mbpp_inputs(2, [[[1], [2]]]) == [[(1,), (2,)]]
  assert mbpp_inputs(63, [[[[1], [2]]]]) == [[[(1,), (2,)]]]
  assert mbpp_inputs(75, [[[[1]], 2]]) == [[[(1,)], 2]]
  assert mbpp_inputs(106, [[[1], [2]]]) == [[[1], (2,)]]
  assert mbpp_inputs(115, [[[[1], []]]]) == [[[{1}, {}]]]
  assert mbpp_inputs(124, [['0', '1j']]) == [[0.0, 1j]] and mbpp_inputs(252, [['1+2j']]) == [[1 + 2j]]
  assert mbpp_inputs(259, [[[[1], [2]]]]) == [[((1,), (2,))]]
  assert mbpp_inputs(278, [[[1, [2]]]]) == [[(1, (2,))]]
  assert mbpp_inputs(722, [[{'a': [1]}, 2]]) == [[{'a': (1,)}, 2]]
  assert mbpp_inputs(580, [[[1, [2]]]]) == [[(1, (2,))]]
  assert mbpp_inputs(3, [[[1]]]) == [[[1]]]


def test_a_file_without_inputs_is_refused(tmp_path):
  write_lines(tmp_path / 'HumanEvalPlus.jsonl', {key: value for key, value in HALF.items() if key != 'plus_input'})
  with pytest.raises(UserError, match='line 1: field "plus_input" is missing'):
    HUMANEVAL_PLUS.problems(tmp_path)
  (tmp_path / 'MbppPlus.jsonl').write_text(json.dumps(PAIRS | {'base_input': {'a': 1}}))
  with pytest.raises(UserError, match='"base_input" of Mbpp/2 must be a list'):
    MBPP_PLUS.problems(tmp_path)
  assert isinstance(problem(MBPP_PLUS, tmp_path / 'other', PAIRS | {'plus_input': {}}), Problem)
