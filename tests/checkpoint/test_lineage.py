"""Lineage says where a checkpoint comes from, and verify says where that is no longer true."""

import errno
import json
import re

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from iquest_jax.checkpoint import fingerprint, lineage
from iquest_jax.checkpoint.store import Checkpoints, start
from iquest_jax.config import config_hash, from_stage
from iquest_jax.errors import UserError
from iquest_jax.run_folder import StageFolder

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


def _run(workdir, stage, steps=2, change_start=0.0):
  """A stage as the loop runs it, with addition for training."""
  checkpoints = Checkpoints(workdir / stage)
  config = _CONFIGS[stage]
  began = start(config, workdir, checkpoints)
  params = {'w': np.zeros((4, 6), np.float32)}
  if began.checkpoints:
    abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), params)
    params = began.checkpoints.restore_params(abstract, began.step)
  if began.kind == 'resume':
    told, first = lineage.resume(began, config, 'rows'), began.step
  else:
    params = {'w': params['w'] + change_start + (0.5 if config.init.transform else 0.0)}
    combined = fingerprint.combine(fingerprint.fingerprints(params))
    told, first = lineage.begin(began, config, 'rows', combined), 0
  for step in range(first + 1, first + steps + 1):
    params = {'w': params['w'] + 1}
    saved = lineage.progress(told, steps=step, tokens_seen=step * 512, wall_seconds=(step - first) * 1.0,
                             finished=step == first + steps)
    checkpoints.save(step, params, {'step': np.int32(step)}, saved)
  checkpoints.wait()
  lineage.write(StageFolder(checkpoints.run_dir), checkpoints.lineage())
  return checkpoints


@pytest.fixture
def chain(tmp_path):
  for stage in _STAGES:
    _run(tmp_path, stage)
  return tmp_path


def test_a_stage_records_what_it_came_from_and_how_it_was_made(chain):
  told = lineage.tree(chain, _STAGES)
  assert list(told) == _STAGES
  assert told['pretrain']['parent'] is None and told['pretrain']['transform'] == ''
  for stage, parent in [('loop_adapt', 'pretrain'), ('anneal', 'loop_adapt'), ('sft_thinking', 'anneal')]:
    assert told[stage]['parent'] == {'stage': parent, 'step': 2, 'fingerprint': told[parent]['end_fingerprint']}
  assert told['anneal']['start_fingerprint'] == told['loop_adapt']['end_fingerprint']
  assert told['loop_adapt']['start_fingerprint'] != told['pretrain']['end_fingerprint']
  anneal = told['anneal']
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


def test_an_imported_model_is_recorded_by_the_stage_that_starts_from_it(tmp_path):
  checkpoints = Checkpoints(tmp_path / 'anneal')
  checkpoints.save(0, {'w': np.ones((4, 6), np.float32)}, None, lineage.imported('anneal', 'tiny', 'models/tiny'))
  checkpoints.wait()
  lineage.write(StageFolder(checkpoints.run_dir), checkpoints.lineage())
  assert lineage.verify(tmp_path, _STAGES) == []
  _run(tmp_path, 'anneal')
  told = lineage.tree(tmp_path, _STAGES)
  assert told['anneal']['imported'] == 'models/tiny' and told['anneal']['parent'] is None
  assert 'models/tiny' in lineage.render(told, {}) and lineage.verify(tmp_path, _STAGES) == []


def test_a_chain_as_it_was_written_has_no_problems(chain):
  assert lineage.verify(chain, _STAGES) == []


def test_a_changed_byte_is_named_with_stage_step_and_file(chain):
  file = chain / 'loop_adapt/checkpoints/1/optimizer/manifest.ocdbt'
  content = file.read_bytes()
  file.write_bytes(content[:20] + bytes([content[20] ^ 8]) + content[21:])
  problems = lineage.verify(chain, _STAGES)
  assert len(problems) == 1
  assert problems[0].startswith('loop_adapt: ')
  assert '/checkpoints/1: optimizer/manifest.ocdbt has changed' in problems[0]


def test_a_lineage_json_that_differs_from_the_checkpoint_is_named(chain):
  file = chain / 'anneal/lineage.json'
  file.write_text(file.read_text().replace('"finished": true', '"finished": false'))
  (chain / 'pretrain/lineage.json').unlink()
  problems = lineage.verify(chain, _STAGES)
  assert [problem.split(':')[0] for problem in problems] == ['pretrain', 'anneal']
  assert f'{file}: is not the lineage in checkpoint 2' in problems[1]


def test_a_start_that_is_not_the_parents_end_needs_a_transform(tmp_path):
  _run(tmp_path, 'pretrain')
  _run(tmp_path, 'loop_adapt')  # its transform explains the difference
  _run(tmp_path, 'anneal', change_start=1.0)
  problems = lineage.verify(tmp_path, _STAGES)
  assert len(problems) == 1 and problems[0].startswith('anneal: ') and 'names no transform' in problems[0]


def test_a_parent_trained_anew_or_further_is_named(chain):
  for step in (1, 2):
    (Checkpoints(chain / 'pretrain').folder / str(step)).rmtree()
  assert 'there is no checkpoint it could be of' in '\n'.join(lineage.verify(chain, _STAGES))
  _run(chain, 'pretrain', change_start=3.0)
  problems = lineage.verify(chain, _STAGES)
  assert len(problems) == 1 and 'starts from step 2 of pretrain with fingerprint' in problems[0]
  _run(chain, 'pretrain')
  problems = lineage.verify(chain, _STAGES)
  assert len(problems) == 1 and 'starts from step 2 of pretrain, which is no longer there' in problems[0]


def test_lineage_json_is_replaced_whole_or_not_at_all(chain, monkeypatch):
  run_dir = Checkpoints(chain / 'anneal').run_dir
  before = json.loads((run_dir / 'lineage.json').read_text())

  def refuse(*_):
    raise OSError(errno.ENOSPC, 'No space left on device')

  monkeypatch.setattr(type(run_dir), 'replace', refuse)
  with pytest.raises(UserError, match='lineage.json: was not written: No space left on device'):
    lineage.write(StageFolder(run_dir), before | {'steps': 99})
  assert json.loads((run_dir / 'lineage.json').read_text()) == before
  monkeypatch.undo()
  lineage.write(StageFolder(run_dir), before | {'steps': 99})
  assert json.loads((run_dir / 'lineage.json').read_text())['steps'] == 99


def test_the_tree_hangs_every_stage_below_its_parent_within_120_columns(chain):
  text = lineage.render(lineage.tree(chain, _STAGES), {'loop_adapt': (6.9, 2.3), 'anneal': None})
  stages = [re.match(r'[│├└─ ]*\w+', line).group() for line in text.splitlines()[1:]]
  branches = ['└─ loop_adapt', '   └─ anneal', '      ├─ sft_instruct', '      └─ sft_thinking']
  assert stages == ['pretrain', *branches]
  assert max(map(len, text.splitlines())) <= 120
  loop_adapt = lineage.tree(chain, _STAGES)['loop_adapt']
  for cell in ('1,024', '6.900 → 2.300', loop_adapt['end_fingerprint'], 'dense_to_loop'):
    assert cell in text.splitlines()[2]
