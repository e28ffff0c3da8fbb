"""The state a stage starts with: resumed, carried over from its parent, folded, imported, or random."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from iquest_jax.checkpoint import restore
from iquest_jax.checkpoint.start import Start
from iquest_jax.model import fold
from iquest_jax.model.transformer import Transformer
from iquest_jax.sharding import of_leaves
from iquest_jax.train import state as train_state
from iquest_jax.train.state import TrainState


def initial_state(
    start: Start, config: ConfigDict, model: Transformer, tx: optax.GradientTransformation, abstract: TrainState, mesh: Mesh
) -> TrainState:
  """The state a stage begins or resumes with, on the mesh.

  Args:
    start: of checkpoint.start.choose.
    config: of the stage.
    model, tx, abstract: of step.of_stage.
    mesh: of the stage.

  Raises:
    UserError: the checkpoint is damaged or holds another model, or the fold does not fit.
  """
  if start.kind == 'resume':
    return _restored(start, abstract)
  if start.kind == 'random':
    return train_state.fresh_optimizer(train_state.random_params(model, mesh, config.seed), tx, abstract)
  if start.kind == 'parent' and config.init.transform == 'dense_to_loop':
    return train_state.fresh_optimizer(_folded(start, config, model, abstract, mesh), tx, abstract)
  restore.check_same_model(start.checkpoints.stage, start.lineage, model.config)
  if start.kind == 'parent' and 'optimizer' in config.init.carry and start.checkpoints.has_optimizer(start.step):
    return jax.jit(_restart, out_shardings=of_leaves(abstract), donate_argnums=0)(_restored(start, abstract))
  params = start.checkpoints.restore_params(abstract.params, start.step)
  return train_state.fresh_optimizer(params, tx, abstract)


def _restored(start: Start, abstract: TrainState) -> TrainState:
  params, optimizer = start.checkpoints.restore(abstract.params, abstract.optimizer_item(), start.step)
  return TrainState(params, **optimizer)


def _restart(carried: TrainState) -> TrainState:
  """Keeps the moments; the stage's counts and its learning-rate schedule restart at 0."""
  is_schedule = lambda node: isinstance(node, optax.ScaleByScheduleState)
  reset = lambda node: optax.ScaleByScheduleState(jnp.zeros_like(node.count)) if is_schedule(node) else node
  zero = jnp.zeros((), jnp.int32)
  return TrainState(carried.params, jax.tree.map(reset, carried.opt_state, is_leaf=is_schedule), zero, zero, zero)


def _folded(start: Start, config: ConfigDict, model: Transformer, abstract: TrainState, mesh: Mesh) -> Any:
  dense = restore.abstract_params(restore.trained_as(start.lineage), mesh)
  dense_params = start.checkpoints.restore_params(dense, start.step)
  to_loop = functools.partial(fold.dense_to_loop, model=model.config, rule=config.init.fold)
  to_loop = jax.jit(lambda params, key: to_loop(params, key=key), out_shardings=of_leaves(abstract.params))
  return to_loop(dense_params, jax.random.key(config.seed))
