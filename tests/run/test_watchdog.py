"""A run that hangs ends itself with the stacks of all threads, resumes bit-equal, and heartbeats say which host is behind."""

import json

import pytest

from iquest_jax.errors import Stalled
from iquest_jax.train import heartbeat

from tests import processes
from tests.run import helpers as run_helpers
from tests.run.helpers import train

# Seconds; a step of the small model takes some hundredths, and far more on a busy machine.
PATIENT = {'watchdog.floor_s': 6.0, 'watchdog.extra_s': 120.0}
STEP = 'iquest_jax.train.session:Session.passes_over'  # called once per step


def hanging(place, count, command, seconds=600):
  return ['-m', 'tests.programs.hanging', place, str(count), str(seconds), *command]


def stalled(process, step, completed):
  """Asserts that a process reported its threads and the last steps, and then ended."""
  done = processes.finish(process, Stalled.status)
  assert 'most recent call first' in done.stderr and 'in main' in done.stderr  # the stacks
  assert f'dispatched step {step}, completed {completed}, the limit is 6 s' in done.stderr
  assert done.stderr.splitlines()[-1].startswith('error: anneal: no step for ')
  return done.stderr


def test_a_step_that_hangs_ends_the_run_with_stacks_and_it_resumes_bit_equal(shared, workdir):
  command = train('anneal', workdir, **PATIENT)
  errors = stalled(shared.start(hanging(STEP, 6, command)), 5, 4)
  assert 'hanging.py' in errors and 'train/loop.py' in errors  # where the main thread was
  shared.run(command)
  run_helpers.assert_same_run(workdir / 'anneal', shared.straight / 'anneal')


def test_of_two_processes_both_report_although_one_hangs_and_the_heartbeats_name_it(shared, workdir, unused_port):
  several = {'JAX_COORDINATOR_ADDRESS': f'localhost:{unused_port}', 'JAX_NUM_PROCESSES': '2'}
  command = train('anneal', workdir, **PATIENT)
  commands = [command, hanging(STEP, 6, command)]
  started = [shared.start(one, **several, JAX_PROCESS_ID=str(process)) for process, one in enumerate(commands)]
  (waiting, stuck) = [processes.finish(process, Stalled.status).stderr for process in started]
  assert 'on process 0 ' in waiting and 'on process 1 ' in stuck
  assert 'hanging.py' in stuck and 'hanging.py' not in waiting
  beats = heartbeat.read(run_helpers.StageFolder(workdir / 'anneal'))
  assert [beat['process'] for beat in beats] == [0, 1]


def test_an_evaluation_that_hangs_ends_the_run_after_its_own_allowance(shared, workdir):
  how = {'watchdog.floor_s': 2.0, 'watchdog.extra_s': 10.0, 'eval.every': 4}
  place = 'iquest_jax.train.metrics:held_out_losses'
  command = train('anneal', workdir, **how)
  # It begins with an evaluation; the second one hangs, after ordinary steps.
  done = processes.finish(shared.start(hanging(place, 2, command)), Stalled.status)
  assert 'dispatched step 3' in done.stderr and 'the limit is 12 s' in done.stderr


def test_a_step_that_is_slow_within_the_limit_ends_nothing(shared, workdir):
  done = shared.run(hanging(STEP, 6, train('anneal', workdir, **PATIENT), seconds=3))
  assert 'no step for' not in done.stderr


def test_heartbeats_are_gone_after_a_run_and_show_names_the_host_behind(shared, workdir):
  command = train('anneal', workdir, **{'train.steps': 6})
  shared.run(command)
  folder = run_helpers.StageFolder(workdir / 'anneal').heartbeats
  assert folder.is_dir() and not list(folder.iterdir())
  now = 1.8e9
  for process, step in enumerate((40, 40, 31)):
    beat = dict(process=process, processes=3, host=f'host-{process}', step=step, seconds_since_step=70.0, time=now)
    (folder / f'{process}.json').write_text(json.dumps(beat))
  shown = shared.run(['-m', 'launch.chain', 'show', '--size=tiny', f'--workdir={workdir}']).stdout
  assert 'behind: process 2 (host-2), step 31, 70 s after its last one' in shown


@pytest.mark.parametrize('broken', ['{"process": 0', '[]', ''])
def test_a_damaged_heartbeat_is_left_out(workdir, broken):
  folder = run_helpers.StageFolder(workdir / 'anneal')
  folder.heartbeats.mkdir(parents=True)
  (folder.heartbeats / '0.json').write_text(broken)
  assert heartbeat.describe(heartbeat.read(folder), 0.0) == []
