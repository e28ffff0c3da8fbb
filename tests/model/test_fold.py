"""Dense to loop: what each rule keeps, and how the gates start."""

import dataclasses
import statistics

import jax
import numpy as np
import pytest

from iquest_jax import sharding
from iquest_jax.errors import UserError
from iquest_jax.model import fold, sizes, transformer
from iquest_jax.train import state

LOOP = dataclasses.replace(
    sizes.get('tiny_loop'), vocab=32, d_model=16, d_ff=24, layers=2, heads=4, kv_heads=2, head_dim=4
)
GATES = fold.gates(LOOP, seed=5)


def dense_params(layers):
  mesh = sharding.make_mesh({'data': 1, 'fsdp': 1, 'context': 1, 'tensor': 1}, jax.devices()[:1])
  dense = transformer.Transformer(dataclasses.replace(LOOP, loops=1, layers=layers), 'float32')
  return jax.device_get(state.random_params(dense, mesh, 0))


def test_a_copy_changes_nothing_and_adds_gates():
  dense = dense_params(2)
  folded = jax.device_get(fold.dense_to_loop(dense, LOOP, 'copy', GATES))
  gates = {name: folded['layers']['attention'].pop(name) for name in ('gate_weight', 'gate_bias')}
  jax.tree.map(np.testing.assert_array_equal, dense, folded)
  assert np.all(gates['gate_bias'] == 2.0)
  assert gates['gate_weight'].shape == (2, 4, 4) and 0 < np.std(gates['gate_weight']) < 2 * LOOP.init_std


def test_gates_are_normal_and_follow_from_the_seed_alone():
  wide = dataclasses.replace(LOOP, layers=8, heads=16, kv_heads=2, head_dim=64)
  gates = fold.gates(wide, seed=5)
  weight = gates['gate_weight']
  assert weight.dtype == gates['gate_bias'].dtype == np.float32
  np.testing.assert_array_equal(weight, fold.gates(wide, seed=5)['gate_weight'])
  assert not np.any(weight == fold.gates(wide, seed=6)['gate_weight'])
  sample = np.sort(weight.ravel() / wide.init_std)
  quantiles = [statistics.NormalDist().inv_cdf(share) for share in (0.02, 0.25, 0.5, 0.75, 0.98)]
  np.testing.assert_allclose(np.quantile(sample, [0.02, 0.25, 0.5, 0.75, 0.98]), quantiles, atol=0.08)


@pytest.mark.parametrize('rule', ['stride', 'mean'])
def test_the_fold_gives_the_same_bits_compiled_on_a_mesh_and_in_numpy(rule):
  """A verification repeats it in numpy, layer by layer."""
  query = dense_params(6)['layers']['attention']['query']
  mesh = sharding.make_mesh({'data': 1, 'fsdp': 8, 'context': 1, 'tensor': 1})
  split = jax.device_put(query, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(None, 'fsdp')))
  compiled = jax.jit(lambda leaf: fold.FOLDS[rule](leaf, 2))(split)
  np.testing.assert_array_equal(compiled, fold.FOLDS[rule](query, 2))
  np.testing.assert_array_equal(compiled, np.concatenate([fold.FOLDS[rule](query[:3], 1), fold.FOLDS[rule](query[3:], 1)]))


def test_a_folded_model_is_a_looped_model():
  model = transformer.Transformer(LOOP, 'float32')
  wanted = jax.eval_shape(lambda: transformer.init_params(model, jax.random.key(0)))
  for rule, layers in (('copy', 2), ('stride', 4), ('mean', 6)):
    folded = fold.dense_to_loop(dense_params(layers), LOOP, rule, GATES)
    assert jax.tree.map(lambda x: x.shape, folded) == jax.tree.map(lambda x: x.value.shape, wanted, is_leaf=_boxed)
    tokens = np.arange(8)[None] % LOOP.vocab
    logits = model.apply({'params': folded}, tokens, np.ones_like(tokens), tokens, method='logits')
    assert np.all(np.isfinite(logits))


def _boxed(leaf):
  return hasattr(leaf, 'names')


def test_stride_takes_the_last_layer_of_each_group_and_mean_their_average():
  dense = dense_params(6)
  query = dense['layers']['attention']['query']
  stride = fold.dense_to_loop(dense, LOOP, 'stride', GATES)['layers']['attention']['query']
  np.testing.assert_array_equal(stride, query[[2, 5]])
  mean = fold.dense_to_loop(dense, LOOP, 'mean', GATES)['layers']['attention']['query']
  np.testing.assert_allclose(mean[1], query[3:].mean(axis=0), rtol=1e-6)


def test_the_dense_parameters_stay_unchanged():
  dense = dense_params(2)
  fold.dense_to_loop(dense, LOOP, 'copy', GATES)
  assert 'gate_bias' not in dense['layers']['attention']


@pytest.mark.parametrize(('rule', 'layers'), [('copy', 4), ('stride', 3), ('mean', 5)])
def test_depths_that_do_not_fit_are_refused(rule, layers):
  with pytest.raises(UserError, match=f'dense layers must be (a multiple of )?2 for "{rule}", got {layers}'):
    fold.dense_to_loop(dense_params(layers), LOOP, rule, GATES)


def test_an_unknown_rule_is_refused_with_the_nearest_name():
  with pytest.raises(UserError, match='did you mean "stride"'):
    fold.dense_to_loop(dense_params(2), LOOP, 'strde', GATES)
