"""Start order: own newest checkpoint, parent's final one, imported model, random."""

import shutil

import numpy as np
import pytest
from ml_collections import ConfigDict

from iquest_jax.checkpoint import lineage
from iquest_jax.checkpoint.store import Checkpoints, start
from iquest_jax.config import from_stage
from iquest_jax.errors import UserError


def _anneal(parent):
  return ConfigDict({'stage': 'anneal', 'size': 'tiny_loop', 'init': from_stage(parent)})


def _save(workdir, stage, step, **more):
  checkpoints = Checkpoints(workdir / stage)
  params = {'w': np.full(4, step, np.float32)}
  checkpoints.save(step, params, {'step': np.int32(step)}, {'stage': stage} | more)
  checkpoints.wait()


def _import(workdir, stage):
  checkpoints = Checkpoints(workdir / stage)
  checkpoints.save(0, {'w': np.zeros(4, np.float32)}, None, lineage.imported(stage, 'tiny', 'models/tiny'))
  checkpoints.wait()


def _start(workdir, parent='loop_adapt'):
  began = start(_anneal(parent), workdir, Checkpoints(workdir / 'anneal'))
  return began.kind, began.checkpoints and began.checkpoints.run_dir.name, began.step


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
  began = start(_anneal('loop_adapt'), tmp_path, Checkpoints(tmp_path / 'anneal'))
  assert began.lineage == began.checkpoints.lineage(40) and began.lineage['stage'] == 'loop_adapt'
  assert start(_anneal(''), tmp_path, Checkpoints(tmp_path / 'elsewhere')).lineage == {}


def test_a_missing_parent_is_one_line_with_the_command_that_makes_it(tmp_path):
  with pytest.raises(UserError) as caught:
    _start(tmp_path)
  assert str(caught.value) == (
      f'{tmp_path}/loop_adapt/checkpoints: anneal starts from loop_adapt, which has no checkpoint; make it with '
      f'python -m launch.tpu --exp=loop_adapt:size=tiny_loop --workdir={tmp_path}')


def test_an_unfinished_parent_is_refused(tmp_path):
  _save(tmp_path, 'loop_adapt', 20, finished=False)
  with pytest.raises(UserError, match='which is not finished .its newest checkpoint is step 20.; make it with'):
    _start(tmp_path)


def test_a_parent_that_trains_on_from_an_import_is_not_finished(tmp_path):
  _import(tmp_path, 'loop_adapt')
  assert _start(tmp_path) == ('parent', 'loop_adapt', 0)
  _save(tmp_path, 'loop_adapt', 5, finished=False, imported='models/tiny')
  with pytest.raises(UserError, match='is not finished'):
    _start(tmp_path)


def test_what_a_killed_first_save_leaves_does_not_count_as_a_start(tmp_path):
  _save(tmp_path, 'loop_adapt', 40, finished=True)
  leftover = tmp_path / 'anneal/checkpoints/1.orbax-checkpoint-tmp'
  shutil.copytree(tmp_path / 'loop_adapt/checkpoints/40', leftover)
  assert _start(tmp_path) == ('parent', 'loop_adapt', 40)
  assert not leftover.exists()


def test_a_damaged_own_checkpoint_is_told_and_never_passed_over(tmp_path):
  _save(tmp_path, 'loop_adapt', 40, finished=True)
  _save(tmp_path, 'anneal', 3, finished=False)
  shutil.rmtree(tmp_path / 'anneal/checkpoints/3/optimizer')
  assert _start(tmp_path) == ('resume', 'anneal', 3)
  (tmp_path / 'anneal/checkpoints/3/lineage/lineage.json').write_text('{')
  with pytest.raises(UserError, match='3: lineage/lineage.json is missing or has changed; remove this folder'):
    _start(tmp_path)
