"""Published checkpoints are imported and exported bit for bit, in bounded memory, and an export is atomic."""

import dataclasses
import errno
import json
import pathlib
import re
import tracemalloc

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file

from iquest_jax.convert import hf
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


@pytest.mark.parametrize('name', ['dense_tiny', 'loop_tiny'])
def test_the_golden_checkpoints_survive_the_round_trip_bit_for_bit(name, tmp_path):
  model, params = hf.from_hf(GOLDEN / name)
  hf.to_hf(model, leaves(params), tmp_path / 'out')
  assert_same_bits(load_file(tmp_path / 'out' / hf.SINGLE), load_file(GOLDEN / name / hf.SINGLE))
  again, params_again = hf.from_hf(tmp_path / 'out')
  assert again == model
  jax.tree.map(np.testing.assert_array_equal, params_again, params)


@MODELS
def test_an_export_has_the_published_layout(model, tmp_path):
  params = random_params(model)
  hf.to_hf(model, leaves(jax.tree.map(jax.numpy.asarray, params)), tmp_path / 'out')
  tensors, config = published(model, params)
  assert_same_bits(load_file(tmp_path / 'out' / hf.SINGLE), tensors)
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
  hf.to_hf(read, leaves(params), tmp_path / 'out', 'bfloat16')
  assert_same_bits(load_file(tmp_path / 'out' / hf.SINGLE), load_file(source / hf.SINGLE))


def test_float16_checkpoints_are_read_exactly(tmp_path):
  source = write_checkpoint(tmp_path / 'in', DENSE, np.float16)
  embedding = load_file(source / hf.SINGLE)['model.embed_tokens.weight']
  np.testing.assert_array_equal(hf.from_hf(source)[1]['embedder']['embedding'], embedding.astype(np.float32))


def test_special_numbers_keep_their_bits(tmp_path):
  params = random_params(LOOP)
  params['head'][0, :6] = [-0.0, np.inf, -np.inf, np.nan, 1e-45, np.finfo(np.float32).max]
  hf.to_hf(LOOP, leaves(params), tmp_path / 'out')
  assert bits(hf.from_hf(tmp_path / 'out')[1]['head']) == bits(params['head'])


@MODELS
def test_shards_are_bounded_indexed_and_read_back(model, tmp_path, monkeypatch):
  monkeypatch.setattr(hf, 'SHARD_BYTES', 10_000)
  params = random_params(model)
  hf.to_hf(model, leaves(params), tmp_path / 'out')
  index = json.loads((tmp_path / 'out' / hf.INDEX).read_text())
  files = sorted(path.name for path in (tmp_path / 'out').glob('*.safetensors'))
  assert len(files) > 2 and files == sorted(set(index['weight_map'].values()))
  assert all(re.fullmatch(rf'model-\d{{5}}-of-{len(files):05d}\.safetensors', file) for file in files)
  merged = {}
  for file in files:
    shard = load_file(tmp_path / 'out' / file)
    assert sum(array.nbytes for array in shard.values()) <= 10_000
    assert {index['weight_map'][name] for name in shard} == {file}
    merged |= shard
  assert_same_bits(merged, published(model, params)[0])
  assert index['metadata']['total_size'] == sum(array.nbytes for array in merged.values())
  jax.tree.map(np.testing.assert_array_equal, hf.from_hf(tmp_path / 'out')[1], params)


def test_an_import_holds_the_model_once_an_export_one_leaf_and_one_shard(tmp_path, monkeypatch):
  model = dataclasses.replace(LOOP, layers=24, d_ff=1024, d_model=64)
  params = random_params(model)
  size, largest = sum(leaf.nbytes for leaf in jax.tree.leaves(params)), 4 * model.d_ff * model.d_model
  monkeypatch.setattr(hf, 'SHARD_BYTES', size // 20)

  def read():  # each leaf on request
    for path, leaf in leaves(params):
      yield path, leaf.copy()

  hf.abstract_params(model)  # memory that tracing keeps is not counted
  tracemalloc.start()
  try:
    hf.to_hf(model, read(), tmp_path / 'out')
    writing = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    kept = tracemalloc.get_traced_memory()[0]
    hf.from_hf(tmp_path / 'out')
    reading = tracemalloc.get_traced_memory()[1] - kept
  finally:
    tracemalloc.stop()
  assert 3 * model.layers * largest < size  # three such leaves
  assert writing < model.layers * largest + 2 * size // 20 < 0.45 * size
  assert reading < size + 4 * largest < 1.1 * size


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
    hf.to_hf(model, leaves(params), tmp_path / 'out', dtype)
  assert not list(tmp_path.iterdir())


def test_an_export_never_overwrites(tmp_path):
  (tmp_path / 'out').mkdir()
  (tmp_path / 'out' / 'notes').write_text('kept')
  with pytest.raises(UserError, match='exists; choose another --out'):
    hf.to_hf(DENSE, leaves(random_params(DENSE)), tmp_path / 'out')
  assert [path.name for path in (tmp_path / 'out').iterdir()] == ['notes']


def test_an_export_that_cannot_be_written_is_refused_and_leaves_nothing(tmp_path, monkeypatch):
  (tmp_path / 'file').write_text('')
  with pytest.raises(UserError, match='cannot write .*Not a directory'):
    hf.to_hf(DENSE, leaves(random_params(DENSE)), tmp_path / 'file' / 'out')

  def full_disk(*args, **kwargs):
    raise OSError(errno.ENOSPC, 'No space left on device')

  monkeypatch.setattr(hf, 'save_file', full_disk)
  with pytest.raises(UserError, match='No space left on device; choose another --out or make room'):
    hf.to_hf(DENSE, leaves(random_params(DENSE)), tmp_path / 'out')
  assert [path.name for path in tmp_path.iterdir()] == ['file']


def test_a_killed_export_leaves_no_folder_and_the_next_one_is_complete(tmp_path, monkeypatch):
  class Killed(BaseException):
    """Not caught by anyone, like a signal."""

  save, calls = hf.save_file, []

  def killed_at_the_second_shard(*args, **kwargs):
    calls.append(args)
    if len(calls) == 2:
      raise Killed
    save(*args, **kwargs)

  params = random_params(DENSE)
  with monkeypatch.context() as patch, pytest.raises(Killed):
    patch.setattr(hf, 'SHARD_BYTES', 10_000)
    patch.setattr(hf, 'save_file', killed_at_the_second_shard)
    hf.to_hf(DENSE, leaves(params), tmp_path / 'out')
  assert not (tmp_path / 'out').exists()
  hf.to_hf(DENSE, leaves(params), tmp_path / 'out')
  assert [path.name for path in tmp_path.iterdir()] == ['out']
  assert sorted(path.name for path in (tmp_path / 'out').iterdir()) == ['config.json', hf.SINGLE]
  jax.tree.map(np.testing.assert_array_equal, hf.from_hf(tmp_path / 'out')[1], params)
