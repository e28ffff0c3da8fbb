"""SIGTERM ends a command with status 75 and one line; training saves at once and resumes bit-equal."""

import json
import signal

import pytest

from iquest_jax.errors import Preempted, UserError
from iquest_jax.sandbox import runner
from iquest_jax.train import preemption

from tests import processes
from tests.eval.test_small_programs import written
from tests.run.helpers import STEPS, assert_same_run, killed_at, steps_of, train
from tests.run.test_devices import pair


def sigterm_at(place, count, command, delay=0.0):
  return killed_at(place, count, command, delay, signal.SIGTERM)


def interrupted(shared, command):
  """The line of a command that SIGTERM ends."""
  return processes.refusal(shared.run(command, status=Preempted.status))


# The fourth step, of which nothing would be left without an extra save; a second signal comes while that is committed. And
# the evaluation after the sixth, which is saved already.
@pytest.mark.parametrize(
    ('places', 'step'),
    [
        ([('iquest_jax.train.metrics:Reporter.note', 4), ('iquest_jax.checkpoint.seal:to_text', 2)], 4),
        pytest.param([('iquest_jax.train.metrics:held_out_losses', 2)], 6, marks=pytest.mark.long),
    ],
)
def test_sigterm_saves_the_step_in_progress_and_resumes_bit_equal(shared, workdir, places, step):
  run_dir, command = workdir / 'anneal', train('anneal', workdir)
  signalled = command
  for place, count in places:
    signalled = sigterm_at(place, count, signalled)
  line = interrupted(shared, signalled)
  assert f'after step {step} of {STEPS}, which is saved' in line
  assert steps_of(run_dir)[-1] == step and json.loads((run_dir / 'lineage.json').read_text())['steps'] == step
  assert not (run_dir / 'lease.json').exists()
  shared.run(command)
  assert_same_run(run_dir, shared.straight / 'anneal')


# The other process alone is told; both save the same step, and two processes resume like two that nothing interrupted.
@pytest.mark.long
def test_two_processes_of_which_one_is_told_save_together_and_resume_bit_equal(shared, workdir, tmp_path, unused_port):
  straight = shared.copy(tmp_path / 'straight')
  for process in pair(shared, unused_port, lambda _: train('anneal', straight)):
    processes.finish(process)
  command = train('anneal', workdir)
  told = lambda process: sigterm_at('iquest_jax.train.metrics:Reporter.note', 4, command) if process else command
  for process in pair(shared, unused_port, told):
    line = processes.finish(process, Preempted.status).stderr.splitlines()[-1]
    assert f'after step {steps_of(workdir / "anneal")[-1]} of {STEPS}, which is saved' in line
  for process in pair(shared, unused_port, lambda _: command):
    processes.finish(process)
  assert_same_run(workdir / 'anneal', straight / 'anneal')


@pytest.mark.parametrize(
    'place',
    [
        'iquest_jax.checkpoint.store:Checkpoints.verify',
        pytest.param('iquest_jax.train.initial_state:initial_state', marks=pytest.mark.long),
        pytest.param('iquest_jax.data.loader:Loader.of_stage', marks=pytest.mark.long),
    ],
)
def test_sigterm_before_the_first_step_ends_in_one_line_and_leaves_nothing(shared, workdir, place):
  line = interrupted(shared, sigterm_at(place, 1, train('anneal', workdir)))
  assert line == preemption.LINE
  assert steps_of(workdir / 'anneal') == [] and not (workdir / 'anneal/lease.json').exists()


@pytest.mark.long
def test_sigterm_while_rows_are_prepared_keeps_what_is_finished(commands, tmp_path):
  command = ['-m', 'launch.chain', 'run', '--size=tiny', f'--workdir={tmp_path}', '--steps=1']
  done = commands.run(sigterm_at('subprocess:Popen.wait', 1, command), status=Preempted.status)
  assert done.stderr.splitlines()[-1] == f'error: {preemption.LINE}'


def test_sigterm_during_an_evaluation_keeps_every_sample_that_was_graded(shared, workdir, tmp_path):
  try:
    runner.choose('')
  except UserError as error:
    pytest.skip(str(error))
  written(workdir / 'corpus', count=6)
  command = ['-m', 'launch.evaluate', f'--workdir={workdir}', '--stage=pretrain', '--suite=small_programs', '--tokens=5']
  line = interrupted(shared, sigterm_at('iquest_jax.eval.run:_judge', 4, [*command, f'--out={tmp_path}']))
  assert line == preemption.LINE
  records = (tmp_path / 'small_programs/records.jsonl').read_text().splitlines()
  # The first line holds the settings.
  assert len(records) > 1 and not (tmp_path / 'small_programs/results.json').exists()
