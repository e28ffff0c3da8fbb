"""The model of a finished stage: its shape and its parameters on a mesh. Needs no training code."""

import dataclasses
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from iquest_jax import sharding
from iquest_jax.checkpoint import start
from iquest_jax.checkpoint.store import Checkpoints
from iquest_jax.errors import UserError
from iquest_jax.model import transformer
from iquest_jax.model.transformer import ModelConfig, Transformer
from iquest_jax.run_folder import StageFolder

# What a stage may change about the model it starts from, because the parameters do not depend on it.
_MAY_CHANGE = {'init_std', 'max_context', 'loop_gradient_scale'}


def newest_model(folder: StageFolder) -> tuple[Transformer, Any]:
  """(model, parameters) of a stage's newest checkpoint, as decoding and evaluation want them.

  The model computes in bfloat16, on a CPU in float32. Weights that are multiplied are stored in that type, and are split
  by heads, ffn and vocabulary as far as there are key/value heads, since gathering them for every token would take longer
  than using them; the other devices hold replicas for slots of their own.
  """
  checkpoints = Checkpoints(folder)
  step = start.newest(checkpoints)
  config = trained_as(checkpoints.lineage(step))
  model = Transformer(config, jnp.float32 if jax.default_backend() == 'cpu' else jnp.bfloat16)
  tensor = math.gcd(jax.device_count(), config.kv_heads)
  mesh = sharding.make_mesh({'data': -1, 'fsdp': 1, 'context': 1, 'tensor': tensor})
  boxed = _boxed_params(config)
  params = checkpoints.restore_params(with_shardings(boxed, mesh), step)
  if model.dtype != jnp.float32:
    params = jax.tree.map(lambda leaf, boxed: leaf.astype(model.dtype) if 'embed' in boxed.names else leaf, params, boxed)
  return model, params


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
  boxed = _boxed_params(model)
  return with_shardings(boxed, mesh) if mesh else nn.unbox(boxed)


def with_shardings(boxed: Any, mesh: Mesh) -> Any:
  """Unboxes a tree of jax.ShapeDtypeStruct with logical axis names, and gives each leaf its sharding on the mesh."""
  struct = lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where)
  return jax.tree.map(struct, nn.unbox(boxed), sharding.shardings(boxed, mesh))


def _boxed_params(model: ModelConfig) -> Any:
  """Tree of jax.ShapeDtypeStruct with logical axis names."""
  return jax.eval_shape(lambda key: transformer.init_params(Transformer(model), key), jax.random.key(0))
