"""Dense to loop: weights of representative dense layers become the layers that the passes of the loop share.

The report names the fold but not its rule ("weights of representative blocks are aggregated"); with equal depth it is a
copy plus new gates.

Legend: L layers of the loop, N layers of the dense parent, H heads, K head size.
"""

import jax
import numpy as np
from scipy import special

from iquest_jax.errors import UserError, check_name
from iquest_jax.model.attention import GATE_BIAS
from iquest_jax.model.sizes import ModelConfig


def _stride(leaf_N, layers):
  """The last layer of each group of N / L, whose output the next group reads."""
  group = leaf_N.shape[0] // layers
  return leaf_N[group - 1 :: group]


def _mean(leaf_N, layers):
  """The mean of each group of N / L neighbouring layers, added in their order: the same bits on any backend."""
  group = leaf_N.shape[0] // layers
  total = leaf_N[::group]
  for index in range(1, group):
    total = total + leaf_N[index::group]
  return total * np.float32(1 / group)


# On jax and numpy arrays alike.
FOLDS = {'copy': lambda leaf_N, layers: leaf_N, 'stride': _stride, 'mean': _mean}


def gates(model: ModelConfig, seed: int) -> dict[str, np.ndarray]:
  """The gates that the fold adds, on the host: float32 {'gate_weight': [L, H, width], 'gate_bias': [L, H]}.

  Weights are normal with init_std; biases are +2, so the loop starts close to its global stream. The uniform numbers are
  integer arithmetic and the quantile is rounded from float64, so that a verification elsewhere finds the same bits.
  """
  shape = model.layers, model.heads, model.gate_width
  key, low = jax.random.key(seed, impl='threefry2x32'), np.nextafter(np.float32(-1), np.float32(0))
  uniform_LHK = np.asarray(jax.random.uniform(key, shape, np.float32, low, 1.0), np.float64)
  weight = model.init_std * np.sqrt(2) * special.erfinv(uniform_LHK)
  return {
      'gate_weight': weight.astype(np.float32),
      'gate_bias': np.full((model.layers, model.heads), GATE_BIAS, np.float32),
  }


def dense_to_loop(dense_params, model: ModelConfig, rule: str, new_gates: dict[str, jax.Array]):
  """Parameters of the looped `model` from those of a dense parent.

  Args:
    dense_params: parameters of the dense Transformer; every leaf under `layers` has a leading N.
    model: the looped model. N must equal L for 'copy' and be a multiple of L for 'stride' and 'mean'.
    rule: a name in FOLDS.
    new_gates: see `gates`.

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
  layers['attention'] |= new_gates
  return {**dense_params, 'layers': layers}
