"""From checkpoints to what runs: the state a stage starts with, and the model of a finished one."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from iquest_jax.checkpoint.store import Checkpoints, Start
from iquest_jax.errors import UserError
from iquest_jax.model import fold, transformer
from iquest_jax.train import state as train_state
from iquest_jax.train.state import TrainState


def initial_state(
    start: Start, config: ConfigDict, model, tx: optax.GradientTransformation, abstract: TrainState, mesh: Mesh
) -> TrainState:
  """The state a stage begins or goes on with, placed on the mesh.

  Args:
    start: what `checkpoint.start` decided.
    abstract: shapes and shardings of the state (state.abstract_state).

  Raises:
    UserError: the checkpoint is damaged or of another shape, or the fold does not fit.
  """
  if start.kind == 'resume':
    return TrainState(*_restore(start, abstract))
  if start.kind == 'random':
    return train_state.fresh_optimizer(train_state.random_params(model, mesh, config.seed), tx, abstract)
  if start.kind == 'parent' and 'optimizer' in config.init.carry and start.checkpoints.has_optimizer(start.step):
    check_same_model(start.checkpoints.run_dir, start.lineage, model.config)
    carried = TrainState(*_restore(start, abstract))
    return jax.jit(_begin_again, out_shardings=_where(abstract), donate_argnums=0)(carried)
  if start.kind == 'parent' and config.init.transform == 'dense_to_loop':
    params = _folded(start, config, model, abstract, mesh)
  else:
    check_same_model(start.checkpoints.run_dir, start.lineage, model.config)
    params = start.checkpoints.restore_params(abstract.params, start.step)
  return train_state.fresh_optimizer(params, tx, abstract)


def newest_model(run_dir: str, mesh: Mesh):
  """(model in float32, parameters on the mesh) of a stage's newest checkpoint, for sampling and evaluation."""
  checkpoints = Checkpoints(run_dir)
  model = transformer.Transformer(trained_as(checkpoints.lineage()), jnp.float32)
  return model, checkpoints.restore_params(train_state.abstract_params(model, mesh))


def trained_as(lineage) -> transformer.ModelConfig:
  """The shape of the model a checkpoint holds."""
  return transformer.model_config(ConfigDict(lineage['model']))


# What a stage may change about the model it goes on with: nothing that the parameters were trained for.
_MAY_CHANGE = {'init_std', 'max_context', 'loop_gradient_scale'}


def check_same_model(run_dir, lineage, model: transformer.ModelConfig) -> None:
  """Raises UserError where the parameters in a folder would be run as another model: of other shapes, loops, rotation."""
  made = dataclasses.asdict(trained_as(lineage))
  skipped = _MAY_CHANGE | ({'loop_window', 'loop_variant'} if model.loops == 1 else set())
  for name, wanted in dataclasses.asdict(model).items():
    if name not in skipped and made[name] != wanted:
      raise UserError(
          f'{run_dir}: was made with model.{name} = {made[name]}, this stage has {wanted}; '
          f'set --exp.model.{name}={made[name]}, or name the right size in --exp'
      )


def _where(abstract):
  return jax.tree.map(lambda leaf: leaf.sharding, abstract)


def _restore(start: Start, abstract: TrainState):
  params, item = start.checkpoints.restore(abstract.params, abstract.optimizer_item(), start.step)
  return params, item['opt_state'], item['step'], item['skipped'], item['skipped_in_a_row']


def _begin_again(carried: TrainState) -> TrainState:
  """Moments go on, the stage's own counts and its learning-rate curve begin at 0."""
  is_schedule = lambda node: isinstance(node, optax.ScaleByScheduleState)
  opt_state = jax.tree.map(
      lambda node: optax.ScaleByScheduleState(jnp.zeros_like(node.count)) if is_schedule(node) else node,
      carried.opt_state,
      is_leaf=is_schedule,
  )
  zero = jnp.zeros((), jnp.int32)
  return TrainState(carried.params, opt_state, zero, zero, zero)


def _folded(start: Start, config: ConfigDict, model, abstract: TrainState, mesh: Mesh):
  dense = transformer.Transformer(trained_as(start.lineage), model.dtype)
  dense_params = start.checkpoints.restore_params(train_state.abstract_params(dense, mesh), start.step)
  to_loop = functools.partial(fold.dense_to_loop, model=model.config, rule=config.init.fold)
  return jax.jit(lambda params, key: to_loop(params, key=key), out_shardings=_where(abstract.params))(
      dense_params, jax.random.key(config.seed)
  )
