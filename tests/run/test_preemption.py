"""SIGTERM ends a command with status 75 and one line; training saves at once and resumes bit-equal."""

import json
import signal

import pytest

from iquest_jax.errors import Preempted

from tests import processes
from tests.run.helpers import STEPS, assert_same_run, killed_at, steps_of, train
from tests.run.test_devices import pair


def sigterm_at(place, count, command, delay=0.0):
  return killed_at(place, count, command, delay, signal.SIGTERM)


def interrupted(shared, command):
  """The line of a command that SIGTERM ends."""
  return processes.refusal(shared.run(command, status=Preempted.status))


# Fourth step: one is saved after three, so only an extra save keeps it. Sixth evaluation batch: of the evaluation at step 6.
@pytest.mark.parametrize(
    ('place', 'count', 'step'),
    [
        ('iquest_jax.train.metrics:Reporter.note', 4, 4),
        pytest.param('iquest_jax.train.session:Session.save', 2, 6, marks=pytest.mark.long),
    ],
)
def test_sigterm_saves_the_step_in_progress_and_resumes_bit_equal(shared, workdir, place, count, step):
  run_dir, command = workdir / 'anneal', train('anneal', workdir)
  line = interrupted(shared, sigterm_at(place, count, command))
  assert f'after step {step} of {STEPS}, which is saved' in line
  assert steps_of(run_dir)[-1] == step and json.loads((run_dir / 'lineage.json').read_text())['steps'] == step
  assert not (run_dir / 'lease.json').exists()
  shared.run(command)
  assert_same_run(run_dir, shared.straight / 'anneal')
