"""AdamW and its learning-rate schedules, by optax."""

import functools

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from iquest_jax.errors import UserError, check_name

SCHEDULES = ('constant', 'wsd', 'cosine')
MOMENT_DTYPES = ('float32', 'bfloat16')


def schedule(optim: ConfigDict, steps: int) -> optax.Schedule:
  """The learning rate per update: a linear warm-up, then one of three curves.

  constant: holds the peak.
  wsd: warmup-stable-decay; holds the peak, then falls linearly to floor * peak over the last `decay` of the steps.
  cosine: falls to floor * peak within `decay` of the steps and stays there: the extended low-rate phase.

  Args:
    optim: section of a configuration; warmup and decay are fractions of `steps`, floor is a fraction of peak_lr.
  """
  check_name('config: optim.schedule', optim.schedule, SCHEDULES)
  for name in ('warmup', 'decay', 'floor'):
    if not 0 <= optim[name] <= 1:
      raise UserError(f'config: optim.{name} must be in [0, 1], got {optim[name]}')
  if optim.warmup + optim.decay > 1:
    raise UserError(f'config: optim.warmup + optim.decay must be at most 1, got {optim.warmup} + {optim.decay}')
  if not optim.peak_lr > 0:
    raise UserError(f'config: optim.peak_lr must be above 0, got {optim.peak_lr}')
  peak, low = optim.peak_lr, optim.peak_lr * optim.floor
  warmup, decay = round(optim.warmup * steps), max(1, round(optim.decay * steps))
  # The first update is not wasted on a rate of 0.
  rising = optax.linear_schedule(peak / (warmup + 1), peak, max(1, warmup))
  if optim.schedule == 'constant':
    return optax.join_schedules([rising, optax.constant_schedule(peak)], [warmup])
  if optim.schedule == 'wsd':
    falling = optax.linear_schedule(peak, low, decay)
    return optax.join_schedules([rising, optax.constant_schedule(peak), falling], [warmup, steps - decay])
  return optax.join_schedules([rising, optax.cosine_decay_schedule(peak, decay, alpha=optim.floor)], [warmup])


def optimizer(optim: ConfigDict, steps: int, carries: bool = False) -> optax.GradientTransformation:
  """Clips by global norm, then AdamW with decay on matrices only; the first moment in `moment_dtype`.

  Args:
    carries: whether the stage takes over the moments of its parent (init.carry). Its schedule then relies on them and has
      no warm-up of its own; where they are missing, updates are scaled by `warm_up`.
  """
  check_name('config: optim.moment_dtype', optim.moment_dtype, MOMENT_DTYPES)
  # Norm scales and gate biases do not decay.
  decays = lambda path, _: str(getattr(path[-1], 'key', path[-1])) not in ('scale', 'gate_bias')
  tx = optax.chain(
      optax.clip_by_global_norm(optim.clip_norm),
      optax.adamw(
          schedule(optim, steps), b1=optim.b1, b2=optim.b2, eps=optim.eps, mu_dtype=jnp.dtype(optim.moment_dtype),
          weight_decay=optim.weight_decay, mask=functools.partial(jax.tree_util.tree_map_with_path, decays),
      ),  # fmt: skip
  )
  if not carries:
    return tx

  def update(grads, state, params=None):
    updates, new_state = tx.update(grads, state, params)
    scale = warm_up(state, optim.b2)
    return jax.tree.map(lambda leaf: scale.astype(leaf.dtype) * leaf, updates), new_state

  return optax.GradientTransformation(tx.init, update)


def warm_up_steps(b2: float) -> int:
  """Updates after which Adam's moments count as full: 2 / (1 - b2), the untuned warm-up of Ma and Yarats (2019)."""
  return round(2 / (1 - b2))


def warm_up(opt_state: optax.OptState, b2: float) -> jax.Array:
  """Factor on the rate of the next update, float32: rises linearly to 1 over the first `warm_up_steps` of the moments.

  It depends on how many gradients the moments have seen, not on the step of the stage: carried moments have seen enough, so
  it is usually 1, and a stage that resumes continues the warm-up.
  """
  is_adam = lambda node: isinstance(node, optax.ScaleByAdamState)
  (age,) = (node.count for node in jax.tree.leaves(opt_state, is_leaf=is_adam) if is_adam(node))
  return jnp.minimum(1.0, (age + 1) / (warm_up_steps(b2) + 1)).astype(jnp.float32)
