"""What a training step changes: its shapes, its placement on the mesh, and fresh values."""

from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from iquest_jax import sharding
from iquest_jax.checkpoint import restore
from iquest_jax.model.transformer import Transformer, init_params


@flax.struct.dataclass
class TrainState:
  """Parameters, and everything else a resumed run needs.

  Attributes:
    params: float32 tree of the Transformer.
    opt_state: optax state.
    step: int32, batches consumed.
    skipped: int32, updates skipped because loss or gradient was not finite.
    skipped_in_a_row: int32, updates skipped since the last good one.
  """

  params: Any
  opt_state: Any
  step: jax.Array
  skipped: jax.Array
  skipped_in_a_row: jax.Array

  def optimizer_item(self) -> dict[str, Any]:
    """Everything but `params`: the item `optimizer` of a checkpoint."""
    return {name: value for name, value in vars(self).items() if name != 'params'}


def create(params: Any, tx: optax.GradientTransformation) -> TrainState:
  """The state at step 0 with these parameters, boxed or not."""
  zero = jnp.zeros((), jnp.int32)
  return TrainState(params, tx.init(params), zero, zero, zero)


def abstract_state(model: Transformer, tx: optax.GradientTransformation, mesh: Mesh) -> TrainState:
  """Shapes, dtypes and shardings of the state; moments are sharded like their parameters."""
  boxed = jax.eval_shape(lambda key: create(init_params(model, key), tx), jax.random.key(0))
  return restore.with_shardings(boxed, mesh)


def random_params(model: Transformer, mesh: Mesh, seed: int) -> Any:
  """Randomly initialised parameters, created in place on the mesh; the same values on any mesh."""
  shardings = sharding.of_leaves(restore.abstract_params(model.config, mesh))
  return jax.jit(lambda key: nn.unbox(init_params(model, key)), out_shardings=shardings)(jax.random.key(seed))


def fresh_optimizer(params: Any, tx: optax.GradientTransformation, abstract: TrainState) -> TrainState:
  """The state at step 0 with parameters that are on the mesh already; they are donated."""
  return jax.jit(lambda params: create(params, tx), out_shardings=sharding.of_leaves(abstract), donate_argnums=0)(params)
