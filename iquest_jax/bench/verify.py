"""Problems per second that are verified in the sandbox, one at a time, as functions and as programs with the same tests."""

import dataclasses
import json
from collections.abc import Iterator

from iquest_jax.bench import machine
from iquest_jax.data.documents import Drop, Problem
from iquest_jax.data.synthesis.verify import verify
from iquest_jax.data.tiny import programs
from iquest_jax.sandbox.pool import Pool

PROBLEMS = 40


def results() -> Iterator[dict]:
  functions = [_function(problem) for problem in programs.problems(0, 'train', PROBLEMS)]
  with Pool(1) as pool:
    for form, problems in (('function', functions), ('program', [_program(problem) for problem in functions])):
      seconds = machine.median_seconds(lambda: _verify(problems, pool), repeats=3)
      yield {'form': form, 'tests': len(problems[0].tests), 'problems_per_second': round(PROBLEMS / seconds, 1)}


def _verify(problems: list[Problem], pool: Pool) -> None:
  for problem in problems:
    if isinstance(found := verify(problem, pool), Drop):
      raise RuntimeError(f'verify: a right solution must pass, got {found} for {problem.statement}')


def _function(problem: programs.Problem) -> Problem:
  tests = tuple({'input': json.dumps([given]), 'output': json.dumps(expected)} for given, expected in problem.tests)
  return Problem(problem.id, problem.request, tests, problem.solution, 'f')


def _program(problem: Problem) -> Problem:
  """The same as a program that reads an argument and prints the result, both as JSON."""
  solution = f'import json\n\n{problem.solution}\nprint(json.dumps(f(json.loads(input()))))\n'
  tests = tuple({'input': json.dumps(*json.loads(test['input'])), 'output': test['output']} for test in problem.tests)
  return dataclasses.replace(problem, solution=solution, function='', tests=tests)
