"""MultiPL-E: gold passes and wrong programs fail in every language whose toolchain is here."""

import pytest

from iquest_jax.errors import UserError
from iquest_jax.eval import multipl_e
from iquest_jax.eval.multipl_e import MULTIPL_E
from iquest_jax.sandbox import languages

from tests.eval.conftest import MALFORMED, graded, lacks, score, write_lines

# Per language: prompt, the rest of the program, and the tests, in the forms of the published files.
PROGRAMS = {
    'py': (
        'def add(a: int, b: int) -> int:\n    """Sum."""\n', '    return a + b\n',
        'def check(candidate):\n    assert candidate(2, 3) == 5\n\ndef test_check():\n    check(add)\n\ntest_check()\n',
    ),
    'sh': (
        '#!/bin/bash\n# Sum.\nadd() {\n', '    echo $(($1 + $2))\n',
        '}\n\ncandidate() {\n    add "$@"\n}\n\nset -e\nrun_test() {\n    [[ $(candidate 2 3) = "5" ]]\n}\n\nrun_test\n',
    ),
    'js': (
        '//Sum.\nfunction add(a, b){\n', '  return a + b;\n',
        "}\n\nconst assert = require('node:assert');\nfunction test() {\n  assert.deepEqual(add(2, 3), 5);\n}\n\ntest();\n",
    ),
    'cpp': (
        '#include<assert.h>\n#include<stdlib.h>\n// Sum.\nlong add(long a, long b) {\n', '    return a + b;\n',
        '}\nint main() {\n    auto candidate = add;\n    assert(candidate((2), (3)) == (5));\n}\n',
    ),
    'rs': (
        '/// Sum.\nfn add(a: isize, b: isize) -> isize {\n', '    a + b\n',
        '}\n\nfn main() {\n    let candidate = add;\n    assert_eq!(candidate(2, 3), 5);\n}\n',
    ),
    'java': (
        'import java.util.*;\nimport org.javatuples.*;\nclass Problem {\n    static long add(long a, long b) {\n',
        '        return a + b;\n',
        '    }\n    public static void main(String[] args) {\n    assert(add((2l), (3l)) == (5l));\n    }\n\n}\n',
    ),
    'go_test.go': (
        'package add_test\n\nimport (\n    "testing"\n)\n\n// Sum.\nfunc add(a int, b int) int {\n', '    return a + b\n',
        '}\n\nfunc TestAdd(t *testing.T) {\n  if add(2, 3) != 5 {\n    t.Errorf("wrong")\n  }\n}\n',
    ),
}  # fmt: skip


def record(language, **changes):
  prompt, _, tests = PROGRAMS[language]
  fields = {'name': 'HumanEval_0_add', 'language': language, 'prompt': prompt, 'tests': tests, 'stop_tokens': ['\n}']}
  return fields | changes


@pytest.fixture
def problems(tmp_path):
  for language in PROGRAMS:
    write_lines(tmp_path / f'data/humaneval-{language}.jsonl', record(language))
  return {problem.fields['language']: problem for problem in MULTIPL_E.problems(tmp_path)}


@pytest.mark.parametrize(
    'language',
    [
        pytest.param(language, marks=pytest.mark.long) if language in ('rs', 'java', 'go_test.go') else language
        for language in PROGRAMS
    ],
)
def test_gold_passes_in_both_forms_and_wrong_programs_fail(problems, pool, language):
  problem, (prompt, rest, _) = problems[language], PROGRAMS[language]
  if lacks(pool, multipl_e._LANGUAGES[language][0]):
    assert MULTIPL_E.grade(problem, prompt + rest, pool).status == 'missing'
    return
  assert MULTIPL_E.grade(problem, MULTIPL_E.continued(problem, rest), pool).status == 'passed'
  closed = {'py': '', 'java': '}\n}\n'}.get(language, '}\n')
  header = prompt.split('\n', 1)[1] if language in ('cpp', 'java') else prompt  # A chat model may leave out an include.
  chat = f'Here:\n```\n{header}{rest}{closed}```\nDone.'
  assert score(MULTIPL_E, problem, chat, pool) == {'pass@1': 100}
  assert score(MULTIPL_E, problem, chat.replace('+', '-'), pool) == {'pass@1': 0}


@pytest.mark.parametrize(
    ('language', 'code'),
    [
        ('py', 'import sys\ndef add(a, b): sys.exit(0)'),
        ('js', 'function add(a, b) { process.exit(0); }'),
        ('sh', 'exit 0\nadd() { true; }'),
        ('cpp', '#include <stdlib.h>\nlong add(long a, long b) { exit(0); }'),
    ],
)
def test_an_early_exit_is_not_a_pass(problems, pool, language, code):
  outcome = graded(MULTIPL_E, problems[language], f'```\n{code}\n```', pool)
  assert (outcome.status, outcome.reason) == ('failed', 'the program ended before its tests did')


@pytest.mark.parametrize('answer', MALFORMED)
def test_malformed_answers_score_zero(problems, pool, answer):
  for language in ('py', 'sh'):
    assert score(MULTIPL_E, problems[language], answer, pool) == {'pass@1': 0}


def test_a_program_that_never_ends_times_out(problems, pool, monkeypatch):
  monkeypatch.setattr(multipl_e, '_LIMITS', multipl_e.Limits(wall_s=1))
  assert graded(MULTIPL_E, problems['py'], '```\ndef add(a, b):\n  while True: pass\n```', pool).status == 'timeout'


def test_a_megabyte_is_graded(problems, pool):
  assert graded(MULTIPL_E, problems['py'], '```\n' + '}' * 1_000_000 + '\n```', pool).status == 'failed'


def test_what_cannot_run_here_is_missing(tmp_path, pool, monkeypatch):
  tuples = record('java', prompt=PROGRAMS['java'][0].replace('long add', 'Pair add'))
  write_lines(tmp_path / 'mbpp-x.jsonl', record('py') | {'language': 'lua'}, tuples, record('py'))
  lua, java, python = MULTIPL_E.problems(tmp_path)
  assert graded(MULTIPL_E, lua, '```\nx\n```', pool).reason == 'the sandbox does not run lua'
  monkeypatch.setattr(languages, 'missing', lambda *_: ())
  assert graded(MULTIPL_E, java, '```\nx\n```', pool).reason == 'needs the library javatuples'
  monkeypatch.setattr(languages, 'missing', lambda *_: ('python',))
  assert graded(MULTIPL_E, python, '```\nx\n```', pool).reason == 'needs python'


def test_every_language_has_its_figure(problems):
  passed, failed = multipl_e.Outcome('passed'), multipl_e.Outcome('failed')
  mine = {problem.id: problem for problem in (problems['py'], problems['cpp'])}
  outcomes = {'py/HumanEval_0_add': [passed], 'cpp/HumanEval_0_add': [failed]}
  assert MULTIPL_E.score(mine, outcomes) == {'pass@1': 50, 'py': 100, 'cpp': 0}


def test_a_file_of_another_version_is_one_clear_error(tmp_path):
  write_lines(tmp_path / 'humaneval-py.jsonl', {'name': 'x', 'language': 'py', 'prompt': '', 'stop_tokens': []})
  with pytest.raises(UserError, match='line 1: field "tests" is missing'):
    MULTIPL_E.problems(tmp_path)
