"""What a stage resumes from: the newest checkpoint unless it is damaged, and the rows it has learned from."""

import json
import shutil

import pytest

from iquest_jax.checkpoint import lineage
from iquest_jax.run_folder import RunFolder

from tests import processes
from tests.run import helpers as run_helpers
from tests.run.helpers import CONTEXT, SOURCES, steps_of, train
from tests.run.test_devices import pair


@pytest.fixture(name='stopped')
def _stopped(shared, tmp_path):
  """A run folder whose anneal was stopped after step 9 of 12; its checkpoints are 3, 6 and 9."""
  workdir = shutil.copytree(shared.straight, tmp_path / 'run')
  shutil.rmtree(workdir / 'anneal/checkpoints/12')
  (workdir / 'anneal/lineage.json').unlink()
  return workdir


def damage(folder, name='params/manifest.ocdbt'):
  file = folder / name
  content = file.read_bytes()
  file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def test_an_unattended_run_falls_back_to_the_checkpoint_before_a_damaged_one_and_ends_bit_equal(shared, stopped):
  checkpoints = stopped / 'anneal/checkpoints'
  damage(checkpoints / '9')
  command = train('anneal', stopped, **{'checkpoint.keep': 100})
  assert 'remove this folder to resume from step 6' in processes.refusal(shared.run(command, status=2))
  assert steps_of(stopped / 'anneal') == [3, 6, 9]
  damaged = run_helpers.files(checkpoints / '9')
  done = shared.run([*command, '--resume=newest_whole'])
  line = 'anneal: checkpoint 9 is damaged (params/manifest.ocdbt has changed since it was saved) and is now 9.damaged; '
  assert line + 'falling back to step 6' in done.stderr
  assert run_helpers.files(checkpoints / '9.damaged') == damaged
  run_helpers.assert_same_run(stopped / 'anneal', shared.straight / 'anneal')


# Of the first, every process reads a share; the second is found by the first process, before anything is compared.
@pytest.mark.parametrize('name', ['params/manifest.ocdbt', pytest.param('lineage/lineage.json', marks=pytest.mark.long)])
def test_two_processes_fall_back_together(shared, stopped, unused_port, name):
  damage(stopped / 'anneal/checkpoints/9', name)
  command = [*train('anneal', stopped, **{'checkpoint.keep': 100}), '--resume=newest_whole']
  for process in pair(shared, unused_port, lambda _: command):
    assert 'and is now 9.damaged; falling back to step 6' in processes.finish(process).stderr
  assert steps_of(stopped / 'anneal') == [3, 6, 9, 12] and (stopped / 'anneal/checkpoints/9.damaged').exists()


def test_an_unattended_run_stops_where_no_earlier_checkpoint_is_whole(shared, stopped):
  checkpoints = stopped / 'anneal/checkpoints'
  for step in (3, 6, 9):
    damage(checkpoints / str(step))
  done = shared.run([*train('anneal', stopped), '--resume=newest_whole'], status=2)
  assert 'checkpoints/3: params/manifest.ocdbt has changed' in processes.refusal(done)
  assert sorted(entry.name for entry in checkpoints.iterdir()) == ['3', '6.damaged', '9.damaged']


def test_other_rows_are_refused_until_they_are_accepted_and_then_recorded(shared, stopped):
  run_helpers.write_rows(stopped, 'anneal', CONTEXT, SOURCES, count=50)
  before = json.loads((shared.straight / 'anneal/lineage.json').read_text())
  refused = processes.refusal(shared.run(train('anneal', stopped), status=2))
  assert 'anneal: learned from other rows up to step 9' in refused and '--accept_new_rows' in refused
  assert steps_of(stopped / 'anneal') == [3, 6, 9]
  shared.run([*train('anneal', stopped), '--accept_new_rows'])
  after = json.loads((stopped / 'anneal/lineage.json').read_text())
  hashes = [run['rows_manifest_hash'] for run in after['runs']]
  assert [run['from_step'] for run in after['runs']] == [0, 9] and hashes[0] == before['rows_manifest_hash'] != hashes[1]
  shown = lineage.render_runs(lineage.tree(RunFolder(stopped), ['pretrain', 'anneal'])).splitlines()
  assert [line.partition(':')[0] for line in shown] == ['anneal from step 0', 'anneal from step 9']
