"""The processes of a run decide and end together: none starts from another checkpoint, and none is left waiting."""

import json
import time

import pytest

from iquest_jax.errors import Preempted, RunStopped, Stalled, UserError

from tests import processes
from tests.run.test_devices import pair

# Of programs that do nothing but wait; a process that is left alone is aborted by jax after 100 s.
LIMIT_S = 90


def together(commands, port, what, workdir='.', statuses=(0, 0)):
  """(finished processes, seconds)."""
  began = time.monotonic()
  running = pair(commands, port, lambda process: ['-m', 'tests.programs.together', what, str(workdir)])
  done = [processes.finish(process, status) for process, status in zip(running, statuses, strict=True)]
  return done, time.monotonic() - began


@pytest.mark.parametrize(
    ('what', 'status', 'line'),
    [
        ('first_fails', UserError.status, 'rows: none; make some'),
        ('asked', Preempted.status, 'interrupted by SIGTERM; what is finished is kept, rerun the same command'),
        pytest.param('other_crashes', 1, 'ValueError: no such thing', marks=pytest.mark.long),
        pytest.param('late', RunStopped.status, 'process 0 waited 2 s for another', marks=pytest.mark.long),
        ('elsewhere', RunStopped.status, 'process 1 is at another place (there) than the first process (here)'),
        ('stalls', Stalled.status, 'no step'),
        pytest.param('interrupted', 130, 'interrupted from the keyboard', marks=pytest.mark.long),
        pytest.param('disagree', RunStopped.status, 'rows: process 1 has b, the first process', marks=pytest.mark.long),
    ],
)
def test_what_ends_one_process_ends_all_with_its_line_and_status(commands, unused_port, what, status, line):
  done, seconds = together(commands, unused_port, what, statuses=(status, status))
  assert seconds < LIMIT_S
  for process, one in enumerate(done):
    errors = [text for text in one.stderr.splitlines() if text.startswith('error: ')]
    assert f'process {process} has ended' not in one.stderr  # of itself it knows
    assert any(line in text for text in errors), one.stderr
    assert 'Check failure stack trace' not in one.stderr


# The small programs also tell each other all kinds of things first.
@pytest.mark.parametrize('what', ['stale', pytest.param('ahead', marks=pytest.mark.long)])
def test_every_process_starts_from_what_the_first_one_chose(shared, unused_port, what):
  done, _ = together(shared, unused_port, what, shared.straight)
  newest = json.loads((shared.straight / 'anneal/lineage.json').read_text())
  expected = ['talked', f'resume {newest["steps"]} {newest["end_fingerprint"]}']
  for one in done:
    assert [line for line in one.stdout.splitlines() if not line.startswith('[Gloo]')] == expected


def test_damage_that_the_first_process_finds_is_raised_on_all(shared, unused_port):
  done, _ = together(shared, unused_port, 'damaged', shared.straight)
  assert all('anneal 12 is damaged' in one.stdout for one in done)


def test_what_one_process_refuses_is_refused_on_all(commands, unused_port):
  done, _ = together(commands, unused_port, 'refused')
  assert all("['no sandbox on this host', 'no sandbox on this host']" in one.stdout for one in done)


def test_a_thread_ends_a_run_of_one_process(commands):
  code = "import threading, time; from iquest_jax import ending; "
  code += "threading.Thread(target=ending.leave, args=(77, 'no step')).start(); time.sleep(60)"
  done = processes.finish(commands.start(['-c', code], fresh=True), Stalled.status)
  assert done.stderr == 'error: no step\n'


@pytest.mark.long
def test_a_process_that_sees_other_files_ends_the_run(shared, unused_port):
  done, _ = together(shared, unused_port, 'different', shared.straight, statuses=(RunStopped.status,) * 2)
  assert all('hash of the files of step 12: process 1 has other' in one.stderr for one in done)


def test_a_host_that_never_joins_is_reported_in_one_line(commands, unused_port):
  began = time.monotonic()
  several = {'JAX_COORDINATOR_ADDRESS': f'localhost:{unused_port}', 'JAX_NUM_PROCESSES': '2', 'JAX_PROCESS_ID': '0'}
  limited = ['-m', 'tests.programs.limited_join', '2']
  alone = processes.finish(commands.start(limited, **several), RunStopped.status)
  assert 'waited 2 s for 2 processes to join the run' in processes.refusal(alone)
  assert time.monotonic() - began < LIMIT_S
