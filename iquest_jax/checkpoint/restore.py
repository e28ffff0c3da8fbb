"""The model of a finished stage: its shape and its parameters on a mesh. Needs no training code."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from iquest_jax import sharding
from iquest_jax.checkpoint.store import Checkpoints
from iquest_jax.errors import UserError
from iquest_jax.model import transformer
from iquest_jax.model.transformer import ModelConfig, Transformer
from iquest_jax.run_folder import StageFolder

# What a stage may change about the model it starts from, because the parameters do not depend on it.
_MAY_CHANGE = {'init_std', 'max_context', 'loop_gradient_scale'}


def newest_model(folder: StageFolder) -> tuple[Transformer, Any]:
  """(model in float32, parameters split over all devices) of a stage's newest checkpoint, for sampling and evaluation."""
  mesh = sharding.make_mesh({'data': 1, 'fsdp': -1, 'context': 1, 'tensor': 1})
  checkpoints = Checkpoints(folder)
  model = Transformer(trained_as(checkpoints.lineage()), jnp.float32)
  return model, checkpoints.restore_params(abstract_params(model.config, mesh))


def trained_as(lineage: dict[str, Any]) -> ModelConfig:
  """The shape of the model a checkpoint holds."""
  return transformer.model_config(ConfigDict(lineage['model']))


def check_same_model(folder: StageFolder, lineage: dict[str, Any], model: ModelConfig) -> None:
  """Raises UserError where `model` would run the parameters in a folder with other shapes, loops or rotation."""
  trained = dataclasses.asdict(trained_as(lineage))
  skipped = _MAY_CHANGE | ({'loop_window', 'loop_variant'} if model.loops == 1 else set())
  for name, wanted in dataclasses.asdict(model).items():
    if name not in skipped and trained[name] != wanted:
      raise UserError(
          f'{folder.path}: has model.{name} = {trained[name]}, but this stage has {wanted}; '
          f'set --exp.model.{name}={trained[name]}, or name the right size in --exp'
      )


def abstract_params(model: ModelConfig, mesh: Mesh | None = None) -> Any:
  """Tree of jax.ShapeDtypeStruct: the parameters of a model, not allocated; with shardings if a mesh is given."""
  boxed = jax.eval_shape(lambda key: transformer.init_params(Transformer(model), key), jax.random.key(0))
  return with_shardings(boxed, mesh) if mesh else nn.unbox(boxed)


def with_shardings(boxed: Any, mesh: Mesh) -> Any:
  """Unboxes a tree of jax.ShapeDtypeStruct with logical axis names, and gives each leaf its sharding on the mesh."""
  struct = lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where)
  return jax.tree.map(struct, nn.unbox(boxed), sharding.shardings(boxed, mesh))
