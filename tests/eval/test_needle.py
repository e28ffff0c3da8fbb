"""Retrieval: problems that are a function of suite and size, each with its answer once and at its depth."""

import pathlib

import pytest

from iquest_jax.eval import suites
from iquest_jax.eval.needle import DEPTHS, NEEDLE_4, NEEDLE_32, NEEDLE_128, REPOSITORY_4, REPOSITORY_32, REPOSITORY_128

from tests.eval.conftest import MALFORMED, graded, score

ALL = [NEEDLE_4, NEEDLE_32, NEEDLE_128, REPOSITORY_4, REPOSITORY_32, REPOSITORY_128]
by_name = pytest.mark.parametrize('suite', ALL, ids=lambda suite: suite.name)


def problems_of(suite):
  return suite.problems(pathlib.Path('nowhere'))


@by_name
def test_problems_need_no_files_and_are_the_same_every_time(suite):
  first, second = problems_of(suite), problems_of(suite)
  assert first == second == suites.problems(suite, '', None) and suites.get(suite.name) is suite
  assert len({problem.fields['answer'] for problem in first}) == len(first) == 20


@by_name
def test_the_answer_stands_once_at_its_depth_in_a_text_of_the_size(suite):
  size = int(suite.name.rpartition('_')[2].removesuffix('kb')) << 10
  for problem in problems_of(suite):
    for text in (suite.prompt(problem).text, suite.prompt(problem).messages[0]['content']):
      answer, depth = problem.fields['answer'], problem.fields['depth']
      assert text.count(answer) == 1 and size <= len(text) < size + 500
      assert abs(text.index(answer) / size - depth / 100) < 0.08


def test_no_other_sentence_answers_the_question():
  for problem in problems_of(NEEDLE_128):
    assert NEEDLE_128.prompt(problem).messages[0]['content'].count(problem.fields['lead']) == 1


@by_name
def test_others_of_the_same_kind_stand_beside_it(suite):
  asked = 'The access code of the' if suite.name.startswith('needle') else 'def scaled('
  if suite not in (NEEDLE_4, REPOSITORY_4):
    assert all(suite.prompt(problem).text.count(asked) > 5 for problem in problems_of(suite))


@by_name
def test_the_answer_scores_full_in_every_form_and_others_nothing(suite):
  problem, other = problems_of(suite)[:2]
  answer = problem.fields['answer']
  for said in (
      answer,
      f'{answer}\n<think>{other.fields["answer"]}',
      f'<think>{other.fields["answer"]}</think>It is:\n`{answer}`\n',
      f'```\n{answer}\n```',
  ):
    assert score(suite, problem, said) == {'pass@1': 100}
  assert suite.grade(problem, suite.continued(problem, f' {answer}\nmore'), None).status == 'passed'
  for said in (*MALFORMED, other.fields['answer'], answer[:-1], answer + '1', f'{answer}\n{other.fields["answer"]}'):
    assert score(suite, problem, said) == {'pass@1': 0}


def test_every_depth_has_its_figure():
  problems = {problem.id: problem for problem in problems_of(NEEDLE_4)}
  outcomes = {
      key: [graded(NEEDLE_4, one, one.fields['answer'] * (one.fields['depth'] == 25))] for key, one in problems.items()
  }
  assert NEEDLE_4.score(problems, outcomes) == {'pass@1': 20} | {f'depth {d}%': 100 * (d == 25) for d in DEPTHS}


def test_a_megabyte_is_graded():
  for suite in (NEEDLE_4, REPOSITORY_4):
    for said in ('1' * 1_000_000, '\n' * 1_000_000, '`' * 1_000_000):
      assert graded(suite, problems_of(suite)[0], said).status == 'failed'
