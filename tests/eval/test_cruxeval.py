"""CRUXEval: an answer counts if it makes the assertion true, and by no other way."""

import pytest

from iquest_jax.errors import UserError
from iquest_jax.eval import literals
from iquest_jax.eval.cruxeval import INPUT, OUTPUT

from tests.eval.conftest import MALFORMED, graded, score, write_lines

CODE = 'def f(a, b):\n  return [a + b, {a}]'
DOUBLE = {'id': 'sample_0', 'code': CODE, 'input': '"x==", "y"', 'output': "['x==y', {'x=='}]"}
LOOP = {'id': 'sample_1', 'code': 'def f(n):\n  while n: pass\n  return n', 'input': '0', 'output': '0'}


@pytest.fixture
def problems(tmp_path):
  write_lines(tmp_path / 'data/cruxeval.jsonl', DOUBLE, LOOP)
  return OUTPUT.problems(tmp_path)


def test_prompts_show_the_question_and_not_its_answer(problems):
  given, output = DOUBLE['input'], DOUBLE['output']
  for suite, shown, hidden in ((OUTPUT, f'f({given}) == ??', output), (INPUT, f'f(??) == {output}', given)):
    prompt = suite.prompt(problems[0])
    for text in (prompt.text, prompt.messages[0]['content']):
      assert shown in text and hidden not in text
    assert prompt.text.endswith('[ANSWER]\n') and prompt.stop == ['[/ANSWER]']


@pytest.mark.parametrize(
    'answer',
    [
        "[ANSWER]['x==y', {'x=='}][/ANSWER]",
        '[ANSWER]\nassert f("x==", "y") == ["x==y", {"x=="}]\n[/ANSWER] which is right.',
        "<think>[ANSWER]no</think>The format is [ANSWER] [/ANSWER].\n[ANSWER]f('x==', 'y') == [\n'x==y',\n{'x=='}]",
        "[ANSWER]\n```python\nassert f('x==', 'y') == ['x==y', {'x=='}]\n```\n[/ANSWER]",
        "[ANSWER]\nf(?) == ['x' + '==y'[2:] if 0 else 'x==y', {'x=='}]\n[/ANSWER]",
    ],
)
def test_a_right_output_scores_full_in_every_form(problems, pool, answer):
  assert score(OUTPUT, problems[0], answer, pool) == {'pass@1': 100}


def test_a_continued_prompt_is_graded_like_an_answer(problems, pool):
  for suite in (INPUT, OUTPUT):
    extracted = suite.continued(problems[0], 'assert f("x==", "y") == [\'x==y\', {\'x==\'}]\n')
    assert suite.grade(problems[0], extracted, pool).status == 'passed'


@pytest.mark.parametrize(
    'answer',
    [
        '[ANSWER] assert f("x==", "y") == 3 [/ANSWER]',
        "f(b='y', a='x==')",
        '<think>[ANSWER]f(1, 2)[/ANSWER]</think>f("x==", "y")',
    ],
)
def test_any_input_that_gives_the_output_scores_full(problems, pool, answer):
  assert score(INPUT, problems[0], answer, pool) == {'pass@1': 100}


@pytest.mark.parametrize('suite', [INPUT, OUTPUT])
@pytest.mark.parametrize(
    'answer', [*MALFORMED, '1 + ' * 4900 + '1', "f('x', 'y')", "['x', 'y']", '0 or True', 'raise SystemExit']
)
def test_wrong_and_malformed_answers_score_zero(problems, pool, suite, answer):
  assert score(suite, problems[0], answer, pool) == {'pass@1': 0}


def test_an_output_that_calls_the_function_scores_zero(problems, pool):
  outcome = graded(OUTPUT, problems[0], '[ANSWER]f("x==", "y" + "")[/ANSWER]', pool)
  assert (outcome.status, outcome.reason) == ('failed', 'the answer calls f')
  outcome = graded(INPUT, problems[0], '[ANSWER]["x==y", {"x=="}][/ANSWER]', pool)
  assert (outcome.status, outcome.reason) == ('failed', 'the answer does not call f')


def test_an_input_that_never_returns_times_out(problems, pool):
  outcome = graded(INPUT, problems[1], 'f(1)', pool)
  assert outcome.status == 'timeout' and 'more than 3 s' in outcome.reason


def test_a_megabyte_is_graded_as_no_answer(problems, pool):
  assert literals.parsed(f'[{"1, " * 20_000}]') is None
  for answer in ('[ANSWER]' * 130_000, '1 + ' * 260_000 + '1', '[' * 1_000_000):
    assert graded(OUTPUT, problems[0], answer, pool).status == 'failed'


def test_a_file_of_another_version_is_one_clear_error(tmp_path):
  write_lines(tmp_path / 'cruxeval.jsonl', {'id': 'sample_0', 'code': '', 'input': ''})
  with pytest.raises(UserError, match='line 1: field "output" is missing'):
    INPUT.problems(tmp_path)
