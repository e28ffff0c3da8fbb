"""Lineage records where a checkpoint comes from; verify reports where the files no longer agree."""

import errno
import json
import os
import pathlib
import re
import shutil

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from iquest_jax.checkpoint import fingerprint, lineage, start
from iquest_jax.checkpoint.store import Checkpoints
from iquest_jax.config import config_hash, from_stage
from iquest_jax.errors import UserError
from iquest_jax.run_folder import RunFolder

_STAGES = ['pretrain', 'loop_adapt', 'anneal', 'sft_instruct', 'sft_thinking']


def _config(stage, *parent, **init):
  return ConfigDict({'stage': stage, 'size': 'tiny', 'model': {'layers': 4}, 'init': from_stage(*parent, **init)})


_CONFIGS = {
    'pretrain': _config('pretrain', ''),
    'loop_adapt': _config('loop_adapt', 'pretrain', transform='dense_to_loop'),
    'anneal': _config('anneal', 'loop_adapt', carry=('params', 'optimizer')),
    'sft_instruct': _config('sft_instruct', 'anneal'),
    'sft_thinking': _config('sft_thinking', 'anneal'),
}


def _run(workdir, stage, steps=2, change_start=0.0, rows='rows', config=None):
  """Runs a stage as the training loop does, with addition as its training."""
  run_folder, config = RunFolder(workdir), config or _CONFIGS[stage]
  checkpoints = Checkpoints(run_folder.stage(stage))
  began = start.choose(config, run_folder, checkpoints)
  params = {'w': np.zeros((4, 6), np.float32)}
  if began.checkpoints:
    abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), params)
    params = began.checkpoints.restore_params(abstract, began.step)
  if began.kind == 'resume':
    record, first = lineage.resume(began, config, rows), began.step
  else:
    params = {'w': params['w'] + change_start + (0.5 if config.init.transform else 0.0)}
    combined = fingerprint.combine(fingerprint.fingerprints(params))
    record, first = lineage.begin(began, config, rows, combined), 0
  for step in range(first + 1, first + steps + 1):
    params = {'w': params['w'] + 1}
    saved = lineage.progress(record, steps=step, tokens_seen=step * 512, wall_seconds=(step - first) * 1.0,
                             finished=step == first + steps)  # fmt: skip
    checkpoints.save(step, params, {'step': np.int32(step)}, saved)
  checkpoints.wait()
  lineage.write(checkpoints.stage, checkpoints.lineage())
  return checkpoints


@pytest.fixture(name='pristine', scope='module')
def _pristine(tmp_path_factory):
  workdir = tmp_path_factory.mktemp('pristine') / 'chain'
  for stage in _STAGES:
    _run(workdir, stage)
  return workdir


@pytest.fixture(name='chain')
def _chain(pristine, tmp_path):
  return pathlib.Path(shutil.copytree(pristine, tmp_path / 'chain'))


def test_a_stage_records_what_it_came_from_and_how_it_was_trained(chain):
  records = lineage.tree(RunFolder(chain), _STAGES)
  assert list(records) == _STAGES
  assert records['pretrain']['parent'] is None and records['pretrain']['transform'] == ''
  for stage, parent in [('loop_adapt', 'pretrain'), ('anneal', 'loop_adapt'), ('sft_thinking', 'anneal')]:
    assert records[stage]['parent'] == {'stage': parent, 'step': 2, 'fingerprint': records[parent]['end_fingerprint']}
  assert records['anneal']['start_fingerprint'] == records['loop_adapt']['end_fingerprint']
  assert records['loop_adapt']['start_fingerprint'] != records['pretrain']['end_fingerprint']
  anneal = records['anneal']
  assert anneal['carry'] == ['params', 'optimizer'] and anneal['config_hash'] == config_hash(_CONFIGS['anneal'])
  assert (anneal['steps'], anneal['tokens_seen'], anneal['finished'], anneal['size']) == (2, 1024, True, 'tiny')
  assert anneal['model'] == {'layers': 4}
  assert anneal['versions']['jax'] == jax.__version__ and anneal['code_version']
  assert anneal['devices'] == {'kind': jax.devices()[0].device_kind, 'count': 8, 'processes': 1}


def test_a_resumed_stage_keeps_how_it_began_and_adds_its_wall_time(tmp_path):
  first = _run(tmp_path, 'pretrain').lineage()
  second = _run(tmp_path, 'pretrain', steps=3).lineage()
  kept = ('start_fingerprint', 'model', 'parent', 'stage')
  assert [first[key] for key in kept] == [second[key] for key in kept]
  assert (second['wall_seconds'], second['steps']) == (2.0 + 3.0, 5)
  assert second['end_fingerprint'] != first['end_fingerprint']


def test_a_resumed_stage_records_the_settings_and_rows_it_resumes_with(tmp_path):
  _run(tmp_path, 'pretrain')
  changed = ConfigDict(_CONFIGS['pretrain'].to_dict() | {'seed': 7})
  resumed = _run(tmp_path, 'pretrain', rows='other rows', config=changed).lineage()
  assert resumed['config_hash'] == config_hash(changed) != config_hash(_CONFIGS['pretrain'])
  assert resumed['rows_manifest_hash'] == 'other rows'


def test_an_imported_model_is_recorded_by_the_stage_that_starts_from_it(tmp_path):
  checkpoints = Checkpoints(RunFolder(tmp_path).stage('anneal'))
  record = lineage.imported('anneal', 'tiny', 'models/tiny', {})
  checkpoints.save(0, {'w': np.ones((4, 6), np.float32)}, None, record)
  checkpoints.wait()
  lineage.write(checkpoints.stage, checkpoints.lineage())
  assert lineage.verify(RunFolder(tmp_path), _STAGES) == []
  _run(tmp_path, 'anneal')
  records = lineage.tree(RunFolder(tmp_path), _STAGES)
  assert records['anneal']['imported'] == 'models/tiny' and records['anneal']['parent'] is None
  assert 'models/tiny' in lineage.render(records, {}) and lineage.verify(RunFolder(tmp_path), _STAGES) == []


def test_a_chain_as_it_was_written_has_no_problems(chain):
  assert lineage.verify(RunFolder(chain), _STAGES) == []


def test_a_changed_byte_is_named_with_stage_step_and_file(chain):
  file = chain / 'loop_adapt/checkpoints/1/optimizer/manifest.ocdbt'
  content = file.read_bytes()
  file.write_bytes(content[:20] + bytes([content[20] ^ 8]) + content[21:])
  problems = lineage.verify(RunFolder(chain), _STAGES)
  assert len(problems) == 1
  assert problems[0].startswith('loop_adapt: ')
  assert '/checkpoints/1: optimizer/manifest.ocdbt has changed' in problems[0]


def test_a_lineage_json_that_differs_from_the_checkpoint_is_named(chain):
  file = chain / 'anneal/lineage.json'
  file.write_text(file.read_text().replace('"finished": true', '"finished": false'))
  (chain / 'pretrain/lineage.json').unlink()
  problems = lineage.verify(RunFolder(chain), _STAGES)
  assert [problem.split(':')[0] for problem in problems] == ['pretrain', 'anneal']
  assert f'{file}: is not the lineage in checkpoint 2' in problems[1]


def test_a_start_that_is_not_the_parents_end_needs_a_transform(tmp_path):
  _run(tmp_path, 'pretrain')
  _run(tmp_path, 'loop_adapt')  # its transform explains the difference
  _run(tmp_path, 'anneal', change_start=1.0)
  problems = lineage.verify(RunFolder(tmp_path), _STAGES)
  assert len(problems) == 1 and problems[0].startswith('anneal: ') and 'names no transform' in problems[0]


def test_a_parent_trained_again_or_further_is_named(chain):
  for step in (1, 2):
    shutil.rmtree(chain / f'pretrain/checkpoints/{step}')
  assert 'lineage.json: belongs to no checkpoint' in '\n'.join(lineage.verify(RunFolder(chain), _STAGES))
  _run(chain, 'pretrain', change_start=3.0)
  problems = lineage.verify(RunFolder(chain), _STAGES)
  assert len(problems) == 1 and 'starts from step 2 of pretrain with fingerprint' in problems[0]
  _run(chain, 'pretrain')
  problems = lineage.verify(RunFolder(chain), _STAGES)
  assert len(problems) == 1 and 'starts from step 2 of pretrain, which no longer exists' in problems[0]


def test_lineage_json_is_replaced_atomically(chain, monkeypatch):
  folder = RunFolder(chain).stage('anneal')
  before = json.loads(folder.lineage.read_text())

  def refuse(*_):
    raise OSError(errno.ENOSPC, 'No space left on device')

  with monkeypatch.context() as patch:
    patch.setattr(os, 'replace', refuse)
    with pytest.raises(UserError, match='lineage.json: not written: No space left on device'):
      lineage.write(folder, before | {'steps': 99})
  assert json.loads(folder.lineage.read_text()) == before
  lineage.write(folder, before | {'steps': 99})
  assert json.loads(folder.lineage.read_text())['steps'] == 99


def test_the_tree_hangs_every_stage_below_its_parent_within_100_columns(chain):
  text = lineage.render(lineage.tree(RunFolder(chain), _STAGES), {'loop_adapt': (6.9, 2.3), 'anneal': None})
  stages = [re.match(r'[│├└─ ]*\w+', line).group() for line in text.splitlines()[1:]]
  branches = ['└─ loop_adapt', '   └─ anneal', '      ├─ sft_instruct', '      └─ sft_thinking']
  assert stages == ['pretrain', *branches]
  assert max(map(len, text.splitlines())) <= 100
  loop_adapt = lineage.tree(RunFolder(chain), _STAGES)['loop_adapt']
  for cell in ('1,024', '6.900 → 2.300', loop_adapt['end_fingerprint'], 'dense_to_loop'):
    assert cell in text.splitlines()[2]
