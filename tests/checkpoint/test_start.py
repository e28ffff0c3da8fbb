"""Start order: own newest checkpoint, the parent's final one, imported model, random."""

import shutil

import numpy as np
import pytest
from ml_collections import ConfigDict

from iquest_jax.checkpoint import lineage, start
from iquest_jax.checkpoint.store import Checkpoints
from iquest_jax.config import from_stage
from iquest_jax.errors import UserError
from iquest_jax.run_folder import RunFolder


def _anneal(parent):
  return ConfigDict({'stage': 'anneal', 'size': 'tiny_loop', 'init': from_stage(parent)})


def _save(workdir, stage, step, **more):
  checkpoints = Checkpoints(RunFolder(workdir).stage(stage))
  params = {'w': np.full(4, step, np.float32)}
  checkpoints.save(step, params, {'step': np.int32(step)}, {'stage': stage} | more)
  checkpoints.wait()


def _import(workdir, stage):
  checkpoints = Checkpoints(RunFolder(workdir).stage(stage))
  checkpoints.save(0, {'w': np.zeros(4, np.float32)}, None, lineage.imported(stage, 'tiny', 'models/tiny', {}))
  checkpoints.wait()


def _choose(workdir, parent='loop_adapt', stage='anneal'):
  run_folder = RunFolder(workdir)
  return start.choose(_anneal(parent), run_folder, Checkpoints(run_folder.stage(stage)))


def _start(workdir, parent='loop_adapt'):
  chosen = _choose(workdir, parent)
  return chosen.kind, chosen.checkpoints and chosen.checkpoints.stage.name, chosen.step


def test_the_order_is_own_then_parent_then_imported_then_random(tmp_path):
  assert _start(tmp_path, parent='') == ('random', None, 0)
  _import(tmp_path, 'anneal')
  assert _start(tmp_path, parent='') == ('imported', 'anneal', 0)
  assert _start(tmp_path) == ('imported', 'anneal', 0)
  _save(tmp_path, 'loop_adapt', 40, finished=True)
  assert _start(tmp_path) == ('parent', 'loop_adapt', 40)
  _save(tmp_path, 'anneal', 3, finished=False)
  assert _start(tmp_path) == ('resume', 'anneal', 3)


def test_the_stored_lineage_comes_with_the_start(tmp_path):
  _save(tmp_path, 'loop_adapt', 40, finished=True)
  chosen = _choose(tmp_path)
  assert chosen.lineage == chosen.checkpoints.lineage(40) and chosen.lineage['stage'] == 'loop_adapt'
  assert _choose(tmp_path, parent='', stage='elsewhere').lineage == {}


def test_a_missing_parent_is_one_line_with_the_command_that_makes_it(tmp_path):
  with pytest.raises(UserError) as caught:
    _start(tmp_path)
  assert str(caught.value) == (
      f'{tmp_path}/loop_adapt/checkpoints: anneal starts from loop_adapt, which has no checkpoint; train it with '
      f'python -m launch.tpu --exp=loop_adapt:size=tiny_loop --workdir={tmp_path}')


def test_an_unfinished_parent_is_refused(tmp_path):
  _save(tmp_path, 'loop_adapt', 20, finished=False)
  with pytest.raises(UserError, match='which is not finished .its newest checkpoint is step 20.; train it with'):
    _start(tmp_path)


def test_a_parent_that_continues_from_an_import_is_not_finished(tmp_path):
  _import(tmp_path, 'loop_adapt')
  assert _start(tmp_path) == ('parent', 'loop_adapt', 0)
  _save(tmp_path, 'loop_adapt', 5, finished=False, imported='models/tiny')
  with pytest.raises(UserError, match='is not finished'):
    _start(tmp_path)


def test_leftovers_of_a_killed_first_save_do_not_count_as_a_start(tmp_path):
  _save(tmp_path, 'loop_adapt', 40, finished=True)
  leftover = tmp_path / 'anneal/checkpoints/1.orbax-checkpoint-tmp'
  shutil.copytree(tmp_path / 'loop_adapt/checkpoints/40', leftover)
  assert _start(tmp_path) == ('parent', 'loop_adapt', 40)
  assert not leftover.exists()


def test_a_damaged_own_checkpoint_is_reported_and_never_skipped(tmp_path):
  _save(tmp_path, 'loop_adapt', 40, finished=True)
  _save(tmp_path, 'anneal', 3, finished=False)
  shutil.rmtree(tmp_path / 'anneal/checkpoints/3/optimizer')
  assert _start(tmp_path) == ('resume', 'anneal', 3)
  (tmp_path / 'anneal/checkpoints/3/lineage/lineage.json').write_text('{')
  with pytest.raises(UserError, match='3: lineage/lineage.json is missing or has changed; remove this folder'):
    _start(tmp_path)
