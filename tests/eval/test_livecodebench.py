"""LiveCodeBench: both kinds of tests, and private tests that are read without trusting them."""

import base64
import json
import os
import pickle
import zlib

import pytest

from iquest_jax.errors import UserError
from iquest_jax.eval import livecodebench
from iquest_jax.eval.livecodebench import LIVECODEBENCH as SUITE

from tests.eval.conftest import MALFORMED, graded, score, write_lines

SUM = 'n = int(input())\nprint(sum(map(int, input().split())))'
PAIRS = 'class Solution:\n  def pairs(self, xs: List[int], k: int):\n    return tuple([x, k] for x in xs)'


def packed(value) -> str:
  return base64.b64encode(zlib.compress(pickle.dumps(value))).decode()


def problem(tests, private=None, **changes):
  tests = [dict(zip(('input', 'output', 'testtype'), test)) for test in tests]
  fields = {
      'question_title': 'Title', 'question_content': 'What to do.', 'platform': 'atcoder', 'question_id': 'abc300_a',
      'contest_id': 'abc300', 'contest_date': '2023-05-01T00:00:00', 'starter_code': '', 'difficulty': 'easy',
      'public_test_cases': json.dumps(tests[:1]), 'metadata': '{}',
      'private_test_cases': packed(json.dumps(tests[1:])) if private is None else private,
  }  # fmt: skip
  return fields | changes


STDIN = problem([('2\n1 2\n', '3\n', 'stdin'), ('1\n4\n', '4.0 \n\n', 'stdin')])
FUNCTIONAL = problem(
    [('[1, 2]\n3', '[[1, 3], [2, 3]]', 'functional'), ('[]\n3', '[]', 'functional')],
    question_id='3000', starter_code='class Solution:\n  def pairs(self, xs, k):', metadata='{"func_name": "pairs"}',
)  # fmt: skip


@pytest.fixture
def problems(tmp_path):
  write_lines(tmp_path / 'another/test.jsonl', {'not': 'ours'})
  write_lines(tmp_path / 'livecodebench/test.jsonl', STDIN)
  write_lines(tmp_path / 'livecodebench/test2.jsonl', FUNCTIONAL)
  return SUITE.problems(tmp_path)


def test_all_files_of_a_release_are_read(problems):
  assert [one.id for one in problems] == ['abc300_a', '3000']


def test_prompts_hold_the_statement_and_the_starter_code_but_no_tests(problems):
  for one, shown in zip(problems, ('standard input', 'def pairs(self, xs, k):')):
    prompt = SUITE.prompt(one)
    for text in (prompt.text, prompt.messages[0]['content']):
      assert 'What to do.' in text and shown in text and '[[1, 3]' not in text


def test_right_programs_score_full_on_both_kinds(problems, pool):
  for one, gold in zip(problems, (SUM, PAIRS)):
    assert score(SUITE, one, f'Here:\n```python\n{gold}\n```\nDone.', pool) == {'pass@1': 100}
    assert SUITE.grade(one, SUITE.continued(one, gold + '\n'), pool).status == 'passed'


def test_a_program_may_define_a_function_and_use_names_it_did_not_import(problems, pool):
  answer = '```\ndef pairs(xs, k):\n  return [list(t) for t in product(xs, [int(sqrt(k * k))])]\n```'
  assert graded(SUITE, problems[1], answer, pool).status == 'passed'


@pytest.mark.parametrize(
    'answer',
    [
        *MALFORMED,
        SUM.replace('sum', 'max'),
        PAIRS.replace('[x, k]', '(x, k)'),
        '```\nprint(3)\n```',
        'class Solution: pass',
    ],
)
def test_wrong_and_malformed_answers_score_zero_on_both_kinds(problems, pool, answer):
  for one in problems:
    assert score(SUITE, one, answer, pool) == {'pass@1': 0}


def test_a_test_may_take_no_longer_than_its_limit(problems, pool, monkeypatch):
  monkeypatch.setattr(livecodebench, '_SECONDS', 1)
  assert graded(SUITE, problems[0], '```\nwhile True: pass\n```', pool).status == 'timeout'
  outcome = graded(SUITE, problems[1], PAIRS.replace('return', 'while True: xs = xs\n    return'), pool)
  assert outcome.status == 'failed' and 'more than 1 s for one test' in outcome.reason


def test_a_megabyte_is_graded(problems, pool):
  assert graded(SUITE, problems[0], f'```python\n{SUM}\n{"# comment" * 120_000}\n```', pool).status == 'passed'


class Runs:
  """A pickle that runs a command when it is loaded as usual."""

  def __init__(self, path):
    self.path = path

  def __reduce__(self):
    return os.mkdir, (str(self.path),)


def test_a_pickle_that_is_more_than_a_string_is_refused_and_never_runs(tmp_path):
  file, made = tmp_path / 'test.jsonl', tmp_path / 'made'
  cases = {
      Runs(made): 'names posix.mkdir',
      ('[]',): 'is of type tuple',
      print: 'names builtins.print',
      3: 'is of type int',
  }
  for value, said in cases.items():
    write_lines(file, problem([('', '', 'stdin')], private=packed(value)))
    with pytest.raises(UserError, match=f'abc300_a: the pickle in private_test_cases {said}') as error:
      SUITE.problems(tmp_path)
    assert '\n' not in str(error.value) and not made.exists()


def test_a_pickle_that_unpacks_to_too_much_is_refused(tmp_path, monkeypatch):
  monkeypatch.setattr(livecodebench, '_LARGEST', 1000)
  write_lines(tmp_path / 'test.jsonl', problem([('', '', 'stdin')], private=packed(' ' * 2000)))
  with pytest.raises(UserError, match='has more than 1000 bytes'):
    SUITE.problems(tmp_path)


WRONG_KIND = json.dumps([{'input': '1', 'output': '1', 'testtype': 'functional'}])


@pytest.mark.parametrize(
    ('changes', 'said'),
    [
        ({'private_test_cases': '***'}, 'is not base64 of zlib'),
        ({'private_test_cases': packed('[]')[:-8]}, 'private_test_cases'),
        ({'private_test_cases': base64.b64encode(zlib.compress(b'no pickle')).decode()}, 'pickle'),
        ({'private_test_cases': packed('{}')}, 'must be a JSON list, got dict'),
        ({'private_test_cases': packed('[{"input": "1"}]')}, 'a test must have'),
        ({'public_test_cases': WRONG_KIND}, 'must all be stdin or'),
        ({'public_test_cases': 'x'}, 'public_test_cases is not JSON'),
        ({'metadata': '[]'}, 'metadata must be a JSON dict'),
        ({'starter_code': None}, 'field "starter_code" must be a string'),
    ],
)
def test_a_malformed_file_is_one_clear_error(tmp_path, changes, said):
  write_lines(tmp_path / 'test.jsonl', problem([('1', '1', 'stdin'), ('1', '1', 'stdin')], **changes))
  with pytest.raises(UserError, match=said) as error:
    SUITE.problems(tmp_path)
  assert '\n' not in str(error.value)


def test_functional_tests_need_a_function_and_json(tmp_path):
  no_json = WRONG_KIND.replace('1', 'x', 1)
  for changes, said in (({'metadata': '{}'}, 'no "func_name"'), ({'public_test_cases': no_json}, 'not JSON')):
    write_lines(tmp_path / 'test.jsonl', FUNCTIONAL | changes)
    with pytest.raises(UserError, match=said):
      SUITE.problems(tmp_path)
