"""Grading: the fraction of all hidden tests, nothing for what could not be run to the end, and no program run twice."""

import json
import os
import signal
import threading

import pytest

from iquest_jax.data.documents import Problem
from iquest_jax.errors import UserError
from iquest_jax.rl.grading import Grader
from iquest_jax.sandbox import languages, verdict
from iquest_jax.sandbox.inside import processes
from iquest_jax.sandbox.limits import Limits
from iquest_jax.sandbox.verdict import Verdict

SQUARES = Problem('s', 'sq(x)', tuple({'input': f'[{x}]', 'output': str(x * x)} for x in range(20)), function='sq')
SUMS = Problem('+', 'Add.', tuple({'input': f'{x} 1', 'output': f'{x + 1}\n'} for x in range(5)))


def answer(code, language='python'):
  return f'<think>\nsq(x) is x * x\n</think>\nHere:\n```{language}\n{code}\n```\nDone.'


@pytest.fixture
def grader(pool):
  return Grader(pool, Limits(wall_s=20.0, cpu_s=1.0))


@pytest.mark.parametrize(
    ('code', 'fraction', 'status'),
    [
        ('def sq(x):\n  return x * x', 1.0, 'passed'),
        ('def sq(x):\n  return x * x if x % 2 else -1', 0.5, 'failed'),
        ('def sq(x):\n  return x * x // (x > 4)', 0.75, 'failed'),
        ('def sq(x):\n  return 2 * x', 0.1, 'failed'),
        ('def sq(x) return', 0.0, 'failed'),
        ('def square(x):\n  return x * x', 0.0, 'failed'),
        ('import os\ndef sq(x):\n  if x == 19: os._exit(0)\n  return x * x', 0.0, 'crashed'),
        ('def sq(x):\n  while x == 19: pass\n  return x * x', 0.0, 'timeout'),
        ('#' * (5 << 20), 0.0, 'refused'),
    ],
)
def test_a_function_earns_the_fraction_of_all_tests(grader, code, fraction, status):
  graded = grader.grade(SQUARES, answer(code))
  assert (graded.fraction, graded.verdict.status, graded.verdict.total) == (fraction, status, 20), graded.verdict
  assert graded.program == code + '\n'


@pytest.mark.parametrize(
    ('code', 'fraction', 'status'),
    [
        ('print(sum(map(int, input().split())))', 1.0, 'passed'),
        ('x = int(input().split()[0])\nassert x != 2\nprint(x + 1)', 0.8, 'failed'),
        ('x = int(input().split()[0])\nprint(x + (x < 3))', 0.6, 'failed'),
        ('import os\nx = int(input().split()[0])\nprint(x + 1, flush=True)\nif x == 4: os.abort()', 0.0, 'crashed'),
    ],
)
def test_a_program_earns_the_fraction_of_all_runs(grader, code, fraction, status):
  graded = grader.grade(SUMS, answer(code))
  assert (graded.fraction, graded.verdict.status, graded.verdict.total) == (fraction, status, 5), graded.verdict


@pytest.mark.skipif(bool(languages.missing('javascript')), reason='node is not installed')
def test_a_function_of_another_language_earns_the_fraction_too(pool):
  problem = Problem('s', 'sq(x)', SQUARES.tests[:4], function='sq', language='javascript')
  graded = Grader(pool).grade(problem, answer('function sq(x) { return x < 3 ? x * x : 0; }', 'javascript'))
  assert (graded.fraction, graded.verdict.status, graded.verdict.passed) == (0.75, 'failed', 3)


def test_an_answer_without_a_program_earns_nothing_and_runs_nothing():
  graded = Grader(None).grade(SQUARES, '<think>\n```python\ndef sq(x): return x * x\n```')
  assert (graded.fraction, graded.verdict.status, graded.program) == (0.0, 'failed', '')


def test_whatever_breaks_earns_nothing_although_tests_had_passed(monkeypatch):
  """Also where a verdict claims that tests passed."""
  for status in (verdict.TIMEOUT, verdict.CRASHED, verdict.MEMORY, verdict.REFUSED):
    monkeypatch.setattr(verdict, 'grade_calls', lambda *args, status=status, **_: Verdict(status, passed=20, total=20))
    assert Grader(None).grade(SQUARES, answer('x')).fraction == 0
  monkeypatch.setattr(verdict, 'grade_calls', lambda *args, **_: {}['broken'])
  with pytest.raises(KeyError):
    Grader(None).grade(SQUARES, answer('x'))


def test_a_sandbox_that_dies_earns_nothing_once(pool):
  grader, good = Grader(pool), answer('def sq(x):\n  return x * x')
  assert grader.grade(SQUARES, answer('def sq(x):\n  return 0')).fraction == 0.05
  with pool.runner() as runner:
    victims = processes.descendants(runner._process.pid) or [runner._process.pid]
  os.kill(victims[-1], signal.SIGKILL)
  assert [grader.grade(SQUARES, good).fraction for _ in range(2)] == [0.0, 1.0]


def test_a_program_is_run_once_per_problem_unless_it_was_cut_off(monkeypatch):
  runs, statuses = [], iter(['timeout', 'crashed', 'failed', 'passed'])

  def grade_calls(pool, program, calls, *args, **_):
    runs.append((program, calls))
    return Verdict(next(statuses), passed=1, total=2)

  monkeypatch.setattr(verdict, 'grade_calls', grade_calls)
  grader = Grader(None)
  fractions = [grader.grade(SQUARES, answer('def sq(x): return 1')).fraction for _ in range(5)]
  assert fractions == [0, 0, 0.5, 0.5, 0.5] and len(runs) == 3
  other = Problem('t', 'sq(x)', SQUARES.tests[:10], function='sq')
  assert grader.grade(other, answer('def sq(x): return 1')).verdict.status == 'passed' and len(runs) == 4
  same = Problem('u', 'another statement', SQUARES.tests, function='sq')
  assert grader.grade(same, answer('def sq(x): return 1', 'py')).fraction == 0.5 and len(runs) == 4


def test_threads_share_a_grader(grader):
  results = {}
  program = 'def sq(x):\n  return x * x if x < {} else 0'
  grade = lambda n: results.update({n: grader.grade(SQUARES, answer(program.format(n % 3))).fraction})
  threads = [threading.Thread(target=grade, args=(n,)) for n in range(9)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert results == {n: (1 if n % 3 < 2 else 2) / 20 for n in range(9)}


@pytest.mark.parametrize(('tests', 'said'), [(({'input': '{'},), 'malformed test'), ((), 'no tests')])
def test_tests_that_cannot_be_run_are_an_error_of_the_problem(tests, said):
  with pytest.raises(UserError, match=f'the tests of problem "bad" cannot be run: {said}.*; leave it out'):
    Grader(None).grade(Problem('bad', 'x', tests, function='f'), answer('def f(): pass'))


def test_floats_and_tuples_are_graded_as_reference_solutions_are(grader):
  tests = ({'input': '[1]', 'output': '[0.1, 3]'}, {'input': '[2]', 'output': json.dumps([0.2, 6])})
  problem = Problem('f', 'x', tests, function='f')
  assert grader.grade(problem, answer('def f(x):\n  return (x / 10 + 1e-12, 3 * x)')).fraction == 1
