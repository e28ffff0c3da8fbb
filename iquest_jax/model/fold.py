"""Dense to loop: weights of representative dense layers become the layers that the passes of the loop share.

The report names the fold but not its rule ("weights of representative blocks are aggregated"); with equal depth it is a
copy plus new gates.

Legend: L layers of the loop, N layers of the dense parent, H heads, K head size.
"""

import jax
import jax.numpy as jnp

from iquest_jax.errors import UserError, check_name
from iquest_jax.model.attention import GATE_BIAS
from iquest_jax.model.sizes import ModelConfig


def _stride(leaf_N, layers):
  """The last layer of each group of N / L, whose output the next group reads."""
  group = leaf_N.shape[0] // layers
  return leaf_N[group - 1 :: group]


def _mean(leaf_N, layers):
  """The mean of each group of N / L neighbouring layers."""
  return leaf_N.reshape(layers, -1, *leaf_N.shape[1:]).mean(axis=1)


FOLDS = {'copy': lambda leaf_N, layers: leaf_N, 'stride': _stride, 'mean': _mean}


def dense_to_loop(dense_params, model: ModelConfig, rule: str, key: jax.Array):
  """Parameters of the looped `model` from those of a dense parent.

  Args:
    dense_params: parameters of the dense Transformer; every leaf under `layers` has a leading N.
    model: the looped model. N must equal L for 'copy' and be a multiple of L for 'stride' and 'mean'.
    rule: a name in FOLDS.
    key: for the gate weights (normal, init_std); gate biases are +2, so the loop starts close to its global stream.

  Raises:
    UserError: the rule does not exist, or the depths do not fit it.
  """
  check_name('fold: rule', rule, FOLDS)
  depth = dense_params['layers']['attention']['query'].shape[0]
  if depth % model.layers or (rule == 'copy' and depth != model.layers):
    raise UserError(
        f'fold: dense layers must be {"" if rule == "copy" else "a multiple of "}{model.layers} for "{rule}", got {depth}; '
        'change model.layers or init.fold'
    )
  layers = jax.tree.map(lambda leaf: FOLDS[rule](leaf, model.layers), dense_params['layers'])
  layers['attention'] |= {
      'gate_weight': model.init_std * jax.random.normal(key, (model.layers, model.heads, model.gate_width), jnp.float32),
      'gate_bias': jnp.full((model.layers, model.heads), GATE_BIAS, jnp.float32),
  }
  return {**dense_params, 'layers': layers}
