"""Losses that are not finite: one or two bad batches are skipped and counted, three in a row stop the run."""


import numpy as np
import pytest

from iquest_jax.run_folder import StageFolder
from iquest_jax.train import metrics

from tests import processes
from tests.run import helpers as run_helpers
from tests.run.helpers import CONTEXT, STEPS, steps_of, train


@pytest.fixture(name='workdir')
def _workdir(shared, tmp_path):
  """A run folder that also has a source whose losses are infinite."""
  workdir = shared.copy(tmp_path)
  run_helpers.write_rows(workdir, 'anneal', CONTEXT, ['poisoned'], count=8, weight=float('inf'))
  return workdir


def with_poison(first, last):
  """A mixture in which the poisoned source is in the batches of steps first .. last, counted from 1."""
  good = (('code', 1.0),)
  return ((0, good), (first - 1, (('code', 7.0), ('poisoned', 1.0))), (last, good))


def stopped(shared, command):
  """The error line of a run that stopped with status 1."""
  return processes.refusal(shared.run(command, status=1))


def test_one_bad_batch_is_skipped_and_counted(shared, workdir):
  shared.run(train('anneal', workdir, **{'data.mixture': with_poison(5, 5)}))
  records = [record for record in metrics.read(StageFolder(workdir / 'anneal')) if record['kind'] == 'train']
  assert [record['skipped'] for record in records] == [0] * 4 + [1] * (STEPS - 4)
  assert [bool(np.isfinite(record['loss'])) for record in records] == [step != 5 for step in range(1, STEPS + 1)]
  assert steps_of(workdir / 'anneal') == [9, STEPS]
  left = run_helpers.state(workdir / 'anneal', STEPS)
  assert all(np.all(np.isfinite(leaf)) for leaf in left.values())
  assert left["optimizer['skipped']"] == 1 and left["optimizer['step']"] == STEPS


def test_two_bad_batches_in_a_row_are_skipped_and_counted_across_a_kill(shared, workdir):
  command = train('anneal', workdir, **{'data.mixture': with_poison(6, 7)})
  # Killed at the second bad batch; the first was saved with step 6.
  shared.run(run_helpers.killed_at('iquest_jax.train.metrics:Reporter.note', 8, command, 1.5), status=-9)
  assert steps_of(workdir / 'anneal') == [3, 6]
  shared.run(command)
  records = [record for record in metrics.read(StageFolder(workdir / 'anneal')) if record['kind'] == 'train']
  assert [record['skipped'] for record in records] == [0] * 5 + [1] + [2] * (STEPS - 6)


def test_three_bad_batches_in_a_row_stop_the_run_naming_step_and_sources(shared, workdir):
  command = train('anneal', workdir, **{'data.mixture': with_poison(5, 9), 'checkpoint.every': 2})
  line = stopped(shared, command)
  assert line == (
      'anneal: loss or gradient was not finite in 3 updates in a row, the last at step 7 (sources of its batch: code, '
      'poisoned); the parameters are those of step 4'
  )
  run_dir = workdir / 'anneal'
  assert steps_of(run_dir) == [4, 6]
  good, skipped = run_helpers.state(run_dir, 4), run_helpers.state(run_dir, 6)
  assert all(np.array_equal(good[path], skipped[path]) for path in good if path.startswith('params'))
  before = run_helpers.files(run_dir / 'checkpoints')
  assert stopped(shared, command) == line  # again, resumed from the checkpoint among the bad steps
  assert run_helpers.files(run_dir / 'checkpoints') == before


def test_a_diverging_run_is_stopped_and_leaves_its_parent_intact(shared, workdir):
  before = run_helpers.files(workdir / 'pretrain')
  line = stopped(shared, train('anneal', workdir, **{'optim.peak_lr': 1e30}))
  assert 'anneal: loss or gradient was not finite in 3 updates in a row, the last at step 4 ' in line
  assert run_helpers.files(workdir / 'pretrain') == before


def test_the_training_path_imports_no_tensorflow(shared, tmp_path):
  """A stage that starts from its parent, trains, saves and evaluates; test_storage.py has one that resumes."""
  workdir = shared.copy(tmp_path)
  imported = run_helpers.imported(shared.run(run_helpers.importing(train('anneal', workdir)), fresh=True))
  assert 'iquest_jax.train.loop' in imported and 'tensorflow_datasets' in imported
  assert not run_helpers.HEAVY & imported
  run_helpers.assert_same_run(workdir / 'anneal', shared.straight / 'anneal')
