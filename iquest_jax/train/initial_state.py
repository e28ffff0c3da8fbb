"""The state a stage starts with: resumed, carried over from its parent, folded, imported, or random."""

import jax
import jax.numpy as jnp
import optax
from absl import logging
from jax.sharding import Mesh
from ml_collections import ConfigDict

from iquest_jax.checkpoint import restore
from iquest_jax.checkpoint.start import Start
from iquest_jax.model import fold
from iquest_jax.sharding import of_leaves
from iquest_jax.train import optim
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
    to_loop = lambda params, gates: fold.dense_to_loop(params, stage.model.config, config.init.fold, gates)
    to_loop = jax.jit(to_loop, out_shardings=of_leaves(stage.abstract.params))
    dense = start.checkpoints.restore_params(dense, start.step)
    params = to_loop(dense, fold.gates(stage.model.config, config.seed))
  else:
    restore.check_same_model(start.checkpoints.stage, start.lineage, stage.model.config)
    if 'optimizer' in start.carried(config.init.carry):
      restart = jax.jit(_restart, out_shardings=of_leaves(stage.abstract), donate_argnums=0)
      return restart(_restored(start, stage.abstract))
    if lacks_moments(start, config):
      logging.warning(
          '%s: %s holds no optimizer moments to carry; they start at 0, and the rate warms up over the first %d updates',
          config.stage, start.checkpoints.stage.name, optim.warm_up_steps(config.optim.b2),
      )  # fmt: skip
    params = start.checkpoints.restore_params(stage.abstract.params, start.step)
  return fresh_optimizer(params, stage.tx, stage.abstract)


def lacks_moments(start: Start, config: ConfigDict) -> bool:
  """Whether a stage starts without the moments that it should carry, as after an imported model; see optim.warm_up."""
  return 'optimizer' in config.init.carry and 'optimizer' not in start.carried(config.init.carry)


def _restored(start: Start, abstract: TrainState) -> TrainState:
  params, optimizer = start.checkpoints.restore(abstract.params, abstract.optimizer_item(), start.step)
  return TrainState(params, **optimizer)


def _restart(carried: TrainState) -> TrainState:
  """Keeps the moments; the stage's counts and its learning-rate schedule restart at 0."""
  is_schedule = lambda node: isinstance(node, optax.ScaleByScheduleState)
  reset = lambda node: optax.ScaleByScheduleState(jnp.zeros_like(node.count)) if is_schedule(node) else node
  zero = jnp.zeros((), jnp.int32)
  return TrainState(carried.params, jax.tree.map(reset, carried.opt_state, is_leaf=is_schedule), zero, zero, zero)
