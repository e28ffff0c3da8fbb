"""Tasks run once each, in any number of processes; what fails is reported in one line and loses nothing."""

import fcntl
import json
import os
import signal
import sys
import threading

import pytest

from iquest_jax.data.executors import Executor, Task
from iquest_jax.errors import RunStopped, UserError

from tests.processes import ROOT
from tests.programs import tasks as programs

SILENT = lambda *_: None


def doubling(folder, values):
  return [Task(programs.double, (value, str(folder)), folder / 'results' / f'{value}.json') for value in values]


@pytest.mark.parametrize('workers', [1, 2])
def test_results_come_in_order_and_a_finished_task_is_not_run_again(tmp_path, workers):
  seen = []
  run = lambda values: Executor(workers=workers).run(
      'double twice', doubling(tmp_path, values), tmp_path,
      lambda step, done: seen.append((step, done.tasks, done.total_tasks)),
  )
  assert run([3, 1]) == [{'value': 6}, {'value': 2}] and seen[-1] == ('double twice', 2, 2)
  assert run([2, 1, 3]) == [{'value': 4}, {'value': 2}, {'value': 6}]
  assert {path.name: path.read_text() for path in tmp_path.glob('*.runs')} == {f'{n}.runs': 'x' for n in (1, 2, 3)}


def test_nothing_is_started_where_every_task_has_a_result(tmp_path):
  (tmp_path / 'results').mkdir()
  (tmp_path / 'results' / '1.json').write_text('{"value": 7}')
  assert Executor().run('double', doubling(tmp_path, [1]), tmp_path, SILENT) == [{'value': 7}]
  assert not (tmp_path / 'logs').exists()


def test_a_user_error_is_raised_after_the_other_tasks_have_finished(tmp_path, capfd):
  bad = Task(programs.refuse, (5,), tmp_path / 'results' / 'bad.json')
  with pytest.raises(UserError, match='^input 5 cannot be read$'):
    Executor(workers=2).run('double', [bad, *doubling(tmp_path, [1, 2])], tmp_path, SILENT)
  assert sorted(path.name for path in tmp_path.glob('results/*.json')) == ['1.json', '2.json']
  assert capfd.readouterr().err == ''


def test_a_full_disk_is_named(tmp_path):
  full = Task(programs.full_disk, ('/some/where',), tmp_path / 'results' / 'full.json')
  with pytest.raises(UserError, match='^prepare: /some/where: No space left on device; nothing finished is lost$'):
    Executor().run('write', [full], tmp_path, SILENT)


def test_a_killed_worker_ends_the_step_instead_of_hanging_it(tmp_path):
  killed = Task(programs.die, (), tmp_path / 'results' / 'killed.json')
  handler = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in what a shell starts in the background
  try:
    with pytest.raises(RunStopped, match='double: a worker was killed, .* have no result; rerun the same command'):
      Executor(workers=2).run('double', [killed, *doubling(tmp_path, [1])], tmp_path, SILENT)
  finally:
    signal.signal(signal.SIGINT, handler)
  assert Executor(workers=2).run('double', doubling(tmp_path, [1]), tmp_path, SILENT) == [{'value': 2}]


def test_tasks_of_a_killed_preparation_are_waited_for(tmp_path):
  """They still write the files that ours would write."""
  (tmp_path / 'results').mkdir()
  with open(tmp_path / 'tasks.lock', 'a') as orphan:
    fcntl.flock(orphan, fcntl.LOCK_SH)

    def finish():
      (tmp_path / 'results' / '1.json').write_text('{"value": 7}')
      fcntl.flock(orphan, fcntl.LOCK_UN)

    threading.Timer(0.3, finish).start()
    assert Executor().run('double', doubling(tmp_path, [1]), tmp_path, SILENT) == [{'value': 7}]
  assert not list(tmp_path.glob('*.runs'))


def test_slurm_runs_every_task_of_its_script(tmp_path, monkeypatch):
  """Commands that run at once what they are given stand for the cluster."""
  monkeypatch.setenv('PYTHONPATH', str(ROOT))  # where the tasks of this test are
  paths = [str(ROOT / 'tests/programs/slurm'), os.path.dirname(sys.executable), os.environ['PATH']]
  monkeypatch.setenv('PATH', ':'.join(paths))
  results = Executor('slurm', workers=2).run('double', doubling(tmp_path, [1, 2, 3]), tmp_path, SILENT)
  assert results == [{'value': 2}, {'value': 4}, {'value': 6}]
  assert json.loads((tmp_path / 'results' / '3.json').read_text()) == {'value': 6}


def test_a_machine_without_slurm_is_named(tmp_path, monkeypatch):
  monkeypatch.setenv('PATH', str(tmp_path))
  with pytest.raises(UserError, match='slurm needs sbatch, which is not on PATH'):
    Executor('slurm').run('double', doubling(tmp_path, [1]), tmp_path, SILENT)


@pytest.mark.long
def test_ray_runs_the_tasks(tmp_path):
  ray = pytest.importorskip('ray', reason='ray is not installed (pip install -e .[ray])')
  ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
  try:
    results = Executor('ray', workers=2).run('double', doubling(tmp_path, [1, 2, 3]), tmp_path, SILENT)
  finally:
    ray.shutdown()
  assert results == [{'value': 2}, {'value': 4}, {'value': 6}]


@pytest.mark.parametrize(
    'settings, reason',
    [
        (dict(kind='slurmm'), '--executor: "slurmm" does not exist; did you mean "slurm"'),
        (dict(workers=0), '--workers must be at least 1, got 0'),
    ],
)
def test_an_executor_that_does_not_exist_is_refused(settings, reason):
  with pytest.raises(UserError, match=reason):
    Executor(**settings)
