"""What is not as it was written is found before it is used, and named with the way out."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iquest_jax.checkpoint import fingerprint
from iquest_jax.checkpoint.store import Checkpoints
from iquest_jax.errors import UserError


def _params(scale=1.0):
  return {'layers': {'w': np.arange(48, dtype=np.float32).reshape(8, 6) * scale}, 'norm': np.ones(6, np.float32)}


def _abstract(params):
  return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), params)


_OPTIMIZER = {'step': jax.ShapeDtypeStruct((), jnp.int32)}


@pytest.fixture(scope='module')
def pristine(tmp_path_factory):
  checkpoints = Checkpoints(tmp_path_factory.mktemp('workdir') / 'anneal')
  for step in (1, 2):
    checkpoints.save(step, _params(step), {'step': np.int32(step)}, {'size': 'tiny'})
  checkpoints.wait()
  return checkpoints.run_dir


@pytest.fixture
def checkpoints(pristine, tmp_path):
  shutil.copytree(pristine, tmp_path / 'anneal')
  return Checkpoints(tmp_path / 'anneal')


def _told(action):
  with pytest.raises(UserError) as caught:
    action()
  assert '\n' not in str(caught.value)
  return str(caught.value)


def _flip(file, at):
  content = bytearray(file.read_bytes())
  content[at % len(content)] ^= 1
  file.write_bytes(content)


def test_a_changed_byte_in_any_file_is_found_and_the_file_named(checkpoints):
  folder = checkpoints.folder / '2'
  for number, name in enumerate(fingerprint.files(folder)):
    _flip(folder / name, at=number * 31)
    told = _told(lambda: checkpoints.restore(_abstract(_params()), _OPTIMIZER))
    assert told.startswith(f'{folder}: {name} ') and 'has changed' in told
    assert told.endswith('remove this folder to go on from step 1')
    _flip(folder / name, at=number * 31)
  checkpoints.restore(_abstract(_params()), _OPTIMIZER)


def test_a_missing_or_an_extra_file_is_found_and_named(checkpoints):
  folder = checkpoints.folder / '2'
  for name in fingerprint.files(folder):
    content = (folder / name).read_bytes()
    (folder / name).unlink()
    assert f'{folder}: {name} is missing' in _told(lambda: checkpoints.restore_params(_abstract(_params())))
    (folder / name).write_bytes(content)
  (folder / 'params/d/stowaway').write_text('')
  told = _told(lambda: checkpoints.restore_params(_abstract(_params())))
  assert f'{folder}: params/d/stowaway is not of this checkpoint' in told


def test_removing_the_damaged_folder_goes_on_from_the_one_before(checkpoints):
  _flip(checkpoints.folder / '2/params/manifest.ocdbt', at=7)
  _told(lambda: checkpoints.restore_params(_abstract(_params())))
  (checkpoints.folder / '2').rmtree()
  np.testing.assert_array_equal(checkpoints.restore_params(_abstract(_params()))['layers']['w'],
                                _params(1)['layers']['w'])
  _flip(checkpoints.folder / '1/params/manifest.ocdbt', at=7)
  assert 'remove this folder to start the stage anew' in _told(lambda: checkpoints.restore_params(_abstract(_params())))


def test_numbers_that_are_not_those_trained_are_found_and_the_leaf_named(checkpoints):
  """The files fit their hashes here: only the fingerprints know."""
  folder = checkpoints.folder / '2'
  file = folder / 'integrity/fingerprints.json'
  file.write_text(json.dumps(fingerprint.fingerprints(_params(3))))
  names = [name for name in fingerprint.files(folder) if name != 'integrity/files.json']
  (folder / 'integrity/files.json').write_text(fingerprint.seal(fingerprint.file_hashes(folder, names)))
  checkpoints.verify(2)
  for check in (lambda: checkpoints.restore_params(_abstract(_params())), lambda: checkpoints.verify_leaves(2)):
    assert f'{folder}: params/layers/w has fingerprint' in _told(check)


def test_a_checkpoint_of_another_size_names_the_leaf_and_both_shapes(checkpoints):
  other = _abstract(_params())
  other['layers']['w'] = jax.ShapeDtypeStruct((16, 6), jnp.float32)
  told = _told(lambda: checkpoints.restore_params(other))
  assert told.startswith(f'{checkpoints.folder}/2: params/layers/w is float32[8, 6] there and float32[16, 6] here')
  assert 'size "tiny" (54 numbers' in told and 'with 102;' in told


def test_a_checkpoint_of_another_architecture_or_type_names_the_leaf(checkpoints):
  extra = _abstract(_params() | {'gate': np.zeros(2, np.float32)})
  assert 'params/gate is absent there and float32[2] here' in _told(lambda: checkpoints.restore_params(extra))
  fewer = _abstract({'layers': _params()['layers']})
  assert 'params/norm is float32[6] there and absent here' in _told(lambda: checkpoints.restore_params(fewer))
  narrow = _abstract(_params() | {'norm': np.ones(6, jnp.bfloat16)})
  assert 'params/norm is float32[6] there and bfloat16[6] here' in _told(lambda: checkpoints.restore_params(narrow))


def test_an_absent_checkpoint_or_optimizer_is_one_line(checkpoints, tmp_path):
  told = _told(lambda: Checkpoints(tmp_path / 'nowhere').restore_params(_abstract(_params())))
  assert told == f'{tmp_path}/nowhere/checkpoints: there is no checkpoint'
  assert told + ' of step 7' == _told(lambda: Checkpoints(tmp_path / 'nowhere').lineage(7))
  checkpoints.save(3, _params(), None, {})
  checkpoints.wait()
  assert 'holds no optimizer state' in _told(lambda: checkpoints.restore(_abstract(_params()), _OPTIMIZER))
