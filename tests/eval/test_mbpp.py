"""MBPP: the test tasks of both files, the published prompt, setup code, and functions named like built-in ones."""

import json

import pytest

from iquest_jax.errors import UserError
from iquest_jax.eval.mbpp import MBPP, MBPP_SANITIZED

from tests.eval.conftest import MALFORMED, graded, score, write_lines


def task(number, **changes):
  return {
      'task_id': number, 'text': f'Write task {number}.', 'code': 'def sum(a, b):\n  return a + b',
      'test_list': ['assert sum(1, n) == 3', 'assert sum(1, 1) == 2'], 'test_setup_code': 'n = 2',
  } | changes  # fmt: skip


@pytest.fixture(name='problem')
def _problem(tmp_path):
  write_lines(tmp_path / 'mbpp.jsonl', *(task(number) for number in (1, 2, 3, 11, 510, 511)))
  problems = MBPP.problems(tmp_path)
  assert [problem.id for problem in problems] == ['MBPP/11', 'MBPP/510']
  return problems[0]


def test_a_text_to_continue_shows_other_tasks_first(problem):
  prompt = MBPP.prompt(problem)
  first, second, last = prompt.text.split('[DONE]\n\n')
  tests = 'Your code should pass these tests:\n\nassert sum(1, n) == 3\nassert sum(1, 1) == 2\n[BEGIN]\n'
  begin = 'You are an expert Python programmer, and here is your task: '
  assert first == f'{begin}Write task 2. {tests}def sum(a, b):\n  return a + b\n'
  assert 'Write task 3.' in second and last.endswith(f'Write task 11. {tests}') and prompt.stop == ['[DONE]']


def test_programs_are_graded_by_the_asserts_after_their_setup(problem, pool):
  right, wrong = 'def sum(a, b):\n  return b + a\n', 'def sum(a, b):\n  return 3\n'
  assert score(MBPP, problem, f'```python\n{right}```', pool) == {'pass@1': 100}
  assert MBPP.grade(problem, MBPP.continued(problem, right), pool).status == 'passed'
  outcome = graded(MBPP, problem, f'```python\n{wrong}```', pool)
  assert outcome.status == 'failed' and outcome.reason.startswith('assert sum(1, 1) == 2')
  for malformed in MALFORMED:  # the built-in sum must not pass either
    assert score(MBPP, problem, malformed, pool) == {'pass@1': 0}


def test_the_sanitized_file_has_its_own_fields(tmp_path, pool):
  record = task(12, test_imports=['from math import pi'], prompt='Write it.', test_list=['assert area(1) == pi'],
                code='def area(r):\n  return 3')  # fmt: skip
  (tmp_path / 'sanitized-mbpp.json').write_text(json.dumps([record]))
  (problem,) = MBPP_SANITIZED.problems(tmp_path)
  assert MBPP_SANITIZED.prompt(problem).messages[0]['content'].startswith('Write it.\n')
  assert score(MBPP_SANITIZED, problem, '```\nimport math\ndef area(r):\n  return math.pi\n```', pool) == {'pass@1': 100}
  record.pop('test_imports')
  (tmp_path / 'sanitized-mbpp.json').write_text(json.dumps([record]))
  with pytest.raises(UserError, match='record 1: field "test_imports" is missing'):
    MBPP_SANITIZED.problems(tmp_path)
