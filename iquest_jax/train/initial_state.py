"""The state a stage starts with: resumed, carried over from its parent, folded, imported, or random."""

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from iquest_jax.checkpoint import restore
from iquest_jax.checkpoint.start import Start
from iquest_jax.model import fold
from iquest_jax.sharding import of_leaves
from iquest_jax.train.state import TrainState, fresh_optimizer, random_params
from iquest_jax.train.step import Stage


def initial_state(start: Start, config: ConfigDict, stage: Stage, mesh: Mesh) -> TrainState:
  """The state a stage begins or resumes with, on the mesh.

  Raises:
    UserError: the checkpoint is damaged or holds another model, or the fold does not fit.
  """
  if start.kind == 'resume':
    return _restored(start, stage.abstract)
  if start.kind == 'random':
    params = random_params(stage.model, mesh, config.seed)
  elif start.kind == 'parent' and config.init.transform == 'dense_to_loop':
    dense = restore.abstract_params(restore.trained_as(start.lineage), mesh)
    to_loop = lambda params, key: fold.dense_to_loop(params, model=stage.model.config, rule=config.init.fold, key=key)
    to_loop = jax.jit(to_loop, out_shardings=of_leaves(stage.abstract.params))
    params = to_loop(start.checkpoints.restore_params(dense, start.step), jax.random.key(config.seed))
  else:
    restore.check_same_model(start.checkpoints.stage, start.lineage, stage.model.config)
    if start.kind == 'parent' and 'optimizer' in config.init.carry and start.checkpoints.has_optimizer(start.step):
      restart = jax.jit(_restart, out_shardings=of_leaves(stage.abstract), donate_argnums=0)
      return restart(_restored(start, stage.abstract))
    params = start.checkpoints.restore_params(stage.abstract.params, start.step)
  return fresh_optimizer(params, stage.tx, stage.abstract)


def _restored(start: Start, abstract: TrainState) -> TrainState:
  params, optimizer = start.checkpoints.restore(abstract.params, abstract.optimizer_item(), start.step)
  return TrainState(params, **optimizer)


def _restart(carried: TrainState) -> TrainState:
  """Keeps the moments; the stage's counts and its learning-rate schedule restart at 0."""
  is_schedule = lambda node: isinstance(node, optax.ScaleByScheduleState)
  reset = lambda node: optax.ScaleByScheduleState(jnp.zeros_like(node.count)) if is_schedule(node) else node
  zero = jnp.zeros((), jnp.int32)
  return TrainState(carried.params, jax.tree.map(reset, carried.opt_state, is_leaf=is_schedule), zero, zero, zero)
