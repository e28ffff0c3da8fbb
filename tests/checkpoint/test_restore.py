"""A finished stage is restored as decoding wants it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from iquest_jax.checkpoint import restore
from iquest_jax.checkpoint.store import Checkpoints
from iquest_jax.run_folder import StageFolder

from tests.model.small_models import LOOP, random_params

MODEL = dataclasses.replace(LOOP, vocab=64)  # divides over the mesh


def restored(folder):
  stage = StageFolder(folder)
  with_checkpoint = Checkpoints(stage)
  with_checkpoint.save(1, random_params(MODEL), None, {'model': dataclasses.asdict(MODEL)})
  with_checkpoint.wait()
  return restore.newest_model(stage)


def test_weights_are_split_by_heads_and_the_rest_are_replicas(tmp_path):
  model, params = restored(tmp_path)
  assert model.dtype == jnp.float32
  jax.tree.map(np.testing.assert_array_equal, params, random_params(MODEL))
  shard = lambda leaf: leaf.sharding.shard_shape(leaf.shape)
  layers = params['layers']
  assert shard(layers['attention']['query']) == (3, 24, 2, 8)  # 4 heads for 2 key/value heads
  assert shard(layers['mlp']['down']) == (3, 20, 24) and shard(params['head']) == (24, 32)


def test_an_accelerator_gets_what_is_multiplied_in_bfloat16_and_the_rest_in_float32(tmp_path, monkeypatch):
  monkeypatch.setattr(jax, 'default_backend', lambda: 'tpu')
  model, params = restored(tmp_path)
  assert model.dtype == jnp.bfloat16
  leaves = {name_of(path): leaf.dtype for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
  in_float32 = {path for path, dtype in leaves.items() if dtype == jnp.float32}
  assert in_float32 == {
      'final_norm/scale', 'layers/attention/gate_bias', 'layers/attention/gate_weight', 'layers/attention_norm/scale',
      'layers/mlp_norm/scale',
  }  # fmt: skip
  assert set(leaves.values()) == {jnp.dtype(jnp.float32), jnp.dtype(jnp.bfloat16)}


def name_of(path):
  return '/'.join(key.key for key in path)
