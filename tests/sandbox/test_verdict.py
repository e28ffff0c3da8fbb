"""Verdicts: correct programs pass, wrong ones fail with the first failing test, and no forgery passes."""

import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import pytest

from iquest_jax.sandbox import verdict
from iquest_jax.sandbox.inside import grader, processes, values
from iquest_jax.sandbox.limits import Limits
from iquest_jax.sandbox.pool import Pool
from iquest_jax.sandbox.runner import Runner, Step

from tests.sandbox.conftest import ATTACKS, MB, ROOT, backends

ADD = 'def add(a, b):\n  return a + b\n'
CALLS = [('add', [1, 2], 3), ('add', [-1, 1], 0)]
SCRIPT = 'assert add(1, 2) == 3\nassert add(-1, 1) == 0\n'
FORGERIES = sorted(path.stem for path in ATTACKS.glob('forge_*.py'))


def test_a_correct_program_passes_all_calls(driver):
  done = driver.grade_calls(ADD, CALLS)
  assert (done['status'], done['passed'], done['total'], done['reason'], done['test']) == ('passed', 2, 2, '', '')


def test_a_wrong_program_fails_with_its_first_failing_call(driver):
  done = driver.grade_calls('def add(a, b):\n  return abs(a) + b\n', [*CALLS, ('add', [5, 5], 1)])
  assert (done['status'], done['passed'], done['total']) == ('failed', 1, 3)
  assert done['test'] == 'add(-1, 1)' and done['reason'] == 'AssertionError: returned 2, expected 0'


def test_a_wrong_program_fails_with_its_first_failing_assert(driver):
  script = 'def check(f):\n  for a in range(3):\n    assert f(a, a) == 2 * a, f"at {a}"\n  assert f(0, 1) == 2\n'
  script += 'check(add)\n'
  done = driver.grade_script(ADD, script, names=['add'])
  assert (done['status'], done['test']) == ('failed', 'assert f(0, 1) == 2')
  done = driver.grade_script(ADD.replace('a + b', 'a and 2'), script, names=['add'])
  assert (done['status'], done['test'][:6], done['reason']) == ('failed', 'assert', 'AssertionError: at 2')


@pytest.mark.parametrize(
    ('source', 'status', 'reason'),
    [
        ('def add(a, b) return', 'failed', 'SyntaxError'),
        ('def plus(a, b): return a + b', 'failed', "NameError: name 'add' is not defined"),
        ('def add(a, b): return a / 0', 'failed', 'ZeroDivisionError: division by zero'),
        ('import not_installed', 'failed', "ModuleNotFoundError: No module named 'not_installed'"),
        ('import os\ndef add(a, b): os.abort()', 'crashed', 'ended by signal 6'),
        ('import os\ndef add(a, b): os._exit(0)', 'crashed', 'exited with 0 before the tests did'),
        ('def add(a, b):\n  while True: pass', 'timeout', 'more than 0.5 s of wall time'),
        ('import time\ntime.sleep(60)', 'timeout', 'more than 0.5 s of wall time'),
        ('', 'failed', "NameError: name 'add' is not defined"),
        ('x = "\ud800"', 'failed', 'UnicodeEncodeError'),
        ('x = 1\0', 'failed', 'null bytes'),
        ('(' * 10_000, 'failed', 'SyntaxError: too many nested parentheses'),
        ('def add(a, b): return [add]', 'failed', 'AssertionError'),
        ('def add(a, b):\n  x = []\n  x.append(x)\n  return x', 'failed', 'RecursionError'),
        ('def add(a, b): return "x" * (20 << 20)', 'crashed', 'before the tests did'),
    ],
)
def test_each_end_has_its_verdict(driver, source, status, reason):
  limits = {'wall_s': 0.5} if status == 'timeout' else {}
  for done in (driver.grade_calls(source, CALLS, limits), driver.grade_script(source, SCRIPT, limits)):
    assert done['status'] == status and reason in done['reason'], done


def test_every_call_is_graded_when_all_are_asked_for(driver):
  """Calls 2 and 3 fail, one by an exception."""
  source = 'def add(a, b):\n  return 5 // (b - 2) if b > 0 else a\n'
  calls = [('add', [7, 0], 7), ('add', [1, 1], 2), ('add', [1, 2], 3), ('add', [8, 0], 8)]
  done = driver.grade_calls(source, calls, run_all=True)
  assert (done['status'], done['passed'], done['total'], done['test']) == ('failed', 2, 4, 'add(1, 1)')
  assert done['reason'] == 'AssertionError: returned -5, expected 2'
  assert driver.grade_calls(source, calls)['passed'] == 1
  assert driver.grade_calls(ADD, CALLS, run_all=True) | {'seconds': 0, 'memory_bytes': 0} == dict(
      status='passed', reason='', test='', passed=2, total=2, seconds=0, memory_bytes=0
  )


@pytest.mark.parametrize(
    ('body', 'status'),
    [('while True: pass', 'timeout'), ('import os; os._exit(0)', 'crashed'), ('import os; os.abort()', 'crashed')],
)  # fmt: skip
def test_what_ends_a_program_ends_its_grading(driver, body, status):
  calls = [('add', [1, 2], 3), ('add', [0, 0], 0), ('add', [1, 2], 3)]
  limits = {'wall_s': 0.5} if status == 'timeout' else {}
  done = driver.grade_calls(f'def add(a, b):\n  if not a:\n    {body}\n  return a + b\n', calls, limits, run_all=True)
  assert (done['status'], done['passed'], done['total']) == (status, 1, 3), done


def test_every_run_is_graded_when_all_are_asked_for(driver):
  """Case 2 raises, case 3 is wrong."""
  source, cases = 'n = int(input())\nprint(6 // n if n < 3 else 0)\n', [('1', '6'), ('0', '0'), ('3', '2'), ('2', '3')]
  done = driver.grade_output('python', source, cases, run_all=True)
  assert (done['status'], done['passed'], done['total']) == ('failed', 2, 4)
  assert done['test'] == "case 2: '0'" and 'ZeroDivisionError' in done['reason']
  stopped = driver.grade_output('python', source, cases)
  assert (stopped['status'], stopped['passed'], stopped['test']) == ('crashed', 1, "case 2: '0'")
  endless = 'n = int(input())\nwhile n == 3: pass\nprint(6 // n)\n'
  done = driver.grade_output('python', endless, cases, {'wall_s': 0.5}, run_all=True)
  assert (done['status'], done['passed'], done['test']) == ('timeout', 1, "case 3: '3'")
  again = driver.grade_output('python', endless, [('3', '2')] * 5, {'wall_s': 0.5}, run_all=True)
  assert again['status'] == 'timeout' and again['seconds'] < 1


def test_too_much_memory_is_the_verdict_memory(driver):
  for source in ('x = b"x" * (1 << 40)', 'x = []\nwhile True: x.append(b"x" * (1 << 20))'):
    assert driver.grade_calls(source, CALLS, {'memory_bytes': 64 * MB})['status'] == 'memory'


def test_a_program_of_five_megabytes_is_refused(driver):
  assert driver.grade_calls('#' * (5 * MB), CALLS)['status'] == 'refused'


@pytest.mark.parametrize('forgery', FORGERIES)
def test_no_forgery_passes(driver, forgery):
  source, files = (ATTACKS / f'{forgery}.py').read_text(), driver.support()
  normalised = 'assert all([add(1, 2) == 3])\nassert isinstance(add(1, 2), int)\nassert normalise(add(1, 2)) == 3\n'
  results = [
      driver.grade_calls(source, CALLS, files=files),
      driver.grade_calls(source, CALLS, files=files, run_all=True),
      driver.grade_script(source, SCRIPT, files=files),
      driver.grade_script(source, normalised, files=files),
      driver.grade_script(source, 'from solution import *\nimport solution\nassert solution.add(1, 2) == 3', files=files),
  ]
  for done in results:
    assert done['status'] in ('failed', 'crashed') and 'FOUND' not in done['reason'] and not done['passed'], done
    assert 'guard' not in done['reason'] and 'refused' not in done['reason'], done


def test_a_program_cannot_poison_the_next_one(driver):
  poison, after = ((ATTACKS / f'{name}.py').read_text() for name in ('poison', 'poisoned'))
  for _ in range(2):  # The same sandboxes serve both programs.
    assert driver.grade_calls(poison, CALLS, files=driver.support())['status'] == 'passed'
    done = driver.grade_calls(after, [('found', [], [])], files=driver.support())
    assert done['status'] == 'passed', done


def test_a_test_script_works_with_the_objects_of_the_program(driver):
  source = (
      'class Node:\n  def __init__(self, value):\n    self.value, self.next = value, None\n'
      'def total(node):\n  return node.value + total(node.next) if node else 0\n'
      'def order(items):\n  items.sort()\n'
      'def pairs():\n  yield from [(1, 2), (3, 4)]\n'
      'def same(node):\n  return node\n'
      'LIMIT = 7\n'
  )
  script = (
      'from solution import total as t\n'
      'a, b = Node(1), Node(2)\na.next = b\n'
      'assert total(a) == t(a) == 3 and same(a) is a and same(a) != b\n'
      'items = [3, 1, 2]\nassert order(items) is None and items == [1, 2, 3]\n'
      'assert list(pairs()) == [(1, 2), (3, 4)] and LIMIT == 7\n'
      'try:\n  total(5)\n  assert False\nexcept AttributeError as error:\n  assert "int" in str(error)\n'
  )
  done = driver.grade_script(source, script)
  assert done['status'] == 'passed', done


def test_a_script_that_ends_its_process_does_not_pass(driver):
  assert driver.grade_script(ADD, 'import os\nassert add(1, 2) == 3\nos._exit(0)')['status'] == 'crashed'


def test_a_program_that_hangs_ends_with_its_grader(driver):
  """EvalPlus gives all calls a minute, but each a few seconds."""
  script = 'import signal\ndef late(*_): raise RuntimeError("late")\n'
  script += 'signal.signal(signal.SIGALRM, late)\nsignal.setitimer(signal.ITIMER_REAL, 0.2)\nadd(1, 2)\n'
  start = time.monotonic()
  for wait in ('while True: pass', 'import time; time.sleep(60)'):
    done = driver.grade_script(f'def add(a, b):\n  {wait}\n', script, {'wall_s': 60.0, 'cpu_s': 60.0})
    assert (done['status'], done['reason']) == ('failed', 'RuntimeError: late')
  assert time.monotonic() - start < 15


def test_a_test_that_catches_everything_does_not_pass_a_dead_program(driver):
  script = 'try:\n  add(1, 2)\nexcept BaseException:\n  pass\n'
  assert driver.grade_script('import os\ndef add(a, b): os._exit(0)', script)['status'] == 'crashed'


def test_names_of_the_program_never_replace_built_in_ones(driver):
  source = 'all = lambda items: True\ndef len(x): return 3\n'
  assert driver.grade_script(source, 'assert all([False])')['status'] == 'failed'
  assert driver.grade_script(source, 'assert len([]) == 3')['status'] == 'failed'
  assert driver.grade_script(source, 'assert len([]) == 3', names=['len'])['status'] == 'passed'


@pytest.mark.parametrize(
    'value',
    [None, True, 2**70, -0.5, float('inf'), 'é\ud800', b'\0\xff', [1, [2]], (1, (2,)), {1: 'a', (2, 3): {4}}, {1, 2},
     frozenset([1]), 1 + 2j, range(1, 9, 2), bytearray(b'x'), [], {}, (), {'$': 'tuple', 'v': []}],
)  # fmt: skip
def test_values_travel_as_themselves(value):
  back = values.decode(values.encode(value))
  assert back == value and type(back) is type(value)


def test_subclasses_travel_as_plain_values():
  class Equal(int):
    __eq__ = lambda self, other: True
    __hash__ = int.__hash__

  class Sly(list):
    __eq__ = lambda self, other: True
    __iter__ = lambda self: iter([9])

  assert values.decode(values.encode(Equal(7))) != 3
  assert values.decode(values.encode(Sly([1, Equal(2)]))) == [1, 2]
  with pytest.raises(TypeError, match='a value of type object cannot be sent'):
    values.encode(object())


@pytest.mark.parametrize(
    'data',
    [{}, {'$': 'tuple'}, {'$': 'eval', 'v': '1'}, {'$': 'handle', 'v': 0}, {'$': 'dict', 'v': 3}, {'$': 'int', 'v': 'x'},
     {'$': 'set', 'v': [[1]]}],
)  # fmt: skip
def test_what_is_not_a_value_is_refused(data):
  with pytest.raises(ValueError, match='not a value'):
    values.decode(data)


def test_results_compare_as_asked():
  assert grader.same([1.0, (2,)], [1.0, (2,)]) and not grader.same((1,), [1]) and grader.same((1,), [1], sequences=True)
  assert grader.same(1.0 + 1e-9, 1.0, tolerance=1e-6) and not grader.same(1.0 + 1e-9, 1.0)
  assert grader.same({'a': [1.0]}, {'a': [1.0 + 1e-9]}, tolerance=1e-6) and not grader.same({'a': 1}, {'b': 1})
  assert not grader.same(1, '1') and not grader.same([1], [1, 2]) and grader.same(1, 1.0) and not grader.same(None, 0)


@pytest.mark.parametrize(
    ('got', 'expected', 'same'),
    [('3\n', '3', True), (' 1 2 \n3\n\n', '1 2\n3', True), ('1.0 2', '1 2.00', True), ('1\n2', '1 2', False),
     ('1e2', '100', True), ('a 1', 'a 1.0', False), ('', '', True), ('', '0', False), ('nan', 'nan', True),
     ('1e999999999', '1', False), ('0.1', '0.10000000000000001', False), ('Yes', 'yes', False)],
)  # fmt: skip
def test_outputs_compare_by_lines_then_as_decimals(got, expected, same):
  assert verdict.same_output(got, expected) is same


@pytest.mark.parametrize('backend', backends())
def test_threads_share_a_pool(backend):
  calls = [verdict.Call('add', (1, 2), 3)]
  with Pool(2, backend) as pool:
    statuses = []
    grade = lambda i: statuses.append((i, verdict.grade_calls(pool, ADD if i % 2 else '1 / 0', calls).status))
    threads = [threading.Thread(target=grade, args=(i,)) for i in range(8)]
    for thread in threads:
      thread.start()
    for thread in threads:
      thread.join()
  assert sorted(statuses) == [(i, 'passed' if i % 2 else 'failed') for i in range(8)]


@pytest.mark.parametrize('backend', backends())
def test_packages_can_be_imported_and_not_changed(backend, tmp_path):
  for folder in (tmp_path, *tmp_path.parents[:2]):
    folder.chmod(0o755)
  (tmp_path / 'shared_package.py').write_text('VALUE = 5\n')
  (tmp_path / 'shared_package.py').chmod(0o666)
  source = 'import shared_package\ndef f():\n  open(shared_package.__file__, "a")\n  return shared_package.VALUE\n'
  with Pool(1, backend, packages=[str(tmp_path)]) as pool:
    done = verdict.grade_calls(pool, source, [verdict.Call('f', (), 5)])
    assert 'Read-only' in done.reason or 'Permission denied' in done.reason
    done = verdict.grade_script(pool, source, 'import shared_package\nassert shared_package.VALUE == 5')
    assert done.status == 'passed', done


@pytest.mark.parametrize('backend', backends())
def test_a_sandbox_that_died_is_replaced(backend):
  with Pool(1, backend) as pool:
    assert verdict.grade_calls(pool, ADD, [verdict.Call('add', (1, 2), 3)]).status == 'passed'
    with pool.runner() as runner:
      victims = processes.descendants(runner._process.pid) or [runner._process.pid]
    os.kill(victims[-1], signal.SIGKILL)
    assert verdict.grade_calls(pool, ADD, [verdict.Call('add', (1, 2), 3)]).status == 'crashed'
    assert verdict.grade_calls(pool, ADD, [verdict.Call('add', (1, 2), 3)]).status == 'passed'


@pytest.mark.skipif(os.geteuid() != 0, reason='only root can give up its uid')
@pytest.mark.parametrize('backend', backends())
def test_root_gives_up_its_uid_and_each_sandbox_has_another(backend):
  uids = []
  with Runner(backend) as first, Runner(backend) as second:
    for runner in (first, second):
      runner.start([Step(('sleep', '90'), limits=Limits(wall_s=90))])
      deadline, program = time.monotonic() + 30, ''
      while not program.startswith('Name:\tsleep') and time.monotonic() < deadline:
        last = (processes.descendants(runner._process.pid) or [runner._process.pid])[-1]
        program = pathlib.Path(f'/proc/{last}/status').read_text()
      uids.append(program.split('Uid:')[1].split()[:4])
      assert len(set(uids[-1])) == 1 and 'CapEff:\t0000000000000000' in program
  assert uids[0] != uids[1] and '0' not in uids[0] + uids[1]


@pytest.mark.parametrize('backend', backends())
def test_everything_ends_with_the_process_that_started_it(backend):
  program = (
      'from iquest_jax.sandbox.limits import Limits\nfrom iquest_jax.sandbox.runner import Runner, Step\n'
      f'runner = Runner({backend!r})\nrunner.start([Step(("sleep", "90"), limits=Limits(wall_s=90))])\n'
      'print("running", flush=True)\nrunner.finish()\n'
  )
  host = subprocess.Popen([sys.executable, '-c', program], cwd=ROOT, stdout=subprocess.PIPE, text=True)
  assert host.stdout.readline() == 'running\n'
  deadline = time.monotonic() + 30
  while len(processes.descendants(host.pid)) < 3 and time.monotonic() < deadline:
    time.sleep(0.01)
  tree = processes.descendants(host.pid)
  assert len(tree) >= 3
  host.kill()
  host.wait()
  alive = lambda: [pid for pid in tree if os.path.exists(f'/proc/{pid}')]
  while alive() and time.monotonic() < deadline:
    time.sleep(0.01)
  assert not alive()


def test_limits_must_be_positive():
  with pytest.raises(verdict.languages.UserError, match='limit wall_s must be positive, got 0'):
    Limits(wall_s=0)
