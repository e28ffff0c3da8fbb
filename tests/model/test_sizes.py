"""Published sizes: the exact number of parameters, and the floating-point operations of the traced program."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iquest_jax.checkpoint.restore import abstract_params
from iquest_jax.errors import UserError
from iquest_jax.model import cost, sizes
from iquest_jax.model.transformer import Transformer

from tests.model.small_models import DENSE, LOOP, LOOP3, RESCALED

PUBLISHED = {'7b': 7_612_810_240, '14b': 14_439_183_360, '40b': 39_794_283_520, '40b_loop': 39_794_696_320}


@pytest.mark.parametrize('size', PUBLISHED)
def test_parameters_are_exactly_the_published_ones(size):
  leaves = jax.tree.leaves(abstract_params(sizes.get(size)))
  assert sum(math.prod(leaf.shape) for leaf in leaves) == PUBLISHED[size]
  assert {leaf.dtype for leaf in leaves} == {jnp.dtype('float32')}


@pytest.mark.parametrize('model', [*sizes.SIZES.values(), DENSE, LOOP, LOOP3, RESCALED], ids=str)
def test_num_params_counts_the_parameters_of_the_model(model):
  assert cost.num_params(model) == sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(abstract_params(model)))


@pytest.mark.parametrize('length', [1, 4, 5, 6, 17])
@pytest.mark.parametrize('window', [None, 1, 5])
def test_visible_pairs_are_those_of_the_mask(length, window):
  age = np.arange(length)[:, None] - np.arange(length)[None]
  assert cost.visible_pairs(length, window) == np.sum((age >= 0) & (age < (window or length)))


@pytest.mark.parametrize('model', [DENSE, LOOP, LOOP3])
def test_forward_flops_are_traced_flops_minus_invisible_pairs(model):
  T = 16
  row = jax.ShapeDtypeStruct((1, T), jnp.int32)
  apply = lambda params, *args: Transformer(model, 'float32').apply({'params': params}, *args, method='logits')
  traced = _matmul_flops(jax.make_jaxpr(apply)(abstract_params(model), row, row, row).jaxpr)
  age = np.arange(T)[:, None] - np.arange(T)[None]
  hidden_causal, hidden_local = np.sum(age < 0), np.sum((age < 0) | (age >= model.loop_window))
  # The reference kernel computes all T x T scores and masks them: two products of 2 K operations per pair and head.
  invisible = model.loops * hidden_causal + (model.loops - 1) * hidden_local
  invisible_flops = 4 * model.layers * model.heads * model.head_dim * int(invisible)
  # The count leaves out the gate's product with the query: K x H numbers per layer, beside D x (D + F).
  gate_flops = 2 * (model.loops - 1) * model.layers * T * model.heads * model.head_dim
  assert cost.forward_flops(model, T) == traced - invisible_flops - gate_flops


def _matmul_flops(jaxpr):
  """Two operations per multiplication of every dot_general, including inner programs and repetitions of a scan."""
  total = 0
  for equation in jaxpr.eqns:
    if equation.primitive.name == 'dot_general':
      ((contracted, _), _), left = equation.params['dimension_numbers'], equation.invars[0].aval
      total += 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(left.shape[axis] for axis in contracted)
    for value in equation.params.values():
      inner = getattr(value, 'jaxpr', value)
      if hasattr(inner, 'eqns'):
        total += equation.params.get('length', 1) * _matmul_flops(inner)
  return total


@pytest.mark.parametrize(
    'change', [{'kv_heads': 3}, {'head_dim': 7}, {'loops': 0}, {'loop_window': 0}, {'loop_variant': 'other'}], ids=str
)
def test_an_impossible_shape_is_refused(change):
  with pytest.raises(UserError, match=str(list(change.values())[0])):
    dataclasses.replace(DENSE, **change)


def test_an_unknown_size_offers_the_nearest():
  with pytest.raises(UserError, match='did you mean "40b_loop"'):
    sizes.get('40b_lop')
