"""The record in a run folder stays true: the size of its model, the tokens it saw, the settings it used."""

import json

import pytest

from iquest_jax.errors import RunStopped
from iquest_jax.run_folder import RunFolder, StageFolder
from iquest_jax.train import metrics
from launch import chain, command

from tests import processes
from tests.run.helpers import CONTEXT, train


def test_show_and_verify_refuse_a_folder_of_another_size(shared, workdir):
  for name in ('show', 'verify'):
    done = shared.run(['-m', 'launch.chain', name, '--size=tiny', f'--workdir={workdir}'], status=2)
    assert f'{workdir}/pretrain: has model.' in processes.refusal(done)


def test_a_folder_without_a_checkpoint_is_neither_verified_nor_shown(shared, tmp_path):
  (tmp_path / 'midtrain_128k').mkdir()
  done = shared.run(['-m', 'launch.chain', 'verify', '--size=tiny', f'--workdir={tmp_path}'], status=2)
  assert 'no stage of size tiny has been trained here' in processes.refusal(done)
  done = shared.run(['-m', 'launch.chain', 'show', '--size=tiny', f'--workdir={tmp_path / "nowhere"}'], status=2)
  assert 'does not exist; python -m launch.chain run creates it' in processes.refusal(done)


def test_tokens_seen_are_right_after_a_change_of_settings_which_is_logged(shared, workdir):
  shared.run(train('anneal', workdir, **{'train.steps': 3}))
  done = shared.run(train('anneal', workdir, **{'train.steps': 6, 'train.batch_rows': 16}))
  assert 'anneal resumes with changed settings: ' in done.stderr and 'train.batch_rows 8 -> 16' in done.stderr
  seen = json.loads((workdir / 'anneal/lineage.json').read_text())['tokens_seen']
  assert seen == 3 * 8 * CONTEXT + 3 * 16 * CONTEXT


@pytest.mark.parametrize(
    ('stage', 'name', 'well', 'wrong', 'says'),
    [
        ('anneal', 'loss', (2.0,), (3.0, 4.0, float('nan')), 'loss did not fall'),
        ('rl_thinking', 'pass_rate', (4.0, 3.0), (2.0, float('nan')), 'pass rate fell'),
    ],
)
def test_a_chain_that_got_worse_on_held_out_data_ends_in_an_error(tmp_path, stage, name, well, wrong, says):
  config = command.experiment(f'{stage}:tiny')
  (tmp_path / stage).mkdir()
  for last in (*well, *wrong):
    writer = metrics.Writer(StageFolder(tmp_path / stage), restored_step=0, writes=True)
    for step, value in ((0, 3.0), (10, last)):
      writer.write('eval', step, {name: value})
    writer.close()
    if last in well:
      chain._check_progress([config], RunFolder(tmp_path))
      continue
    with pytest.raises(RunStopped, match=f'{stage}: held-out {says}'):
      chain._check_progress([config], RunFolder(tmp_path))
