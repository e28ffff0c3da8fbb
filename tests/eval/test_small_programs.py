"""Small programs: every solution passes its hidden tests, every other answer fails, and levels are scored apart."""

import concurrent.futures
import dataclasses
import json

import pytest

from iquest_jax.data.tiny import programs
from iquest_jax.errors import UserError
from iquest_jax.eval import suites
from iquest_jax.eval.small_programs import SMALL_PROGRAMS
from iquest_jax.eval.suite import Problem
from iquest_jax.run_folder import RunFolder

from tests.eval.conftest import MALFORMED, graded, score


def written(folder, count=60, split='held_out'):
  (folder / 'small_programs').mkdir(parents=True)
  records = [json.loads(json.dumps(dataclasses.asdict(one))) for one in programs.problems(0, split, count)]
  (folder / 'small_programs/held_out.jsonl').write_text(''.join(json.dumps(record) + '\n' for record in records))
  return SMALL_PROGRAMS.problems(folder)


def test_every_solution_passes_its_hidden_tests_and_no_constant_does(tmp_path, pool):
  problems = written(tmp_path)
  right = lambda problem: graded(SMALL_PROGRAMS, problem, f'```python\n{problem.fields["solution"]}```', pool)
  fixed = lambda problem: graded(SMALL_PROGRAMS, problem, f'def f(x):\n  return {problem.fields["tests"][0][1]!r}\n', pool)
  with concurrent.futures.ThreadPoolExecutor(2) as graders:
    outcomes = dict(zip([problem.id for problem in problems], graders.map(right, problems)))
    constant = list(graders.map(fixed, problems[::6]))
  assert {outcome.status for outcome in outcomes.values()} == {'passed'}
  by_id = {problem.id: problem for problem in problems}
  scores = SMALL_PROGRAMS.score(by_id, {key: [outcome] for key, outcome in outcomes.items()})
  assert scores == {'solved': 100, 'level 1': 100, 'level 2': 100}
  failed = {problem.id for problem in problems if problem.fields['level'] == 2}
  mixed = {key: [dataclasses.replace(one, status='failed') if key in failed else one] for key, one in outcomes.items()}
  scores = SMALL_PROGRAMS.score(by_id, mixed)
  solved = 100 * (1 - len(failed) / len(problems))
  assert failed and scores == pytest.approx({'solved': solved, 'level 1': 100, 'level 2': 0})
  assert {outcome.status for outcome in constant} == {'failed'} and all(0 < one.figures['tests'] < 1 for one in constant)


def test_other_answers_score_zero_without_an_error(tmp_path, pool):
  problem = written(tmp_path, count=3)[0]
  for answer in (*MALFORMED, 'def g(x):\n  return 1\n', 'def f():\n  return 1\n', 'def f(x):\n  raise SystemExit\n'):
    assert score(SMALL_PROGRAMS, problem, answer, pool) == {'solved': 0, 'level 1': 0}
  endless = graded(SMALL_PROGRAMS, problem, 'def f(x):\n  while True: pass\n', pool)
  assert endless.status == 'timeout' and endless.figures == {'tests': 0}


def test_a_corpus_without_problems_or_with_a_damaged_one_is_refused(tmp_path):
  with pytest.raises(UserError, match='held_out.jsonl: is missing, as in a corpus of an earlier version'):
    SMALL_PROGRAMS.problems(tmp_path)
  written(tmp_path, count=1)
  path = tmp_path / 'small_programs/held_out.jsonl'
  path.write_text(path.read_text().replace('"tests"', '"hidden"'))
  with pytest.raises(UserError, match='held_out.jsonl: line 1: field "tests" is missing'):
    SMALL_PROGRAMS.problems(tmp_path)


def test_problems_come_from_the_corpus_of_the_run_whatever_data_is(tmp_path):
  with pytest.raises(UserError, match='its problems come with a run folder; give --workdir'):
    suites.problems(SMALL_PROGRAMS, '', None)
  with pytest.raises(UserError, match='corpus is missing; python -m launch.prepare writes it'):
    suites.problems(SMALL_PROGRAMS, '', RunFolder(tmp_path))
  written(tmp_path / 'corpus', count=3)
  assert len(suites.problems(SMALL_PROGRAMS, 'none', RunFolder(tmp_path))) == 3


def test_the_prompt_is_the_request_alone():
  problem = Problem('a', dataclasses.asdict(programs.problems(0, 'rl', 1)[0]))
  assert SMALL_PROGRAMS.prompt(problem).messages == [{'role': 'user', 'content': problem.fields['request']}]
