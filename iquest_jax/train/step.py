"""One training step and one evaluation step: pure functions of (state, batch). Legend: B batch, T positions, S sources."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from iquest_jax import sharding
from iquest_jax.batch import Batch
from iquest_jax.model import transformer
from iquest_jax.model.transformer import Transformer
from iquest_jax.train import layer_groups, optim
from iquest_jax.train.losses import LossSums, next_token_sums
from iquest_jax.train.state import TrainState, abstract_state

# (model, params, batch, num_sources, chunk) -> (LossSums, the model's diagnostics): the loss of a (micro-)batch.
Objective = Callable[..., tuple[LossSums, dict]]


def micro_batches(batch: Batch, count: int) -> Batch:
  """[B, ...] -> [count, B / count, ...]; micro-batch m takes every count-th row, so each device keeps its own rows."""
  return jax.tree.map(lambda x: jnp.moveaxis(x.reshape(-1, count, *x.shape[1:]), 1, 0), batch)


def on_mesh(batch: Batch) -> Batch:
  """Fixes how a (micro-)batch is split over the ambient mesh."""
  rows = lambda x: sharding.constrain(x, *(('batch', 'sequence') if x.ndim == 2 else ('batch',)))
  return jax.tree.map(rows, batch)


def gradients(
    model: Transformer,
    params,
    batch: Batch,
    *,
    num_sources: int,
    accumulation: int,
    chunk: int,
    z_loss: float,
    objective: Objective = next_token_sums,
):
  """Gradients of the objective's weighted mean over the whole batch, summed over micro-batches.

  The weight of the whole batch is known before the first micro-batch, so each contributes sum / weight and nothing is
  divided later.

  Args:
    accumulation: number of micro-batches; B is a multiple of it.
    chunk: positions per row whose logits are in memory at a time.
    z_loss: factor of the mean square of the log-partition in what is minimised.
    objective: the loss of a micro-batch; its weights must sum to those of `batch.weight()`.

  Returns:
    (gradients, LossSums of the batch, diagnostics averaged over micro-batches).
  """
  weight = jnp.maximum(batch.weight(), 1e-9)

  def minimised(params, micro):
    sums, diagnostics = objective(model, params, on_mesh(micro), num_sources, chunk)
    return (jnp.sum(sums.loss_S) + z_loss * sums.z) / weight, (sums, diagnostics)

  grad = jax.grad(minimised, has_aux=True)
  if accumulation == 1:
    grads, (sums, diagnostics) = grad(params, batch)
    return grads, sums, diagnostics

  def add(total, micro):
    return jax.tree.map(jnp.add, total, grad(params, micro)), None

  micro = micro_batches(batch, accumulation)
  shapes = jax.eval_shape(grad, params, jax.tree.map(lambda x: x[0], micro))
  zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
  (grads, (sums, diagnostics)), _ = jax.lax.scan(add, zeros, micro)
  return grads, sums, jax.tree.map(lambda x: x / accumulation, diagnostics)


def train_step(
    state: TrainState,
    batch: Batch,
    *,
    model: Transformer,
    tx: optax.GradientTransformation,
    learning_rate: optax.Schedule,
    z_loss: float,
    **how,
) -> tuple[TrainState, dict]:
  """One update of `gradients`; if loss or gradient is not finite, it is skipped and counted, and the batch is consumed.

  Returns:
    (state, metrics): `loss` and `grad_norm` scalars, what LossSums.metrics reports, `lr`, `skipped`, `skipped_in_a_row`,
    the counts that cost.flops takes, the model's diagnostics, `z_loss` where it is minimised, and by layer group (see
    layer_groups.py) `layer_grad_norms` before clipping and `layer_update_ratios`, |update| / |parameters|.
  """
  grads, sums, diagnostics = gradients(model, state.params, batch, z_loss=z_loss, **how)
  loss, grad_norm = sums.mean(), optax.tree.norm(grads)
  finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
  updates, opt_state = tx.update(grads, state.opt_state, state.params)
  keep = functools.partial(jax.tree.map, lambda new, old: jnp.where(finite, new, old))
  bad = 1 - finite.astype(jnp.int32)
  metrics = {
      'loss': loss,
      'grad_norm': grad_norm,
      **sums.metrics(),
      'lr': learning_rate(state.step - state.skipped),
      'skipped': state.skipped + bad,
      'skipped_in_a_row': (state.skipped_in_a_row + 1) * bad,
      **_counts(batch, model.config.loop_window),
      **diagnostics,
      **({'z_loss': z_loss * sums.z / jnp.maximum(jnp.sum(sums.weight_S), 1e-9)} if z_loss else {}),
      # Even with a pass of their own over the parameters, these norms would cost far less than a thousandth of a step.
      'layer_grad_norms': layer_groups.norms(grads),
      'layer_update_ratios': layer_groups.norms(updates) / jnp.maximum(layer_groups.norms(state.params), 1e-9),
  }
  state = TrainState(
      params=keep(optax.apply_updates(state.params, updates), state.params),
      opt_state=keep(opt_state, state.opt_state),
      step=state.step + 1,
      skipped=metrics['skipped'],
      skipped_in_a_row=metrics['skipped_in_a_row'],
  )
  return state, metrics


def _counts(batch: Batch, window: int) -> dict:
  """Tokens that are not padding, and visible pairs: a token sees its document up to its own position."""
  seen_BT = jnp.where(batch.segment_ids != 0, batch.positions + 1, 0).astype(jnp.float32)
  local_BT = jnp.minimum(seen_BT, window)
  return {'tokens': jnp.sum(seen_BT > 0), 'pairs': jnp.sum(seen_BT), 'local_pairs': jnp.sum(local_BT)}


def pass_over(state: TrainState) -> TrainState:
  """The state after a batch that is consumed without being learned from; the schedule waits, as after a skipped update."""
  return state.replace(step=state.step + 1, skipped=state.skipped + 1)


class Stage(NamedTuple):
  """A stage's configuration as functions.

  Attributes:
    model: the module.
    tx: the optimizer.
    abstract: shapes, dtypes and shardings of the train state.
    train_step: (state, batch) -> (state, metrics), jitted; the state's buffers are donated.
    eval_step: (params, batch) -> LossSums without gradients, jitted.
    pass_over: (state) -> state, jitted; the state's buffers are donated.
  """

  model: Transformer
  tx: optax.GradientTransformation
  abstract: TrainState
  train_step: Callable
  eval_step: Callable
  pass_over: Callable


def of_stage(config: ConfigDict, mesh: Mesh, num_sources: int, objective: Objective = next_token_sums) -> Stage:
  """Builds the two steps of a stage, for training, benchmarks and ahead-of-time compilation alike.

  The caller must make `mesh`, or its abstract mesh, the ambient one. A batch may have a multiple of train.batch_rows: it
  takes more micro-batches, each as large as ever.

  Args:
    num_sources: of the stage's mixture.
    objective: what `gradients` takes.

  Raises:
    UserError: the optimizer, remat policy or transport does not exist, or a parameter does not divide by the mesh.
  """
  model, train = transformer.of_stage(config), config.train
  carries = 'optimizer' in config.init.carry
  tx, learning_rate = optim.optimizer(config.optim, train.steps, carries), optim.schedule(config.optim, train.steps)
  abstract = abstract_state(model, tx, mesh)
  everywhere = NamedSharding(mesh, PartitionSpec())
  how = {'num_sources': num_sources, 'chunk': train.loss_chunk, 'z_loss': train.z_loss, 'objective': objective}

  def train_fn(state: TrainState, batch: Batch) -> tuple[TrainState, dict]:
    micro_rows = train.batch_rows // train.accumulation
    accumulation = batch.tokens.shape[0] // micro_rows
    warm_up = optim.warm_up(state.opt_state, config.optim.b2) if carries else 1.0
    rate = lambda count: warm_up * learning_rate(count)
    return train_step(state, batch, model=model, tx=tx, learning_rate=rate, accumulation=accumulation, **how)

  def eval_step(params, batch: Batch) -> LossSums:
    return objective(model, params, batch, num_sources, train.loss_chunk)[0]

  return Stage(
      model,
      tx,
      abstract,
      train_step=jax.jit(train_fn, donate_argnums=0, out_shardings=(sharding.of_leaves(abstract), everywhere)),
      eval_step=jax.jit(eval_step, out_shardings=everywhere),
      pass_over=jax.jit(pass_over, donate_argnums=0, out_shardings=sharding.of_leaves(abstract)),
  )
