"""What a run folder says of itself stays true: of which size it is, how many tokens it saw, with which numbers."""

import json

import pytest

from iquest_jax.errors import RunStopped
from iquest_jax.run_folder import StageFolder
from iquest_jax.train import metrics
from launch import chain, command

from tests.run import helpers as run_helpers
from tests.run.helpers import CONTEXT, train


def test_show_and_verify_refuse_a_folder_of_another_size(shared, tmp_path):
  workdir = shared.copy(tmp_path)
  for name in ('show', 'verify'):
    done = shared.run(['-m', 'launch.chain', name, '--size=tiny', f'--workdir={workdir}'], status=2)
    assert f'{workdir}/pretrain: was made with model.' in processes.refusal(done)


def test_a_folder_without_a_checkpoint_is_not_verified(shared, tmp_path):
  (tmp_path / 'midtrain_128k').mkdir()
  done = shared.run(['-m', 'launch.chain', 'verify', '--size=tiny', f'--workdir={tmp_path}'], status=2)
  assert 'holds no stage of size tiny' in processes.refusal(done)
  done = shared.run(['-m', 'launch.chain', 'show', '--size=tiny', f'--workdir={tmp_path / "nowhere"}'], status=2)
  assert 'is no folder' in processes.refusal(done)


def test_tokens_are_those_seen_also_after_numbers_changed_and_the_change_is_logged(shared, tmp_path):
  workdir = shared.copy(tmp_path)
  shared.run(train('anneal', workdir, **{'train.steps': 3}))
  done = shared.run(train('anneal', workdir, **{'train.steps': 6, 'train.batch_rows': 16}))
  assert 'anneal goes on with other numbers: ' in done.stderr and 'train.batch_rows 8 -> 16' in done.stderr
  seen = json.loads((workdir / 'anneal/lineage.json').read_text())['tokens_seen']
  assert seen == 3 * 8 * CONTEXT + 3 * 16 * CONTEXT


@pytest.mark.parametrize('last', [2.0, 3.0, 4.0, float('nan')])
def test_a_chain_ends_in_an_error_if_a_held_out_loss_did_not_fall(tmp_path, last):
  config = command.experiment('anneal:tiny')
  (tmp_path / 'anneal').mkdir()
  writer = metrics.Writer(StageFolder(tmp_path / 'anneal'), restored_step=0, writes=True)
  for step, loss in ((0, 3.0), (10, last)):
    writer.write('eval', step, {'loss': loss})
  writer.close()
  if last < 3.0:
    chain._check_losses([config], str(tmp_path))
    return
  with pytest.raises(RunStopped, match='anneal: held-out loss did not fall'):
    chain._check_losses([config], str(tmp_path))
