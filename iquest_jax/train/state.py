"""What a step changes, how it begins, and where it lies on the mesh."""

from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from iquest_jax import sharding
from iquest_jax.model.transformer import Transformer, init_params


@flax.struct.dataclass
class TrainState:
  """Parameters, and everything a resumed run needs besides them.

  Attributes:
    params: float32 tree of the Transformer.
    opt_state: optax state.
    step: int32, batches consumed.
    skipped: int32, updates skipped because loss or gradient was not finite.
    skipped_in_a_row: int32, of those the ones since the last good update.
  """

  params: Any
  opt_state: Any
  step: jax.Array
  skipped: jax.Array
  skipped_in_a_row: jax.Array

  def optimizer_item(self) -> dict:
    """The part that lies beside `params` in a checkpoint."""
    return {
        'opt_state': self.opt_state,
        'step': self.step,
        'skipped': self.skipped,
        'skipped_in_a_row': self.skipped_in_a_row,
    }


def create(params, tx: optax.GradientTransformation) -> TrainState:
  """A fresh state around parameters, boxed or not."""
  zero = jnp.zeros((), jnp.int32)
  return TrainState(params, tx.init(params), zero, zero, zero)


def abstract_params(model: Transformer, mesh: Mesh):
  """Shapes, dtypes and shardings of a model's parameters, without making them."""
  boxed = jax.eval_shape(lambda key: init_params(model, key), jax.random.key(0))
  return _with_shardings(boxed, mesh)


def abstract_state(model: Transformer, tx: optax.GradientTransformation, mesh: Mesh) -> TrainState:
  """The same for the whole state: moments lie where their parameters lie."""
  boxed = jax.eval_shape(lambda key: create(init_params(model, key), tx), jax.random.key(0))
  return _with_shardings(boxed, mesh)


def _with_shardings(boxed, mesh: Mesh):
  placed = sharding.shardings(boxed, mesh)
  return jax.tree.map(
      lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where), nn.unbox(boxed), placed
  )


def random_params(model: Transformer, mesh: Mesh, seed: int):
  """Freshly drawn parameters, made where they will lie; the same numbers on any mesh."""
  where = jax.tree.map(lambda leaf: leaf.sharding, abstract_params(model, mesh))
  return jax.jit(lambda key: nn.unbox(init_params(model, key)), out_shardings=where)(jax.random.key(seed))


def fresh_optimizer(params, tx: optax.GradientTransformation, abstract: TrainState) -> TrainState:
  """A state at step 0 around placed parameters."""
  where = jax.tree.map(lambda leaf: leaf.sharding, abstract)
  return jax.jit(lambda params: create(params, tx), out_shardings=where, donate_argnums=0)(params)
