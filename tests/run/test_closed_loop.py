"""A stage with a closed loop ends with the same decisions, rows and parameters wherever it was killed."""

import json
import pathlib

import pytest

from iquest_jax.errors import UserError
from iquest_jax.run_folder import StageFolder
from iquest_jax.sandbox import runner
from iquest_jax.train import metrics

from tests import processes
from tests.eval.test_small_programs import written
from tests.run import helpers as run_helpers
from tests.run.helpers import killed_at, recorded, steps_of, train
from tests.run.test_devices import rows_read

# A rate at which losses rise, decisions at steps 0, 3, 6 and 9, and checkpoints at 4, 8 and 12.
LOOP = {
    'data.closed_loop.every': 3,
    'data.closed_loop.benchmarks': (('code', 'held_out'), ('facts', 'held_out')),
    'data.closed_loop.rise': 1.5,
    'optim.peak_lr': 0.5,
    'eval.every': 3,
    'checkpoint.every': 4,
    'checkpoint.keep': 100,
}


def decisions(run_dir: pathlib.Path) -> list[dict]:
  return [json.loads(line) for line in (run_dir / 'mixture.jsonl').read_text().splitlines()]


def loop(workdir: pathlib.Path, **changes) -> list[str]:
  return train('anneal', workdir, **LOOP | changes)


@pytest.fixture(name='straight', scope='session')
def _straight(shared, tmp_path_factory):
  """A run folder whose anneal nothing interrupted; rows.jsonl beside it says what was read."""
  folder = tmp_path_factory.mktemp('closed_loop')
  workdir = shared.copy(folder)
  shared.run(recorded(folder / 'rows.jsonl', loop(workdir)))
  return workdir


def test_a_falling_score_raises_the_weight_of_its_source(straight):
  run_dir = straight / 'anneal'
  made = decisions(run_dir)
  assert [decision['step'] for decision in made] == [0, 3, 6, 9]
  assert made[0]['reasons'] == {'code': 'first score', 'facts': 'first score'}
  assert 'fell' in {reason for decision in made for reason in decision['reasons'].values()}
  assert made[0]['factors'] != made[-1]['factors'] and made[-1]['weights'] != {'code': 0.5, 'facts': 0.5, 'web_text': 0.0}
  records = metrics.read(StageFolder(run_dir))
  held_out = {record['step']: record['loss_by_source'] for record in records if record['kind'] == 'eval'}
  for decision in made:
    assert decision['scores'] == {name: -held_out[decision['step']][name] for name in ('code', 'facts')}
  written = [record['weights'] for record in records if record['kind'] == 'mixture']
  assert written == [decision['weights'] for decision in made]


# name: (function, which call of it, steps of the decisions on disk afterwards), around the decision after step 6.
MOMENTS = {
    'as it is written': ('iquest_jax.train.closed_loop:write_whole', 3, [0, 3]),
    'before a row is drawn by it': ('iquest_jax.data.loader:Loader.follow', 5, [0, 3, 6]),
    'two steps later': ('iquest_jax.train.metrics:Reporter.note', 8, [0, 3, 6]),
}


@pytest.mark.parametrize('moment', [pytest.param(name, marks=[pytest.mark.long] * (name[0] != 't')) for name in MOMENTS])
def test_a_stage_killed_around_a_decision_repeats_it_and_ends_bit_equal(shared, straight, workdir, moment):
  run_dir, rows = workdir / 'anneal', workdir / 'rows.jsonl'
  place, count, steps = MOMENTS[moment]
  shared.run(killed_at(place, count, recorded(rows, loop(workdir)), delay=1.5), status=-9)
  assert [decision['step'] for decision in decisions(run_dir)] == steps and steps_of(run_dir) == [4]
  shared.run(recorded(rows, loop(workdir)))
  run_helpers.assert_same_run(run_dir, straight / 'anneal')
  assert (run_dir / 'mixture.jsonl').read_bytes() == (straight / 'anneal' / 'mixture.jsonl').read_bytes()
  assert rows_read(rows) == rows_read(straight.parent / 'rows.jsonl')


@pytest.mark.long
def test_two_processes_decide_as_one_does(shared, straight, workdir, unused_port):
  several = {'JAX_COORDINATOR_ADDRESS': f'localhost:{unused_port}', 'JAX_NUM_PROCESSES': '2'}
  command = loop(workdir, **{'mesh.data': 1, 'mesh.fsdp': 2})
  for process in [shared.start(command, **several, JAX_PROCESS_ID=str(process)) for process in (0, 1)]:
    processes.finish(process)
  for one, two in zip(decisions(straight / 'anneal'), decisions(workdir / 'anneal'), strict=True):
    assert {**one, 'scores': None} == {**two, 'scores': None}
    assert two['scores'] == pytest.approx(one['scores'], rel=0.02)  # at this rate, rounding grows


@pytest.mark.long
def test_a_suite_is_answered_by_the_newest_checkpoint(shared, workdir):
  try:
    runner.choose('')
  except UserError as error:
    pytest.skip(str(error))
  written(workdir / 'corpus', count=2)
  suite = {'data.closed_loop.benchmarks': (('code', 'small_programs'),), 'checkpoint.every': 3, 'train.steps': 6}
  shared.run(loop(workdir, **suite))
  results = json.loads((workdir / 'anneal/evaluation/3/small_programs/results.json').read_text())
  assert results['settings']['answers']['step'] == 3
  made = decisions(workdir / 'anneal')
  assert [decision['reasons'] for decision in made] == [{'code': 'no score'}, {'code': 'first score'}]
  assert made[1]['scores'] == {'code': results['figures']['solved']}


def test_a_suite_that_does_not_exist_is_refused_before_anything_is_trained(shared, workdir):
  suite = {'data.closed_loop.benchmarks': (('code', 'small_program'),), 'checkpoint.every': 3}
  done = shared.run(loop(workdir, **suite), status=2)
  assert done.stderr.splitlines()[-1].startswith('error: --suite: suite "small_program" does not exist; did you mean')
  assert not (workdir / 'anneal').exists()
