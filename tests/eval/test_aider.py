"""Aider polyglot: edits in both formats, two tries, tests in the sandbox."""

import json

import pytest

from iquest_jax.errors import UserError
from iquest_jax.eval import aider
from iquest_jax.eval.aider import DIFF, WHOLE

from tests.eval.conftest import MALFORMED, graded, lacks, score

STUB = '"""Rows."""\n\n\ndef rows(text):\n    pass\n\n\ndef width(text):\n    return len(rows(text)[0])\n'
GOLD = STUB.replace('pass', 'return text.split("/")')
TEST = """import unittest
from matrix import rows, width

class MatrixTest(unittest.TestCase):
    def test_rows(self):
        self.assertEqual(rows("ab/cd"), ["ab", "cd"])
    def test_width(self):
        self.assertEqual(width("ab/cd"), 2)

if __name__ == "__main__":
    unittest.main()
"""
GO_STUB = 'package sum\n\nfunc Sum(a, b int) int {\n\treturn 0\n}\n'
GO_TEST = (
    'package sum\n\nimport "testing"\n\nfunc TestSum(t *testing.T) {\n\tif Sum(2, 3) != 5 { t.Fatal("wrong") }\n}\n'
)
RUST_STUB = 'pub fn sum(a: i32, b: i32) -> i32 {\n    0\n}\n'
RUST_TEST = '#[test]\n#[ignore]\nfn sums() {\n    assert_eq!(sum::sum(2, 3), 5);\n}\n'


def exercise(folder, name, files, **listed):
  root = folder / name
  config = {'files': listed}
  files = {'.meta/config.json': json.dumps(config), '.docs/instructions.md': f'Do what {name} says.', **files}
  for path, text in files.items():
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


@pytest.fixture
def folder(tmp_path):
  files = {'matrix.py': STUB, 'matrix_test.py': TEST, '.meta/example.py': GOLD}
  exercise(
      tmp_path, 'python/exercises/practice/matrix', files,
      solution=['matrix.py'], test=['matrix_test.py'], example=['.meta/example.py'],
  )  # fmt: skip
  files = {'sum.go': GO_STUB, 'sum_test.go': GO_TEST, 'go.mod': 'module sum\n\ngo 1.18\n'}
  exercise(tmp_path, 'go/exercises/practice/sum', files, solution=['sum.go', 'go.mod'], test=['sum_test.go'])
  cargo = '[package]\nname = "sum"\nversion = "1.0.0"\nedition = "2021"\n'
  files = {'src/lib.rs': RUST_STUB, 'tests/sum.rs': RUST_TEST, 'Cargo.toml': cargo}
  exercise(tmp_path, 'rust/exercises/practice/sum', files, solution=['src/lib.rs', 'Cargo.toml'], test=['tests/sum.rs'])
  exercise(tmp_path, 'javascript/exercises/practice/x', {'x.spec.js': ''}, solution=['x.js'], test=['x.spec.js'])
  return tmp_path


@pytest.fixture
def problem(folder):
  return next(one for one in WHOLE.problems(folder) if one.id == 'python/matrix')


def whole(text, name='matrix.py'):
  return f'I split the text.\n\n{name}\n```python\n{text}```\nDone.'


def diff(search, replace, name='matrix.py'):
  return f'{name}\n```\n<<<<<<< SEARCH\n{search}=======\n{replace}>>>>>>> REPLACE\n```\n'


def test_prompts_show_instructions_and_stubs_and_neither_tests_nor_example(problem):
  for suite in (WHOLE, DIFF):
    (message,) = suite.prompt(problem).messages
    assert 'Do what python/exercises/practice/matrix says.' in message['content'] and STUB in message['content']
    assert 'assertEqual' not in message['content'] and 'split' not in message['content']
  assert sorted(problem.fields['files']) == ['matrix.py', 'matrix_test.py']


@pytest.mark.parametrize(
    ('suite', 'answer'),
    [
        (WHOLE, whole(GOLD)),
        (WHOLE, f'```python\n{GOLD}```'),
        (WHOLE, whole(GOLD, '**`matrix.py`**:')),
        (DIFF, diff('    pass\n', '    return text.split("/")\n')),
        (DIFF, diff('def rows(text):\n    pass\n', '') + diff('', 'def rows(text):\n    return text.split("/")\n')),
        (
            DIFF,
            '<think>\n'
            + diff('    pass\n', '    x\n')
            + '</think>\n'
            + diff('    pass\n', '    return text.split("/")\n'),
        ),
    ],
)
def test_right_edits_score_full_in_every_form(problem, pool, suite, answer):
  assert score(suite, problem, answer, pool) == {'first try': 100, 'two tries': 100}


@pytest.mark.parametrize(
    ('suite', 'answer', 'reason'),
    [
        (WHOLE, whole(STUB), 'FAILED'),
        (WHOLE, whole('from unittest import *\n', 'matrix_test.py'), 'FAILED'),
        (WHOLE, whole(GOLD.replace('[0]', '[9]')), 'FAILED'),
        (WHOLE, whole('import os\nos._exit(0)\n'), 'the program ended before its tests did'),
        (WHOLE, whole('print("1")\nimport sys\nsys.exit(0)\n'), ''),
        (DIFF, diff('   pass\n', '    return text.split("/")\n'), 'FAILED'),
        (DIFF, diff('nothing\n', '    return text.split("/")\n'), 'FAILED'),
        *((suite, answer, 'FAILED') for answer in MALFORMED for suite in (WHOLE, DIFF)),
    ],
)
def test_wrong_and_malformed_edits_score_zero(problem, pool, suite, answer, reason):
  outcome = graded(suite, problem, answer, pool)
  assert outcome.status == 'failed' and outcome.reason.startswith(reason), outcome


def test_the_second_try_sees_the_tests_and_counts_as_second(problem, pool):
  messages = [*WHOLE.prompt(problem).messages, {'role': 'assistant', 'content': whole(STUB)}]
  (more,) = WHOLE.follow_up(problem, messages, pool)
  assert 'TypeError: ' in more['content'] and 'test_width' in more['content'] and 'Correct matrix.py' in more['content']
  messages += [more, {'role': 'assistant', 'content': whole(GOLD)}]
  assert WHOLE.follow_up(problem, messages, pool) == []
  assert score(WHOLE, problem, [whole(STUB), whole(GOLD)], pool) == {'first try': 0, 'two tries': 100}


def test_no_second_try_follows_a_pass(problem, pool):
  assert WHOLE.follow_up(problem, [{'role': 'assistant', 'content': whole(GOLD)}], pool) == []


def test_an_edit_that_does_not_apply_is_told(problem, pool):
  asked = [{'role': 'assistant', 'content': diff('nothing\n', 'x\n')}]
  assert 'A SEARCH block does not match matrix.py:\nnothing' in DIFF.follow_up(problem, asked, pool)[0]['content']
  assert (
      'No file was changed.'
      in DIFF.follow_up(problem, [{'role': 'assistant', 'content': 'Sorry.'}], pool)[0]['content']
  )


def test_edits_of_both_tries_add_up(problem, pool):
  answers = [diff('    pass\n', '    return text\n'), diff('    return text\n', '    return text.split("/")\n')]
  assert score(DIFF, problem, answers, pool) == {'first try': 0, 'two tries': 100}


@pytest.mark.long
@pytest.mark.parametrize(
    ('language', 'file', 'stub', 'fixed'),
    [('go', 'sum.go', GO_STUB, 'go.mod'), ('rust', 'lib.rs', RUST_STUB, 'Cargo.toml')],
)
def test_exercises_of_other_languages_run(folder, pool, language, file, stub, fixed):
  problem = next(one for one in WHOLE.problems(folder) if one.id == f'{language}/sum')
  if lacks(pool, language):
    assert graded(WHOLE, problem, '', pool).status == 'missing'
    return
  assert fixed not in WHOLE.prompt(problem).messages[0]['content']
  assert graded(WHOLE, problem, whole(stub.replace('0', 'a + b'), file), pool).status == 'passed'
  assert graded(WHOLE, problem, whole(stub, file), pool).status == 'failed'


def test_an_exercise_whose_tools_are_not_here_is_missing(folder, pool):
  problem = next(one for one in WHOLE.problems(folder) if one.id == 'javascript/x')
  assert graded(WHOLE, problem, '', pool).reason == 'needs jest'
  assert WHOLE.follow_up(problem, [{'role': 'assistant', 'content': ''}], pool) == []


def test_a_program_that_never_ends_times_out(problem, pool, monkeypatch):
  monkeypatch.setattr(aider, '_LIMITS', aider.Limits(wall_s=1))
  assert graded(WHOLE, problem, whole('while True: pass\n'), pool).status == 'timeout'


def test_a_megabyte_is_graded(problem, pool):
  assert graded(WHOLE, problem, whole(GOLD + '#' * 1_000_000 + '\n'), pool).status == 'passed'
  for answer in (diff('x' * 1_000_000 + '\n', ''), '<<<<<<< SEARCH\n' * 60_000, '```\n' * 250_000):
    assert graded(DIFF, problem, answer, pool).status == 'failed'


def test_a_malformed_folder_is_one_clear_error(tmp_path):
  with pytest.raises(UserError, match='has no LANGUAGE/exercises/practice/NAME'):
    WHOLE.problems(tmp_path)
  name = 'python/exercises/practice/x'
  for listed, said in (
      ({'solution': ['x.py']}, "must list files.solution and files.test: KeyError"),
      ({'solution': [], 'test': ['x_test.py']}, 'solution files, test files or .docs/instructions.md are missing'),
      ({'solution': ['x.py'], 'test': ['x_test.py']}, 'x_test.py is missing'),
  ):
    exercise(tmp_path, name, {}, **listed)
    with pytest.raises(UserError, match=said):
      WHOLE.problems(tmp_path)
