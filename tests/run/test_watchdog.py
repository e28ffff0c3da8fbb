"""A run that hangs ends itself with the stacks of its threads and resumes bit-equal; heartbeats name the host behind."""

import json
import re

import pytest

from iquest_jax.errors import Stalled
from iquest_jax.train import heartbeat

from tests import processes
from tests.run import helpers as run_helpers
from tests.run.helpers import train

# Seconds; a step of the small model takes some hundredths, and far more on a busy machine.
PATIENT = {'watchdog.multiple': 3.0, 'watchdog.floor_s': 6.0, 'watchdog.extra_s': 120.0}
STEP = 'iquest_jax.train.session:Session.passes_over'  # called once per step


def hanging(place, count, command, seconds=600):
  return ['-m', 'tests.programs.hanging', place, str(count), str(seconds), *command]


def stalled(process, step, completed):
  """Asserts that a process reported its threads and the last steps, and then ended."""
  done = processes.finish(process, Stalled.status)
  assert 'most recent call first' in done.stderr and 'in main' in done.stderr  # the stacks
  assert f'dispatched step {step}, completed {completed}, the limit is ' in done.stderr
  assert done.stderr.splitlines()[-1].startswith('error: anneal: no step for ')
  return done.stderr


@pytest.mark.long
def test_a_step_that_hangs_ends_the_run_with_stacks_and_it_resumes_bit_equal(shared, workdir):
  command = train('anneal', workdir, **PATIENT)
  errors = stalled(shared.start(hanging(STEP, 6, command)), 5, 4)
  assert 'hanging.py' in errors and 'train/loop.py' in errors  # where the main thread was
  # A step that is slow within the limit ends nothing, and a run that ended leaves no heartbeats.
  done = shared.run(hanging(STEP, 6, command, seconds=3))
  assert 'no step for' not in done.stderr and not list((workdir / 'anneal/heartbeats').iterdir())
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


@pytest.mark.long
def test_an_evaluation_that_hangs_ends_the_run_after_its_own_allowance(shared, workdir):
  command = train('anneal', workdir, **PATIENT | {'watchdog.extra_s': 7.0, 'eval.every': 4})
  # It begins with an evaluation; the second one hangs, after ordinary steps.
  done = processes.finish(shared.start(hanging('iquest_jax.train.metrics:held_out_losses', 2, command)), Stalled.status)
  assert 'dispatched step 3, completed 4, the limit is ' in done.stderr
  # The floor and the allowance, or more on a busy machine.
  assert float(re.search(r'no step for (\d+) s on', done.stderr)[1]) >= 12


def test_show_names_the_host_behind(shared, tmp_path):
  folder = run_helpers.StageFolder(tmp_path / 'anneal').heartbeats
  folder.mkdir(parents=True)
  for process, step in enumerate((40, 40, 31)):
    beat = dict(process=process, processes=3, host=f'host-{process}', step=step, seconds_since_step=70.0, time=1.8e9)
    (folder / f'{process}.json').write_text(json.dumps(beat))
  shown = shared.run(['-m', 'launch.chain', 'show', '--size=tiny', f'--workdir={tmp_path}']).stdout
  assert 'anneal: behind: process 2 (host-2), step 31, 70 s after its last one' in shown
