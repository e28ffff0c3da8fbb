"""A stage killed at any moment resumes and ends bit-identical to one that was never interrupted."""

import json
import shutil
import time

import numpy as np
import pytest

from iquest_jax.checkpoint import lineage
from iquest_jax.run_folder import StageFolder

from tests import processes
from tests.run import helpers as run_helpers
from tests.run.helpers import killed_at, steps_of, train


def assert_checkpoints_are_true(shared, run_dir):
  """Asserts that every committed checkpoint equals the uninterrupted run's at that step."""
  for step in steps_of(run_dir):
    run_helpers.assert_same_state(run_dir, shared.straight / 'anneal', step)


# name: (function, which call of it, seconds from the call to the kill, checkpoints afterwards). The seal is computed at
# the end of every save, and once before: when the parent is restored.
MOMENTS = {
    'before the first step': ('iquest_jax.train.metrics:Reporter', 1, 0.0, []),
    'during a step': ('iquest_jax.train.metrics:Reporter.note', 5, 0.0, None),
    'during a save, written but not committed': ('iquest_jax.checkpoint.seal:to_text', 3, 0.0, [3]),
    'between commit and removal of the oldest': ('iquest_jax.checkpoint.store:Checkpoints._remove_old', 3, 0.0, [3, 6, 9]),
    'between a save and its evaluation': ('iquest_jax.data.loader:Loader.held_out', 2, 1.5, [3, 6]),
    'between the last save and its evaluation': ('iquest_jax.data.loader:Loader.held_out', 3, 1.5, [9, 12]),
    'before the copy of the lineage is written': ('iquest_jax.checkpoint.lineage:write', 1, 0.0, [9, 12]),
}


@pytest.mark.parametrize('moment', MOMENTS)
def test_a_stage_killed_at_a_moment_ends_bit_equal(shared, workdir, moment):
  place, count, delay, checkpoints = MOMENTS[moment]
  shared.run(killed_at(place, count, train('anneal', workdir), delay), status=-9)
  run_dir = workdir / 'anneal'
  assert checkpoints is None or steps_of(run_dir) == checkpoints
  assert not (run_dir / 'lineage.json').exists()
  assert_checkpoints_are_true(shared, run_dir)
  shared.run(train('anneal', workdir))
  run_helpers.assert_same_run(run_dir, shared.straight / 'anneal')


def test_a_stage_killed_as_a_save_begins_ends_bit_equal(shared, workdir):
  run_dir, command = workdir / 'anneal', train('anneal', workdir)
  for step in (3, 9):
    begun = lambda: list((run_dir / 'checkpoints').glob(f'{step}.orbax-checkpoint-tmp*'))
    run_helpers.kill_when(shared.start(command), begun)
    assert_checkpoints_are_true(shared, run_dir)
  shared.run(command)
  run_helpers.assert_same_run(run_dir, shared.straight / 'anneal')


def test_a_stage_killed_again_and_again_ends_bit_equal(shared, workdir):
  run_dir, command = workdir / 'anneal', train('anneal', workdir)
  shared.run(killed_at('iquest_jax.train.metrics:Reporter.note', 8, command, 1.5), status=-9)
  assert steps_of(run_dir) == [3, 6]
  with open(run_dir / 'metrics.jsonl', 'a') as file:
    file.write('{"kind": "train", "ste')  # what a kill in the middle of a write leaves
  # Killed while it resumes: metrics.jsonl is cut back to step 6, and no step is taken.
  shared.run(killed_at('iquest_jax.train.metrics:Events', 1, command), status=-9)
  kept = run_helpers.losses(run_dir)
  assert list(kept)[-1] == ('train', 6) and kept.items() <= run_helpers.losses(shared.straight / 'anneal').items()
  shared.run(killed_at('iquest_jax.train.metrics:Reporter.note', 1, command), status=-9)
  assert steps_of(run_dir) == [3, 6]
  shared.run(command)
  run_helpers.assert_same_run(run_dir, shared.straight / 'anneal')


def test_a_finished_stage_run_again_changes_nothing(shared, workdir):
  command = train('pretrain', workdir, **{'train.steps': 3})
  before, times = run_helpers.files(workdir), [path.stat().st_mtime_ns for path in sorted(workdir.rglob('*'))]
  done = shared.run(command)
  assert 'pretrain is finished: step 3' in done.stderr
  assert run_helpers.files(workdir) == before
  assert [path.stat().st_mtime_ns for path in sorted(workdir.rglob('*'))] == times


def test_a_stage_killed_after_its_last_save_does_not_keep_the_lineage_of_an_earlier_end(shared, workdir):
  run_dir = shutil.copytree(shared.straight / 'anneal', workdir / 'anneal')
  earlier = run_dir / 'checkpoints' / str(steps_of(run_dir)[-2]) / 'lineage/lineage.json'
  lineage.write(StageFolder(run_dir), json.loads(earlier.read_text()))  # as SIGTERM does
  (run_dir / 'heartbeats').mkdir(exist_ok=True)
  (run_dir / 'heartbeats/0.json').write_text('{}')
  shared.run(train('anneal', workdir))
  run_helpers.assert_same_run(run_dir, shared.straight / 'anneal')
  assert not list((run_dir / 'heartbeats').iterdir())


def test_runs_with_and_without_the_compilation_cache_are_bit_equal(shared, workdir):
  """Otherwise the other tests would say nothing about runs as users start them."""
  processes.finish(shared.start(train('anneal', workdir), JAX_ENABLE_COMPILATION_CACHE='false'))
  run_helpers.assert_same_run(workdir / 'anneal', shared.straight / 'anneal')


@pytest.mark.long
@pytest.mark.parametrize('seed', range(16))
def test_a_stage_killed_at_random_moments_ends_bit_equal(shared, workdir, seed):
  """One to three kills, anywhere from the first second of the process to its last step."""
  random = np.random.default_rng(seed)
  run_dir, command = workdir / 'anneal', train('anneal', workdir)
  for _ in range(random.integers(1, 4)):
    process, seconds = shared.start(command), random.uniform(0.0, 1.5)
    if random.random() < 0.8:  # most failures need a training run, so the time counts from its first record
      restored = (run_dir / 'metrics.jsonl').stat().st_mtime_ns if (run_dir / 'metrics.jsonl').exists() else 0
      metrics = run_dir / 'metrics.jsonl'
      while process.poll() is None and not (metrics.exists() and metrics.stat().st_mtime_ns > restored):
        time.sleep(0.001)
    time.sleep(seconds)
    process.kill()
    process.communicate()
    assert_checkpoints_are_true(shared, run_dir)
  shared.run(command)
  run_helpers.assert_same_run(run_dir, shared.straight / 'anneal')
