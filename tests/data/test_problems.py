"""Problems with tests, from our own records and from the published sets; and as chats."""

import json
import pickle

import pyarrow
import pyarrow.parquet
import pytest

from iquest_jax.data.build.problems import conversation
from iquest_jax.data.documents import Drop, Problem, to_json
from iquest_jax.data.read import problems

OURS = Problem('p', 'Add.', ({'input': '1 2', 'output': '3'},), 'print(3)')
APPS = {
    'problem_id': 7,
    'question': 'Add.\n',
    'input_output': json.dumps({'inputs': ['1 2\n', ['3', '4']], 'outputs': ['3\n', ['7', '']]}),
    'solutions': json.dumps(['print(3)', 'print(4)']),
    'starter_code': '',
    'difficulty': 'interview',
}
APPS_CALL = APPS | {
    'input_output': json.dumps({'fn_name': 'add', 'inputs': [[1, 2], [[3], 'é']], 'outputs': [[3], [[7, 8]]]}),
    'starter_code': 'def add(a, b):\n',
}
CODE_CONTESTS = {
    'name': '1_A. Add',
    'description': 'Add.',
    'public_tests': {'input': ['1 2\n'], 'output': ['3\n']},
    'private_tests': {'input': ['3 4\n'], 'output': ['7\n']},
    'generated_tests': {'input': [], 'output': []},
    'solutions': {'language': [2, 3, 3], 'solution': ['int main() {}', 'print(3)', 'print(4)']},
    'input_file': '',
}
LIVE_CODE_BENCH = {
    'question_id': 'abc_a',
    'question_content': 'Add.',
    'starter_code': '',
    'public_test_cases': json.dumps([{'input': '1 2\n', 'output': '3\n', 'testtype': 'stdin'}]),
    'private_test_cases': json.dumps([{'input': '3 4\n', 'output': '7\n', 'testtype': 'stdin'}]),
    'metadata': '{}',
}
LIVE_CODE_BENCH_CALL = LIVE_CODE_BENCH | {
    'starter_code': 'class Solution:\n  def add(self, a, b):\n',
    'public_test_cases': json.dumps([{'input': '[1, 2]\n"x"', 'output': '3', 'testtype': 'functional'}]),
    'private_test_cases': 'eJxrYJmqxQABPVwA',
    'metadata': '{"func_name": "add"}',
}
STDIN = ({'input': '1 2\n', 'output': '3\n'}, {'input': '3 4\n', 'output': '7\n'})
READ = [
    (json.loads(to_json(OURS)), OURS),
    (APPS, Problem('7', 'Add.\n', ({'input': '1 2\n', 'output': '3\n'}, {'input': '3\n4', 'output': '7\n'}), 'print(3)')),
    (APPS_CALL, Problem('7', 'Add.\n\ndef add(a, b):\n', (
        {'input': '[1, 2]', 'output': '3'}, {'input': '[[3], "é"]', 'output': '[7, 8]'}), 'print(3)', 'add')),
    (CODE_CONTESTS, Problem('1_A. Add', 'Add.', STDIN, 'print(3)')),
    (LIVE_CODE_BENCH, Problem('abc_a', 'Add.', STDIN)),
    (LIVE_CODE_BENCH_CALL, Problem('abc_a', 'Add.\n\nclass Solution:\n  def add(self, a, b):\n', (
        {'input': '[[1, 2], "x"]', 'output': '3'},), '', 'add')),
]  # fmt: skip


@pytest.mark.parametrize('form', ['jsonl', 'parquet'])
@pytest.mark.parametrize('record, expected', READ)
def test_problems_of_every_set_are_read_with_all_their_tests(tmp_path, record, expected, form):
  path = tmp_path / f'a.{form}'
  if form == 'jsonl':
    path.write_text(json.dumps(record))
  else:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([record]), path)
  assert list(problems.read_problems(path)) == [expected]


MALFORMED = [
    ('problem: no statement', {}),
    ('problem: no statement', {'tests': [{'input': '', 'output': ''}]}),
    ('problem: no statement', APPS | {'question': ' '}),
    ('problem: no statement', APPS | {'question': 3}),
    ('problem: no tests', APPS | {'input_output': ''}),
    ('problem: no tests', {'statement': 'Add.', 'tests': []}),
    ('problem: malformed tests', {'statement': 'Add.', 'tests': [{'input': '1'}]}),
    ('problem: malformed tests', {'statement': 'Add.', 'tests': {'input': '1', 'output': '2'}}),
    ('problem: malformed tests', APPS | {'input_output': '[]'}),
    ('problem: malformed tests', APPS | {'input_output': '{"inputs": ["1"], "outputs": []}'}),
    ('problem: malformed tests', APPS | {'input_output': '{"inputs": [1], "outputs": [2]}'}),
    ('problem: malformed tests', CODE_CONTESTS | {'public_tests': ['1']}),
    ('problem: malformed tests', LIVE_CODE_BENCH | {'public_test_cases': '{"input": "1"}'}),
    ('problem: malformed tests', LIVE_CODE_BENCH_CALL | {'metadata': '{}'}),
    ('problem: a field is not JSON', APPS | {'input_output': '{"inputs"'}),
    ('problem: a field is not JSON', APPS | {'input_output': '{"inputs": ' + '[' * 50_000}),
    ('problem: a field is not JSON', {'statement': 'Add.', 'tests': [json.loads('{"a":' * 300 + '1' + '}' * 300)]}),
    ('problem: a field is not JSON', LIVE_CODE_BENCH_CALL | {
        'public_test_cases': json.dumps([{'input': 'x', 'output': '3', 'testtype': 'functional'}])}),
    ('problem: malformed solution', {'statement': 'Add.', 'tests': [{'input': '', 'output': ''}], 'solution': ['x']}),
    ('problem: reads a file', CODE_CONTESTS | {'input_file': 'in.txt'}),
]  # fmt: skip


@pytest.mark.parametrize('rule, record', MALFORMED, ids=[f'{n}-{rule}' for n, (rule, _) in enumerate(MALFORMED)])
def test_a_malformed_problem_is_dropped_by_its_rule(rule, record):
  drop = problems.read(record, 'f:1')
  assert isinstance(drop, Drop) and drop.rule == rule and drop.evidence.startswith('f:1')


class _Bomb:
  """Raises the alarm when it is loaded."""

  def __reduce__(self):
    return (pytest.fail, ('a pickle was loaded',))


def test_packed_tests_are_left_out_and_no_pickle_is_loaded():
  record = LIVE_CODE_BENCH | {'private_test_cases': pickle.dumps(_Bomb(), 0).decode()}
  assert problems.read(record).tests == STDIN[:1]


def test_a_problem_without_an_id_gets_one_of_its_content():
  one = problems.read({key: value for key, value in APPS.items() if key != 'problem_id'})
  assert one.id and one.id != problems.read(APPS).id


def test_the_statement_asks_and_the_solution_answers():
  asked = conversation(Problem('p', 'Add.\n', ({'input': '', 'output': ''},), 'def add(a, b):\n  return a + b\n', 'add'))
  assert asked.id == 'p' and asked.messages == (
      {'role': 'user', 'content': 'Add.\n\nWrite a function `add`.'},
      {'role': 'assistant', 'content': '```python\ndef add(a, b):\n  return a + b\n```'},
  )
  assert conversation(Problem('p', 'Use add.', (), 'int x;', 'add')).messages == (
      {'role': 'user', 'content': 'Use add.'},
      {'role': 'assistant', 'content': '```\nint x;\n```'},
  )
  explained = 'Like this:\n```go\nx := 1\n```'
  assert conversation(Problem('p', 'Add.', (), explained)).messages[1]['content'] == explained
  assert conversation(Problem('p', 'Add.', (), ' \n')) == Drop('problem: no solution', 'p')
