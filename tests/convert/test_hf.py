"""Published checkpoints are imported and exported bit for bit, and an export is atomic."""

import dataclasses
import errno
import json
import pathlib
import re

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file

from iquest_jax.convert import files, hf, names
from iquest_jax.errors import UserError

from tests.model.small_models import DENSE, LOOP, RESCALED, leaves, published, random_params, write_checkpoint

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden'
MODELS = pytest.mark.parametrize('model', [DENSE, LOOP], ids=['dense', 'loop'])


def bits(array):
  return array.shape, array.dtype, np.ascontiguousarray(array).tobytes()


def assert_same_bits(ours, theirs):
  assert ours.keys() == theirs.keys()
  for name in theirs:
    assert bits(np.asarray(ours[name])) == bits(np.asarray(theirs[name])), name


def pieces(params, length=7):
  """As Checkpoints.pieces cuts parameters."""
  for path, leaf in leaves(params):
    axis = names.AXES[path]
    for start in range(0, leaf.shape[axis], length):
      yield path, start, np.take(leaf, range(start, min(start + length, leaf.shape[axis])), axis)


@pytest.mark.parametrize('name', ['dense_tiny', 'loop_tiny'])
def test_the_golden_checkpoints_survive_the_round_trip_bit_for_bit(name, tmp_path):
  model, params = hf.from_hf(GOLDEN / name)
  hf.to_hf(model, pieces(params), tmp_path / 'out')
  assert_same_bits(load_file(tmp_path / 'out' / files.SINGLE), load_file(GOLDEN / name / files.SINGLE))
  again, params_again = hf.from_hf(tmp_path / 'out')
  assert again == model
  jax.tree.map(np.testing.assert_array_equal, params_again, params)


@MODELS
def test_an_export_has_the_published_layout(model, tmp_path):
  params = random_params(model)
  hf.to_hf(model, pieces(params), tmp_path / 'out')
  tensors, config = published(model, params)
  assert_same_bits(load_file(tmp_path / 'out' / files.SINGLE), tensors)
  written = json.loads((tmp_path / 'out' / 'config.json').read_text())
  assert config.items() <= written.items()
  assert not written['tie_word_embeddings'] and written['torch_dtype'] == 'float32'
  # A dense model has no window to publish.
  expected = model if model.loops > 1 else dataclasses.replace(model, loop_window=type(model).loop_window)
  assert hf.from_hf(tmp_path / 'out')[0] == expected


@MODELS
def test_bfloat16_checkpoints_survive_the_round_trip_bit_for_bit(model, tmp_path):
  source = write_checkpoint(tmp_path / 'in', model, ml_dtypes.bfloat16)
  read, params = hf.from_hf(source)
  assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype(np.float32)}
  hf.to_hf(read, pieces(params), tmp_path / 'out', 'bfloat16')
  assert_same_bits(load_file(tmp_path / 'out' / files.SINGLE), load_file(source / files.SINGLE))


def test_float16_checkpoints_are_read_exactly(tmp_path):
  source = write_checkpoint(tmp_path / 'in', DENSE, np.float16)
  embedding = load_file(source / files.SINGLE)['model.embed_tokens.weight']
  np.testing.assert_array_equal(hf.from_hf(source)[1]['embedder']['embedding'], embedding.astype(np.float32))


def test_special_numbers_keep_their_bits(tmp_path):
  params = random_params(LOOP)
  params['head'][0, :6] = [-0.0, np.inf, -np.inf, np.nan, 1e-45, np.finfo(np.float32).max]
  hf.to_hf(LOOP, pieces(params), tmp_path / 'out')
  assert bits(hf.from_hf(tmp_path / 'out')[1]['head']) == bits(params['head'])


@MODELS
def test_shards_are_bounded_indexed_and_read_back(model, tmp_path, monkeypatch):
  monkeypatch.setattr(files, 'SHARD_BYTES', 10_000)
  params = random_params(model)
  hf.to_hf(model, pieces(params), tmp_path / 'out')
  index = json.loads((tmp_path / 'out' / files.INDEX).read_text())
  written = sorted(path.name for path in (tmp_path / 'out').glob('*.safetensors'))
  assert len(written) > 2 and written == sorted(set(index['weight_map'].values()))
  assert all(re.fullmatch(rf'model-\d{{5}}-of-{len(written):05d}\.safetensors', file) for file in written)
  merged = {}
  for file in written:
    shard = load_file(tmp_path / 'out' / file)
    assert sum(array.nbytes for array in shard.values()) <= 10_000
    assert {index['weight_map'][name] for name in shard} == {file}
    merged |= shard
  assert_same_bits(merged, published(model, params)[0])
  assert index['metadata']['total_size'] == sum(array.nbytes for array in merged.values())
  jax.tree.map(np.testing.assert_array_equal, hf.from_hf(tmp_path / 'out')[1], params)


def test_pieces_of_any_length_make_the_same_files(tmp_path):
  params = random_params(LOOP)
  for length in (1, 2, 100):
    hf.to_hf(LOOP, pieces(params, length), tmp_path / str(length))
  contents = {(tmp_path / str(length) / files.SINGLE).read_bytes() for length in (1, 2, 100)}
  assert len(contents) == 1


def test_a_source_reads_any_part_of_its_leaf(tmp_path):
  model, sources = hf.sources(write_checkpoint(tmp_path / 'in', LOOP))
  of_path = dict(leaves(sources))
  for path, leaf in leaves(random_params(model)):
    axis = names.AXES[path]
    assert of_path[path].shape == leaf.shape and of_path[path].axis == axis
    part = np.take(leaf, range(1, leaf.shape[axis] - 1), axis)
    assert bits(of_path[path].read(1, leaf.shape[axis] - 1)) == bits(part), path


@pytest.mark.parametrize(
    ('model', 'params', 'dtype', 'message'),
    [
        (RESCALED, random_params(RESCALED), 'float32', 'loop_variant "rescaled" has no published format'),
        (DENSE, random_params(DENSE), 'float8', 'dtype "float8" does not exist'),
        (LOOP, random_params(DENSE), 'float32', 'layers/attention/gate_bias must be (3, 4), got none'),
        (DENSE, random_params(LOOP), 'float32', 'layers/attention/gate_bias must be absent, got (3, 4)'),
    ],
    ids=['rescaled', 'dtype', 'gates missing', 'gates too many'],
)
def test_an_export_without_a_published_form_is_refused(model, params, dtype, message, tmp_path):
  with pytest.raises(UserError, match=re.escape(message)):
    hf.to_hf(model, pieces(params), tmp_path / 'out', dtype)
  assert not list(tmp_path.iterdir())


def test_an_export_never_overwrites(tmp_path):
  (tmp_path / 'out').mkdir()
  (tmp_path / 'out' / 'notes').write_text('kept')
  with pytest.raises(UserError, match='exists; choose another --out'):
    hf.to_hf(DENSE, pieces(random_params(DENSE)), tmp_path / 'out')
  assert [path.name for path in (tmp_path / 'out').iterdir()] == ['notes']


def test_an_export_that_cannot_be_written_is_refused_and_leaves_nothing(tmp_path, monkeypatch):
  (tmp_path / 'file').write_text('')
  with pytest.raises(UserError, match='cannot write .*Not a directory'):
    hf.to_hf(DENSE, pieces(random_params(DENSE)), tmp_path / 'file' / 'out')

  def full_disk(*_):
    raise OSError(errno.ENOSPC, 'No space left on device')

  monkeypatch.setattr(files.Shards, 'append', full_disk)
  with pytest.raises(UserError, match='No space left on device; choose another --out or make room'):
    hf.to_hf(DENSE, pieces(random_params(DENSE)), tmp_path / 'out')
  assert [path.name for path in tmp_path.iterdir()] == ['file']


def test_a_killed_export_leaves_no_folder_and_the_next_one_is_complete(tmp_path, monkeypatch):
  class Killed(BaseException):
    """Not caught by anyone, like a signal."""

  def killed_in_the_second_shard(params):
    for piece in pieces(params):
      if len(list(tmp_path.glob('out.partial/*'))) == 2:
        raise Killed
      yield piece

  params = random_params(DENSE)
  with monkeypatch.context() as patch, pytest.raises(Killed):
    patch.setattr(files, 'SHARD_BYTES', 10_000)
    hf.to_hf(DENSE, killed_in_the_second_shard(params), tmp_path / 'out')
  assert not (tmp_path / 'out').exists()
  hf.to_hf(DENSE, pieces(params), tmp_path / 'out')
  assert [path.name for path in tmp_path.iterdir()] == ['out']
  assert sorted(path.name for path in (tmp_path / 'out').iterdir()) == ['config.json', files.SINGLE]
  jax.tree.map(np.testing.assert_array_equal, hf.from_hf(tmp_path / 'out')[1], params)
