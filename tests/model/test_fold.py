"""Dense to loop: what each rule keeps, and how the gates start."""

import dataclasses

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
KEY = jax.random.key(5)


def dense_params(layers):
  mesh = sharding.make_mesh({'data': 1, 'fsdp': 1, 'context': 1, 'tensor': 1}, jax.devices()[:1])
  dense = transformer.Transformer(dataclasses.replace(LOOP, loops=1, layers=layers), 'float32')
  return jax.device_get(state.random_params(dense, mesh, 0))


def test_a_copy_changes_nothing_and_adds_gates():
  dense = dense_params(2)
  folded = jax.device_get(fold.dense_to_loop(dense, LOOP, 'copy', KEY))
  gates = {name: folded['layers']['attention'].pop(name) for name in ('gate_weight', 'gate_bias')}
  jax.tree.map(np.testing.assert_array_equal, dense, folded)
  assert np.all(gates['gate_bias'] == 2.0)
  assert gates['gate_weight'].shape == (2, 4, 4) and 0 < np.std(gates['gate_weight']) < 2 * LOOP.init_std


def test_a_folded_model_is_a_looped_model():
  model = transformer.Transformer(LOOP, 'float32')
  wanted = jax.eval_shape(lambda: transformer.init_params(model, KEY))
  for rule, layers in (('copy', 2), ('stride', 4), ('mean', 6)):
    folded = fold.dense_to_loop(dense_params(layers), LOOP, rule, KEY)
    assert jax.tree.map(lambda x: x.shape, folded) == jax.tree.map(lambda x: x.value.shape, wanted, is_leaf=_boxed)
    tokens = np.arange(8)[None] % LOOP.vocab
    logits = model.apply({'params': folded}, tokens, np.ones_like(tokens), tokens, method='logits')
    assert np.all(np.isfinite(logits))


def _boxed(leaf):
  return hasattr(leaf, 'names')


def test_stride_takes_the_last_layer_of_each_group_and_mean_their_average():
  dense = dense_params(6)
  query = dense['layers']['attention']['query']
  stride = fold.dense_to_loop(dense, LOOP, 'stride', KEY)['layers']['attention']['query']
  np.testing.assert_array_equal(stride, query[[2, 5]])
  mean = fold.dense_to_loop(dense, LOOP, 'mean', KEY)['layers']['attention']['query']
  np.testing.assert_allclose(mean[1], query[3:].mean(axis=0), rtol=1e-6)


def test_the_dense_parameters_stay_unchanged():
  dense = dense_params(2)
  fold.dense_to_loop(dense, LOOP, 'copy', KEY)
  assert 'gate_bias' not in dense['layers']['attention']


@pytest.mark.parametrize(('rule', 'layers'), [('copy', 4), ('stride', 3), ('mean', 5)])
def test_depths_that_do_not_fit_are_refused(rule, layers):
  with pytest.raises(UserError, match=f'dense layers must be (a multiple of )?2 for "{rule}", got {layers}'):
    fold.dense_to_loop(dense_params(layers), LOOP, rule, KEY)


def test_an_unknown_rule_is_refused_with_the_nearest_name():
  with pytest.raises(UserError, match='did you mean "stride"'):
    fold.dense_to_loop(dense_params(2), LOOP, 'strde', KEY)
