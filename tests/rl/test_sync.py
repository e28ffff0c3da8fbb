"""The sampler's parameters are the trainer's, wherever they lie, and a difference is noticed."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iquest_jax import sharding
from iquest_jax.checkpoint import fingerprint, restore
from iquest_jax.errors import RunStopped
from iquest_jax.infer import engine as engines
from iquest_jax.infer.engine import Engine, Request
from iquest_jax.model.transformer import Transformer
from iquest_jax.rl import sync
from iquest_jax.rl.sync import Sync

from tests.model.small_models import DENSE, random_params

MODEL = dataclasses.replace(DENSE, layers=1, vocab=64)


def trained(mesh_shape, seed=0):
  """Parameters on a training mesh."""
  mesh = sharding.make_mesh(mesh_shape)
  shardings = sharding.of_leaves(restore.abstract_params(MODEL, mesh))
  return jax.device_put(random_params(MODEL, seed), shardings)


@pytest.mark.parametrize('mesh', [
    {'data': 8, 'fsdp': 1, 'context': 1, 'tensor': 1},
    {'data': 2, 'fsdp': 4, 'context': 1, 'tensor': 1},
    {'data': 1, 'fsdp': 2, 'context': 2, 'tensor': 2},
])  # fmt: skip
def test_the_sampler_has_the_same_values_on_any_training_mesh(mesh):
  params, expected = trained(mesh), random_params(MODEL)
  copy, found = Sync(MODEL, jnp.float32)(params)
  jax.tree.map(np.testing.assert_array_equal, copy, expected)
  assert found == fingerprint.combine(fingerprint.fingerprints(expected))
  shapes = {leaf.sharding.mesh.shape['fsdp'] * leaf.sharding.mesh.shape['context'] for leaf in jax.tree.leaves(copy)}
  assert shapes == {1}  # no weight is gathered while decoding
  assert copy['head'].sharding.mesh.shape['tensor'] == 2 == MODEL.kv_heads


def test_weights_that_are_multiplied_are_cast_and_the_others_are_not():
  params = trained({'data': 2, 'fsdp': 4, 'context': 1, 'tensor': 1})
  copy, found = Sync(MODEL, jnp.bfloat16)(params)
  assert copy['head'].dtype == jnp.bfloat16
  np.testing.assert_array_equal(copy['head'], np.asarray(params['head']).astype(jnp.bfloat16))
  norms = [leaf for path, leaf in jax.tree_util.tree_leaves_with_path(copy) if 'norm' in jax.tree_util.keystr(path)]
  assert norms and all(leaf.dtype == jnp.float32 for leaf in norms)
  assert found != Sync(MODEL, jnp.float32)(params)[1]


def test_a_copy_with_one_other_bit_stops_the_run(monkeypatch):
  params, put = trained({'data': 8, 'fsdp': 1, 'context': 1, 'tensor': 1}), jax.device_put

  def flipped(tree, where):
    copy = put(tree, where)
    head = np.array(copy['head'])
    head.view(np.uint32)[1, 2] ^= 1
    return copy | {'head': put(head, copy['head'].sharding)}

  monkeypatch.setattr(sync.jax, 'device_put', flipped)
  with pytest.raises(RunStopped, match='sampler and trainer differ in head'):
    Sync(MODEL, jnp.float32)(params)


def test_on_the_same_devices_nothing_is_copied():
  """Of weights that every device holds whole: a copy would double them."""
  params = trained({'data': 4, 'fsdp': 1, 'context': 1, 'tensor': 2})
  copy, _ = Sync(MODEL, jnp.float32)(params)
  pointers = lambda tree: [shard.data.unsafe_buffer_pointer() for shard in tree['head'].addressable_shards]
  assert pointers(copy) == pointers(params)


def test_new_parameters_take_effect_without_compiling_again():
  make = Sync(MODEL, jnp.float32)
  shape = {'data': 4, 'fsdp': 1, 'context': 1, 'tensor': 2}
  request = lambda id: Request(id, np.arange(1, 5, dtype=np.int32), 6)
  engine = Engine(Transformer(MODEL, jnp.float32), make(trained(shape))[0], 4, 32)
  first = [token.token for token in engine.run([request(0)])]
  compiled = engines._decode._cache_size(), engines._prefill._cache_size()
  engine.load(make(trained(shape, seed=1))[0])
  second = [token.token for token in engine.run([request(1)])]
  assert (engines._decode._cache_size(), engines._prefill._cache_size()) == compiled
  fresh = Engine(Transformer(MODEL, jnp.float32), make(trained(shape, seed=1))[0], 4, 32)
  assert second == [token.token for token in fresh.run([request(2)])] != first
