"""Dense to loop: weights of representative dense layers become the layers that the loop shares between its passes.

The report names the fold and leaves its rule open ("weights of representative blocks are aggregated"); with equal depth
it is a copy plus fresh gates. Legend: L layers of the loop, N layers of the dense parent, H heads, K head size.
"""

import jax
import jax.numpy as jnp

from iquest_jax.errors import UserError, nearest
from iquest_jax.model.attention import GATE_BIAS
from iquest_jax.model.sizes import ModelConfig


def _copy(leaf_N, layers):
  return leaf_N


def _stride(leaf_N, layers):
  """The last layer of each group of N / L: the one whose output the next group reads."""
  group = leaf_N.shape[0] // layers
  return leaf_N[group - 1 :: group]


def _mean(leaf_N, layers):
  """The mean of each group of N / L neighbouring layers."""
  return leaf_N.reshape(layers, -1, *leaf_N.shape[1:]).mean(axis=1)


FOLDS = {'copy': _copy, 'stride': _stride, 'mean': _mean}


def dense_to_loop(dense_params, model: ModelConfig, rule: str, key: jax.Array):
  """Parameters of the looped `model` from those of a dense parent.

  Args:
    dense_params: tree of the dense Transformer; every leaf under `layers` has a leading N.
    model: the looped model; N is its L for 'copy', a multiple of L for 'stride' and 'mean'.
    rule: 'copy', 'stride' or 'mean'.
    key: draws the gate weights (normal, init_std); gate biases start at +2, so the loop begins near its global stream.

  Raises:
    UserError: an unknown rule, or depths that do not fit it.
  """
  if rule not in FOLDS:
    raise UserError(f'fold: rule "{rule}" does not exist{nearest(rule, FOLDS)}')
  depth = dense_params['layers']['attention']['query'].shape[0]
  if depth % model.layers or (rule == 'copy' and depth != model.layers):
    raise UserError(
        f'fold: {depth} dense layers do not fold into {model.layers} by "{rule}"; '
        'copy needs equal depth, stride and mean a multiple'
    )
  layers = jax.tree.map(lambda leaf: FOLDS[rule](leaf, model.layers), dense_params['layers'])
  layers['attention'] |= {
      'gate_weight': model.init_std * jax.random.normal(key, (model.layers, model.heads, model.gate_width), jnp.float32),
      'gate_bias': jnp.full((model.layers, model.heads), GATE_BIAS, jnp.float32),
  }
  return {**dense_params, 'layers': layers}
