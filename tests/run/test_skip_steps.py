"""Batches that always break a run are passed over: consumed, not learned from, on record, whatever restarts do."""

import json
import shutil

import jax
import numpy as np
import pytest

from experiments import anneal
from iquest_jax import sharding
from iquest_jax.errors import UserError
from iquest_jax.run_folder import StageFolder
from iquest_jax.train import loop, metrics

from tests.run import helpers as run_helpers
from tests.run.helpers import CONTEXT, STEPS, killed_at, train

GOOD = (('code', 1.0),)
# The source whose losses are infinite is in the batches of steps 5 to 8, counted from 1.
POISONED = ((0, GOOD), (4, (('code', 7.0), ('poisoned', 1.0))), (8, GOOD))
SKIPPED = {'data.mixture': POISONED, 'train.skip_steps': '((5,8),)'}


@pytest.fixture(name='workdir')
def _workdir(shared, tmp_path):
  workdir = shared.copy(tmp_path)
  run_helpers.write_rows(workdir, 'anneal', CONTEXT, ['poisoned'], count=8, weight=float('inf'))
  return workdir


def test_a_run_passes_over_bad_batches_and_resumes_bit_equal_in_the_middle_of_them(shared, workdir, tmp_path):
  straight = shutil.copytree(workdir, tmp_path / 'straight')
  keep = {'checkpoint.keep': 100}
  done = shared.run(train('anneal', straight, **SKIPPED, **keep))
  assert [f'passes over step {step}' in done.stderr for step in range(4, 10)] == [False, True, True, True, True, False]

  # Nothing is learned from them, and the batches after them are those of a run without them.
  state = lambda step: run_helpers.state(straight / 'anneal', step)
  between, after, last = state(6), state(9), state(STEPS)
  assert (last["optimizer['skipped']"], last["optimizer['step']"], last["optimizer['skipped_in_a_row']"]) == (4, STEPS, 0)
  assert all(np.all(np.isfinite(leaf)) for leaf in last.values())
  assert between["optimizer['step']"] == 6 and between["optimizer['skipped']"] == 2
  assert not np.array_equal(between["params['head']"], after["params['head']"])
  records = train_records(straight / 'anneal')
  assert [record['step'] for record in records] == [1, 2, 3, 4, 9, 10, 11, 12]
  # The schedule waits, as after a skipped update.
  good = {record['step']: record['lr'] for record in train_records(shared.straight / 'anneal')}
  assert [record['lr'] for record in records[4:]] == [good[step] for step in (5, 6, 7, 8)]

  # Killed in the middle of the range, after the save of step 6.
  place = 'iquest_jax.train.session:Session.passes_over'
  shared.run(killed_at(place, 8, train('anneal', workdir, **SKIPPED, **keep), 1.5), status=-9)
  assert run_helpers.steps_of(workdir / 'anneal') == [3, 6]
  shared.run(train('anneal', workdir, **SKIPPED, **keep))
  run_helpers.assert_same_run(workdir / 'anneal', straight / 'anneal')
  lineage = json.loads((workdir / 'anneal/lineage.json').read_text())
  assert [run['skip_steps'] for run in lineage['runs']] == [[[5, 8]]]


def train_records(run_dir):
  return [record for record in metrics.read(StageFolder(run_dir)) if record['kind'] == 'train']


@pytest.mark.parametrize(
    ('name', 'value'),
    [('train.skip_steps', (5, 8)), ('train.skip_steps', ((8, 5),)), ('train.skip_steps', ((0, 5),)),
     ('log.profile', (5,)), ('log.profile', (5, 4))],
)  # fmt: skip
def test_steps_that_make_no_range_are_refused(name, value):
  config = anneal.get_config('tiny')
  config.update_from_flattened_dict({name: value})
  with pytest.raises(UserError, match=rf'config: {name}: steps must be \(from, to\) with 1 <= from <= to, got '):
    loop.check(config, sharding.make_mesh(dict.fromkeys(sharding.AXES, 1), jax.devices()[:1]))
