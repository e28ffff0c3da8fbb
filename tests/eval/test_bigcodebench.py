"""BigCodeBench: the benchmark's unittest classes run beside the program, mocks included."""

import pytest

from iquest_jax.errors import UserError
from iquest_jax.eval import bigcodebench
from iquest_jax.eval.bigcodebench import COMPLETE, HARD_COMPLETE, INSTRUCT

from tests.eval.conftest import MALFORMED, graded, score, write_lines

HEADER = 'import os\nimport json\ndef task_func(path):'
BODY = '    with open(path) as file:\n        return sorted(json.load(file)), os.getcwd()\n'
TEST = """
import unittest
from unittest.mock import patch, mock_open

class TestCases(unittest.TestCase):
    def setUp(self):
        self.data = '[3, 1]'
    def test_sorted(self):
        with patch('builtins.open', mock_open(read_data=self.data)), patch('os.getcwd', return_value='here'):
            self.assertEqual(task_func('x'), ([1, 3], 'here'))
    def test_missing(self):
        with self.assertRaises(FileNotFoundError):
            task_func('none.json')
"""
TASK = {
    'task_id': 'BigCodeBench/0', 'complete_prompt': f'{HEADER}\n    """Sorted."""\n', 'instruct_prompt': 'Read and sort.',
    'canonical_solution': BODY, 'code_prompt': HEADER, 'test': TEST, 'entry_point': 'task_func',
    'doc_struct': '{}', 'libs': "['os', 'json']",
}  # fmt: skip
FUNCTION = f'def task_func(path):\n{BODY}'


@pytest.fixture
def problem(tmp_path):
  write_lines(tmp_path / 'data/BigCodeBench-Hard-v0.1.4.jsonl', TASK | {'task_id': 'hard'})
  write_lines(tmp_path / 'data/BigCodeBench-v0.1.4.jsonl', TASK)
  assert HARD_COMPLETE.problems(tmp_path)[0].id == 'hard'
  return COMPLETE.problems(tmp_path)[0]


def fenced(code):
  return f'Here it is:\n```python\n{code}\n```\n'


def test_each_form_asks_by_its_own_prompt(problem):
  assert COMPLETE.prompt(problem).text == TASK['complete_prompt']
  assert TASK['complete_prompt'] in COMPLETE.prompt(problem).messages[0]['content']
  assert INSTRUCT.prompt(problem).messages[0]['content'] == 'Read and sort.' and not INSTRUCT.prompt(problem).text


def test_gold_scores_full_in_both_forms_and_without_its_imports(problem, pool):
  assert score(INSTRUCT, problem, fenced(FUNCTION), pool) == {'pass@1': 100}
  assert COMPLETE.grade(problem, COMPLETE.continued(problem, BODY), pool).status == 'passed'


@pytest.mark.parametrize(
    ('code', 'status', 'reason'),
    [
        (FUNCTION.replace('sorted', 'list'), 'failed', 'test_sorted: AssertionError'),
        (FUNCTION.replace('os.getcwd()', '1'), 'failed', 'test_sorted: AssertionError'),
        ('def f(: pass', 'failed', 'SyntaxError'),
        ('open("job.json")', 'failed', 'FileNotFoundError'),
        ('pass', 'failed', 'test_missing: AssertionError'),
        (FUNCTION.replace('with open', 'raise SystemExit\n    with open'), 'failed', 'test_missing: SystemExit'),
        ('import os\nos._exit(0)', 'crashed', 'the program ended before its tests did'),
        ('print("{}")\nimport os\nos._exit(0)', 'crashed', 'the program ended before its tests did'),
        ('import os\nos.write(1, b"[]")\nos.abort()', 'crashed', 'the program ended before its tests did'),
    ],
)
def test_wrong_programs_score_zero_with_the_first_failing_test(problem, pool, code, status, reason):
  outcome = graded(INSTRUCT, problem, fenced(code), pool)
  assert (outcome.status, outcome.reason.startswith(reason)) == (status, True), outcome


@pytest.mark.parametrize('answer', MALFORMED)
def test_malformed_answers_score_zero(problem, pool, answer):
  assert score(INSTRUCT, problem, answer, pool) == {'pass@1': 0}


def test_a_program_that_never_ends_times_out(problem, pool, monkeypatch):
  monkeypatch.setattr(bigcodebench, '_LIMITS', bigcodebench.Limits(wall_s=1))
  assert graded(INSTRUCT, problem, fenced('while True: pass'), pool).status == 'timeout'


def test_a_megabyte_is_graded(problem, pool):
  assert graded(INSTRUCT, problem, fenced(FUNCTION + '#' * 1_000_000), pool).status == 'passed'


def test_a_problem_without_tests_never_passes(tmp_path, pool):
  write_lines(
      tmp_path / 'BigCodeBench.jsonl', TASK | {'test': 'import unittest\nclass TestCases(unittest.TestCase): pass'}
  )
  assert graded(INSTRUCT, INSTRUCT.problems(tmp_path)[0], fenced(FUNCTION), pool).reason == 'no test ran'


def test_a_problem_whose_library_is_not_installed_is_missing(tmp_path, pool):
  write_lines(tmp_path / 'BigCodeBench.jsonl', TASK | {'libs': ['os.path', 'no_such_library.part']})
  outcome = graded(INSTRUCT, INSTRUCT.problems(tmp_path)[0], '', pool)
  assert (outcome.status, outcome.reason) == ('missing', 'needs no_such_library')


def test_a_malformed_file_is_one_clear_error(tmp_path):
  for changes, said in (
      ({'libs': 'os'}, 'libs must be a list of names'),
      ({'test': None}, 'field "test" must be a string'),
  ):
    write_lines(tmp_path / 'BigCodeBench.jsonl', TASK | changes)
    with pytest.raises(UserError, match=said):
      COMPLETE.problems(tmp_path)
