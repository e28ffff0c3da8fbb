"""Lineage records where a checkpoint comes from; verify reports where the files no longer agree."""

import dataclasses
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

from iquest_jax.checkpoint import fingerprint, lineage, start, stream
from iquest_jax.checkpoint.store import Checkpoints
from iquest_jax.config import config_hash, from_stage
from iquest_jax.errors import UserError
from iquest_jax.model import fold, sizes, transformer
from iquest_jax.run_folder import RunFolder

_STAGES = ['pretrain', 'loop_adapt', 'anneal', 'sft_instruct', 'sft_thinking']


_DENSE = dataclasses.replace(sizes.get('tiny'), layers=4, heads=2, kv_heads=1, head_dim=4)
_LOOP = dataclasses.replace(sizes.get('tiny_loop'), layers=4, heads=2, kv_heads=1, head_dim=4)


def _config(stage, *parent, model=_LOOP, fold_rule='copy', **init):
  config = ConfigDict({
      'stage': stage, 'size': 'tiny', 'seed': 3, 'model': dataclasses.asdict(model), 'init': from_stage(*parent, **init),
      'train': {'skip_steps': ()},
  })  # fmt: skip
  if init.get('transform'):
    config.init.fold = fold_rule
  return config


_CONFIGS = {
    'pretrain': _config('pretrain', '', model=_DENSE),
    'loop_adapt': _config('loop_adapt', 'pretrain', transform='dense_to_loop'),
    'anneal': _config('anneal', 'loop_adapt', carry=('params', 'optimizer')),
    'sft_instruct': _config('sft_instruct', 'anneal'),
    'sft_thinking': _config('sft_thinking', 'anneal'),
}


def _fresh(seed=0):
  random = np.random.default_rng(seed)
  draw = lambda *shape: random.standard_normal(shape).astype(np.float32)
  return {'layers': {'attention': {'query': draw(4, 3, 2)}, 'scale': draw(4, 3)}, 'head': draw(3, 5)}


def _restored(checkpoints, step):
  """The parameters of a checkpoint, whatever their shapes."""
  tree = {}
  for path, _, piece in checkpoints.pieces(step):
    *parents, name = path.split('/')
    node = tree
    for parent in parents:
      node = node.setdefault(parent, {})
    node[name] = np.concatenate([node[name], piece]) if name in node else piece
  return tree


def _run(workdir, stage, steps=2, change=lambda params: params, rows='rows', config=None):
  """Runs a stage as the training loop does, with addition as its training; `change` is applied to what it begins with."""
  run_folder, config = RunFolder(workdir), config or _CONFIGS[stage]
  checkpoints = Checkpoints(run_folder.stage(stage))
  began = start.choose(config, run_folder, checkpoints)
  params = _restored(began.checkpoints, began.step) if began.checkpoints else _fresh()
  if began.kind == 'resume':
    record, first = lineage.resume(began, config, rows), began.step
  else:
    if began.kind == 'parent' and config.init.transform:
      model = transformer.model_config(config.model)
      params = fold.dense_to_loop(params, model, config.init.fold, fold.gates(model, config.seed))
    params = change(params)
    record, first = lineage.begin(began, config, rows, fingerprint.fingerprints(params)), 0
  for step in range(first + 1, first + steps + 1):
    params = jax.tree.map(lambda leaf: np.asarray(leaf + 1), params)
    saved = lineage.progress(record, steps=step, tokens_seen=step * 512, wall_seconds=(step - first) * 1.0,
                             finished=step == first + steps)  # fmt: skip
    checkpoints.save(step, params, {'step': np.int32(step)}, saved)
  checkpoints.wait()
  lineage.write(checkpoints.stage, checkpoints.lineage())
  return checkpoints


def _plus(amount, only=''):
  """Adds to all leaves, or to one."""
  add = lambda path, leaf: leaf + amount if not only or fingerprint.leaf_path(path) == only else leaf
  return lambda params: jax.tree_util.tree_map_with_path(add, params)


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
  assert anneal['model'] == dataclasses.asdict(_LOOP)
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


def test_every_way_in_which_a_stage_was_trained_is_recorded(tmp_path, monkeypatch):
  first = _run(tmp_path, 'pretrain').lineage()
  assert _run(tmp_path, 'pretrain').lineage()['runs'] == first['runs']  # the same way: no entry
  rows = _run(tmp_path, 'pretrain', rows='more rows').lineage()
  assert rows['runs'] == [first['runs'][0], first['runs'][0] | {'from_step': 4, 'rows_manifest_hash': 'more rows'}]
  with monkeypatch.context() as patch:
    patch.setattr(lineage, 'code_version', lambda: 'v2')
    code = _run(tmp_path, 'pretrain', rows='more rows').lineage()['runs']
    assert code[:2] == rows['runs'] and code[2:] == [rows['runs'][1] | {'from_step': 6, 'code_version': 'v2'}]
    patch.setattr(jax, 'device_count', lambda: 256)
    devices = _run(tmp_path, 'pretrain', rows='more rows').lineage()['runs']
    assert (devices[3]['from_step'], devices[3]['devices']['count']) == (8, 256)
    skipping = ConfigDict(_CONFIGS['pretrain'].to_dict() | {'train': {'skip_steps': ((3, 5),)}})
    runs = _run(tmp_path, 'pretrain', rows='more rows', config=skipping).lineage()['runs']
    assert runs[:4] == devices and (runs[4]['config_hash'], runs[4]['skip_steps']) == (config_hash(skipping), [[3, 5]])
  shown = lineage.render_runs(lineage.tree(RunFolder(tmp_path), _STAGES)).splitlines()
  assert [line.partition(':')[0] for line in shown] == [f'pretrain from step {step}' for step in (0, 4, 6, 8, 10)]
  assert 'rows more row' in shown[1] and 'code v2' in shown[2] and '256 x' in shown[3] and 'without 3-5' in shown[4]


def test_a_folder_of_before_runs_and_folds_were_recorded_resumes_and_is_named_once(chain):
  file = chain / 'loop_adapt/checkpoints/2/lineage/lineage.json'
  record = json.loads(file.read_text())
  first = record['runs'][0]
  file.write_text(json.dumps({key: value for key, value in record.items() if key not in ('runs', 'fold')}))
  problems = lineage.verify(RunFolder(chain), _STAGES[:2])
  assert sum('was saved before folds were recorded' in problem for problem in problems) == 1
  assert _run(chain, 'loop_adapt').lineage()['runs'] == [first]
  _run(chain, 'loop_adapt', rows='more rows')
  runs = lineage.tree(RunFolder(chain), _STAGES)['loop_adapt']['runs']
  assert runs == [first, first | {'from_step': 4, 'rows_manifest_hash': 'more rows'}]


def test_a_chain_that_was_trained_in_one_way_shows_no_runs(chain):
  assert lineage.render_runs(lineage.tree(RunFolder(chain), _STAGES)) == ''


def test_an_imported_model_is_recorded_by_the_stage_that_starts_from_it(tmp_path):
  checkpoints = Checkpoints(RunFolder(tmp_path).stage('anneal'))
  record = lineage.imported('anneal', 'tiny', 'models/tiny', {})
  checkpoints.save(0, _fresh(), None, record)
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
  _run(tmp_path, 'anneal', change=_plus(1.0))
  problems = lineage.verify(RunFolder(tmp_path), _STAGES)
  assert len(problems) == 1 and problems[0].startswith('anneal: ') and 'names no transform' in problems[0]


_DEEP = dataclasses.replace(_LOOP, layers=2)


@pytest.mark.parametrize(('rule', 'model'), [('copy', _LOOP), ('stride', _DEEP), ('mean', _DEEP)])
def test_a_fold_is_verified_from_the_parents_parameters_leaf_by_leaf(tmp_path, rule, model, monkeypatch):
  monkeypatch.setattr(stream, 'PIECE_BYTES', 72)  # three layers of the query: pieces end within the groups that are folded
  _run(tmp_path, 'pretrain')
  config = _config('loop_adapt', 'pretrain', transform='dense_to_loop', model=model, fold_rule=rule)
  shutil.copytree(tmp_path, tmp_path / 'other')
  _run(tmp_path, 'loop_adapt', config=config)
  assert lineage.verify(RunFolder(tmp_path), _STAGES) == []
  _run(tmp_path / 'other', 'loop_adapt', config=config, change=_plus(1e-7, 'layers/attention/query'))
  (problem,) = lineage.verify(RunFolder(tmp_path / 'other'), _STAGES)
  assert f'did not begin with its fold by "{rule}": layers/attention/query differ' in problem


@pytest.mark.parametrize(
    ('change', 'leaves'),
    [
        (_plus(1.0, 'layers/attention/gate_weight'), 'layers/attention/gate_weight'),
        (_plus(-2.0, 'layers/attention/gate_bias'), 'layers/attention/gate_bias'),
        (_plus(1.0, 'head'), 'head'),
        (lambda params: {'head': params['head']}, 'layers/attention/gate_bias, layers/attention/gate_weight, '
         'layers/attention/query, layers/scale'),
    ],
    ids=['gate weights', 'gate biases', 'a leaf without layers', 'leaves that are missing'],
)  # fmt: skip
def test_a_looped_stage_that_began_with_other_values_is_named_with_their_leaves(tmp_path, change, leaves):
  _run(tmp_path, 'pretrain')
  _run(tmp_path, 'loop_adapt', change=change)
  (problem,) = lineage.verify(RunFolder(tmp_path), _STAGES)
  assert problem.startswith('loop_adapt: ') and problem.endswith(f'did not begin with its fold by "copy": {leaves} differ')


def test_a_looped_stage_of_another_seed_rule_or_parent_is_detected(chain):
  file = chain / 'loop_adapt/checkpoints/2/lineage/lineage.json'
  before = json.loads(file.read_text())
  for forged, says in (
      ({'seed': 4}, 'layers/attention/gate_weight differ'),
      ({'rule': 'blend'}, 'names the fold "blend", which does not exist'),
      ({'leaves': before['fold']['leaves'] | {'head': '0' * 16}}, 'which is not the fingerprint of its leaves'),
  ):
    file.write_text(json.dumps(before | {'fold': before['fold'] | forged}))
    assert any(says in problem for problem in lineage.verify(RunFolder(chain), _STAGES[:2]))


def test_what_was_carried_is_recorded_rather_than_what_was_to_be(tmp_path):
  """An imported model has no optimizer state."""
  checkpoints = Checkpoints(RunFolder(tmp_path).stage('loop_adapt'))
  checkpoints.save(0, _fresh(), None, lineage.imported('loop_adapt', 'tiny', 'models/tiny', {}))
  checkpoints.wait()
  lineage.write(checkpoints.stage, checkpoints.lineage())
  assert _run(tmp_path, 'anneal').lineage()['carry'] == ['params']
  assert lineage.verify(RunFolder(tmp_path), _STAGES) == []


def test_a_parent_trained_again_or_further_is_named(chain):
  for step in (1, 2):
    shutil.rmtree(chain / f'pretrain/checkpoints/{step}')
  assert 'lineage.json: belongs to no checkpoint' in '\n'.join(lineage.verify(RunFolder(chain), _STAGES))
  _run(chain, 'pretrain', change=_plus(3.0))
  problems = lineage.verify(RunFolder(chain), _STAGES)
  assert len(problems) == 2 and all('starts from step 2 of pretrain with fingerprint' in problem for problem in problems)
  assert 'which now has' in problems[0] and 'did not begin with its fold by "copy"' in problems[1]
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


def test_the_columns_of_a_whole_chain_at_full_size_do_not_shift():
  parents = ('pretrain', 'loop_adapt', 'anneal', 'midtrain_32k', 'midtrain_128k', 'sft_thinking', 'rl_thinking')
  stage = dict(steps=2_861_023, tokens_seen=12_000_000_000_000, finished=False, end_fingerprint='f' * 16, imported=None)
  tree = {
      name: stage | {'parent': parent and {'stage': parent}, 'transform': None if parent else 'dense_to_loop'}
      for name, parent in zip(parents, (None, *parents))
  }
  header, *lines = lineage.render(tree, dict.fromkeys(parents, '43.3% → 46.7%')).splitlines()
  assert len(lines) == len(parents) and max(map(len, lines)) <= 110
  for line, source in zip(lines, ('dense_to_loop', *parents)):
    assert line[header.index('comes from') :] == source and line[header.index('parameters') :].startswith('f' * 16)


def test_the_tree_hangs_every_stage_below_its_parent_within_110_columns(chain):
  text = lineage.render(lineage.tree(RunFolder(chain), _STAGES), {'loop_adapt': '6.900 → 2.300'})
  stages = [re.match(r'[│├└─ ]*\w+', line).group() for line in text.splitlines()[1:]]
  branches = ['└─ loop_adapt', '   └─ anneal', '      ├─ sft_instruct', '      └─ sft_thinking']
  assert stages == ['pretrain', *branches]
  assert max(map(len, text.splitlines())) <= 110
  loop_adapt = lineage.tree(RunFolder(chain), _STAGES)['loop_adapt']
  for cell in ('1,024', '6.900 → 2.300', loop_adapt['end_fingerprint'], 'dense_to_loop'):
    assert cell in text.splitlines()[2]
