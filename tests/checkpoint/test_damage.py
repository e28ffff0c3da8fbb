"""Damage is detected before a checkpoint is used, and reported with the file or leaf and the way out."""

import errno
import json
import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from iquest_jax.checkpoint import fingerprint, seal
from iquest_jax.checkpoint.store import Checkpoints
from iquest_jax.errors import UserError
from iquest_jax.run_folder import StageFolder


def _params(scale=1.0):
  return {'layers': {'w': np.arange(48, dtype=np.float32).reshape(8, 6) * scale}, 'norm': np.ones(6, np.float32)}


def _abstract(params):
  return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), params)


_OPTIMIZER = {'step': jax.ShapeDtypeStruct((), jnp.int32)}


@pytest.fixture(scope='module')
def pristine(tmp_path_factory):
  checkpoints = Checkpoints(StageFolder(tmp_path_factory.mktemp('workdir') / 'anneal'))
  for step in (1, 2):
    checkpoints.save(step, _params(step), {'step': np.int32(step)}, {'size': 'tiny'})
  checkpoints.wait()
  return checkpoints.stage.path


@pytest.fixture
def checkpoints(pristine, tmp_path):
  shutil.copytree(pristine, tmp_path / 'anneal')
  return Checkpoints(StageFolder(tmp_path / 'anneal'))


def _message(action):
  with pytest.raises(UserError) as caught:
    action()
  assert '\n' not in str(caught.value)
  return str(caught.value)


def _flip(file, at):
  content = bytearray(file.read_bytes())
  content[at % len(content)] ^= 1
  file.write_bytes(content)


def test_a_changed_byte_in_any_file_is_detected_and_the_file_named(checkpoints):
  folder = checkpoints.folder / '2'
  for number, name in enumerate(seal.files(folder)):
    _flip(folder / name, at=number * 31)
    message = _message(lambda: checkpoints.restore(_abstract(_params()), _OPTIMIZER))
    assert message.startswith(f'{folder}: {name} ') and 'has changed' in message
    assert message.endswith('remove this folder to resume from step 1')
    _flip(folder / name, at=number * 31)
  checkpoints.restore(_abstract(_params()), _OPTIMIZER)


def test_a_missing_or_extra_file_is_detected_and_named(checkpoints):
  folder = checkpoints.folder / '2'
  for name in seal.files(folder):
    content = (folder / name).read_bytes()
    (folder / name).unlink()
    assert f'{folder}: {name} is missing' in _message(lambda: checkpoints.restore(_abstract(_params()), _OPTIMIZER))
    (folder / name).write_bytes(content)
  (folder / 'params/d/stowaway').write_text('')
  message = _message(lambda: checkpoints.restore_params(_abstract(_params())))
  assert f'{folder}: params/d/stowaway does not belong to this checkpoint' in message


@pytest.mark.parametrize('number', [errno.EACCES, errno.ESTALE, errno.EREMOTEIO])
def test_a_file_that_cannot_be_read_for_now_is_not_damage(checkpoints, number, monkeypatch):
  def refuse(path):
    raise OSError(number, os.strerror(number), str(path))

  monkeypatch.setattr(type(checkpoints.folder), 'read_text', refuse)
  for read in (lambda: checkpoints.verify(2), lambda: checkpoints.lineage(2), lambda: checkpoints.has_optimizer(2)):
    with pytest.raises(OSError) as caught:
      read()
    assert caught.value.errno == number


def test_who_takes_the_parameters_alone_reads_no_file_of_the_optimizer(checkpoints, monkeypatch):
  folder, read = checkpoints.folder / '2', []
  hashing = seal.file_hashes
  monkeypatch.setattr(seal, 'file_hashes', lambda *args: read.extend(args[1]) or hashing(*args))
  _flip(folder / 'optimizer/manifest.ocdbt', at=7)
  checkpoints.restore_params(_abstract(_params()))
  assert read and not any(name.startswith('optimizer/') for name in read)
  assert {'lineage/lineage.json', 'integrity/fingerprints.json', 'params/_METADATA'} < set(read)
  assert 'optimizer/manifest.ocdbt has changed' in _message(lambda: checkpoints.restore(_abstract(_params()), _OPTIMIZER))


def test_removing_the_damaged_folder_leaves_the_one_before_to_resume_from(checkpoints):
  _flip(checkpoints.folder / '2/params/manifest.ocdbt', at=7)
  _message(lambda: checkpoints.restore_params(_abstract(_params())))
  (checkpoints.folder / '2').rmtree()
  np.testing.assert_array_equal(checkpoints.restore_params(_abstract(_params()))['layers']['w'],
                                _params(1)['layers']['w'])
  _flip(checkpoints.folder / '1/params/manifest.ocdbt', at=7)
  assert 'remove this folder to start the stage again' in _message(lambda: checkpoints.restore_params(_abstract(_params())))


def _forge(checkpoints, leaves, end_fingerprint):
  """Replaces what checkpoint 2 records of its parameters, and seals it again, so that every file matches its hash."""
  folder = checkpoints.folder / '2'
  record = json.dumps(checkpoints.lineage(2) | {'end_fingerprint': end_fingerprint})
  (folder / 'lineage/lineage.json').write_text(record)
  stored = json.loads((folder / 'integrity/fingerprints.json').read_text())
  (folder / 'integrity/fingerprints.json').write_text(json.dumps(stored | {'params': leaves}))
  _seal_again(checkpoints)


def _seal_again(checkpoints):
  folder = checkpoints.folder / '2'
  names = [name for name in seal.files(folder) if name != 'integrity/files.json']
  (folder / 'integrity/files.json').write_text(seal.to_text(seal.file_hashes(folder, names)))
  checkpoints.verify(2)


_LEAVES = fingerprint.fingerprints(_params(2))


@pytest.mark.parametrize(
    ('leaves', 'says'),
    [
        (fingerprint.fingerprints(_params(3)), 'params/layers/w has fingerprint'),
        (_LEAVES | {'gate': '0' * 16}, f'params/gate has fingerprint None, but was saved with {"0" * 16}'),
        ({'norm': _LEAVES['norm']}, f'params/layers/w has fingerprint {_LEAVES["layers/w"]}, but was saved with None'),
    ],
    ids=['other values', 'a leaf that is missing', 'a leaf that was not recorded'],
)
def test_parameters_other_than_those_recorded_are_detected_and_named(checkpoints, leaves, says):
  """Every file matches its hash; only the fingerprints differ."""
  _forge(checkpoints, leaves, fingerprint.combine(leaves))
  for check in (lambda: checkpoints.restore_params(_abstract(_params())), lambda: checkpoints.verify_leaves(2)):
    assert f'{checkpoints.folder}/2: {says}' in _message(check)


@pytest.fixture
def training(tmp_path):
  """Checkpoints, and a state as in training: parameters, Adam's moments and counters."""
  params = jax.tree.map(jnp.asarray, _params())
  _, moments = optax.adamw(1e-3).update(params, optax.adamw(1e-3).init(params), params)
  return Checkpoints(StageFolder(tmp_path)), params, {'opt_state': moments, 'step': jnp.int32(7), 'skipped': jnp.int32(1)}


def _changed(tree, path):
  """The tree with the lowest bit of one element of the leaf flipped."""

  def change(at, leaf):
    if fingerprint.leaf_path(at) != path:
      return leaf
    bits = np.array(leaf).reshape(-1).view(np.uint32)
    bits[-1] ^= 1
    return jnp.asarray(bits.view(leaf.dtype).reshape(leaf.shape))

  return jax.tree_util.tree_map_with_path(change, tree)


_STATE = ['opt_state/0/mu/layers/w', 'opt_state/0/nu/norm', 'opt_state/0/count', 'step', 'skipped']


@pytest.mark.parametrize('path', _STATE)
def test_a_moment_or_counter_that_changes_before_its_copy_to_the_host_is_named_at_restore(training, path, monkeypatch):
  """From then on it is written, hashed and read back as it should be: no file shows it."""
  checkpoints, params, optimizer = training
  save = checkpoints._saver.save

  def with_a_flip(folder, args):
    broken = _changed(args.optimizer.item, path)
    save(folder, args=type(args)(params=args.params, optimizer=type(args.optimizer)(broken)))

  with monkeypatch.context() as patch:
    patch.setattr(checkpoints._saver, 'save', with_a_flip)
    checkpoints.save(2, params, optimizer, {})
    checkpoints.wait()
  checkpoints.verify(2)
  abstract = _abstract(params), _abstract(optimizer)
  for check in (lambda: checkpoints.restore(*abstract), lambda: checkpoints.verify_leaves(2)):
    assert f'checkpoints/2: optimizer/{path} has fingerprint' in _message(check)
  checkpoints.restore_params(abstract[0])  # the parameters are as they were


@pytest.mark.parametrize('path', _STATE)
def test_a_moment_or_counter_replaced_on_disk_is_named_though_every_file_matches_its_hash(training, path, tmp_path):
  checkpoints, params, optimizer = training
  checkpoints.save(2, params, optimizer, {})
  checkpoints.wait()
  other = Checkpoints(StageFolder(tmp_path / 'other'))
  other.save(2, params, _changed(optimizer, path), {})
  other.wait()
  shutil.rmtree(checkpoints.folder / '2/optimizer')
  shutil.copytree(other.folder / '2/optimizer', checkpoints.folder / '2/optimizer')
  _seal_again(checkpoints)
  for check in (lambda: checkpoints.restore(_abstract(params), _abstract(optimizer)), lambda: checkpoints.verify_leaves(2)):
    assert f'checkpoints/2: optimizer/{path} has fingerprint' in _message(check)


@pytest.mark.parametrize('end_fingerprint', ['0' * 16, '', None])
def test_an_end_fingerprint_of_other_parameters_is_detected(checkpoints, end_fingerprint):
  _forge(checkpoints, _LEAVES, end_fingerprint)
  says = f'{checkpoints.folder}/2: end_fingerprint in lineage/lineage.json is not that of the parameters'
  assert says in _message(lambda: checkpoints.verify_leaves(2))


def test_a_checkpoint_of_another_size_names_the_leaf_and_both_shapes(checkpoints):
  other = _abstract(_params())
  other['layers']['w'] = jax.ShapeDtypeStruct((16, 6), jnp.float32)
  message = _message(lambda: checkpoints.restore_params(other))
  shapes = 'params/layers/w is float32[8, 6] in the checkpoint and float32[16, 6] in this run'
  assert message.startswith(f'{checkpoints.folder}/2: {shapes}')
  assert 'size "tiny" (54 elements in params, this run has 102)' in message


@pytest.mark.parametrize(
    ('params', 'says'),
    [
        (_params() | {'gate': np.zeros(2, np.float32)}, 'gate is absent in the checkpoint and float32[2] in this run'),
        ({'layers': _params()['layers']}, 'norm is float32[6] in the checkpoint and absent in this run'),
        (_params() | {'norm': np.ones(6, jnp.bfloat16)}, 'norm is float32[6] in the checkpoint and bfloat16[6] in this'),
    ],
    ids=['a leaf too many', 'a leaf too few', 'another type'],
)
def test_a_checkpoint_of_another_architecture_or_type_names_the_leaf(checkpoints, params, says):
  assert f'/2: params/{says}' in _message(lambda: checkpoints.restore_params(_abstract(params)))


def test_an_absent_checkpoint_or_optimizer_is_one_line(checkpoints, tmp_path):
  message = _message(lambda: Checkpoints(StageFolder(tmp_path / 'nowhere')).restore_params(_abstract(_params())))
  assert message == f'{tmp_path}/nowhere/checkpoints: no checkpoint; train the stage first'
  assert message.replace(';', ' of step 7;') == _message(lambda: Checkpoints(StageFolder(tmp_path / 'nowhere')).lineage(7))
  checkpoints.save(3, _params(), None, {})
  checkpoints.wait()
  assert 'holds no optimizer state' in _message(lambda: checkpoints.restore(_abstract(_params()), _OPTIMIZER))
