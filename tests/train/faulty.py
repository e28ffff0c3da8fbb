"""Hardware that computes wrongly: bits flipped in what one device holds or computes. Only tests have it."""

import functools

import jax
import numpy as np
import optax

from iquest_jax import sharding
from iquest_jax.checkpoint import fingerprint
from iquest_jax.train import step
from iquest_jax.train.health import replicas
from launch import command

from tests.train.test_train_step import make_batch

MODEL = dict(vocab=64, d_model=32, d_ff=64, layers=2, heads=4, kv_heads=2, head_dim=8, loop_window=5)


def config_on(mesh, exp='pretrain:size=tiny_loop', rows=8, **train):
  """A stage with a small looped model on a mesh, given in the order of sharding.AXES."""
  config = command.experiment(exp)
  config.model.update(MODEL)
  config.mesh = dict(zip(sharding.AXES, mesh))
  config.data.context, config.train.loss_chunk = 32, 8
  config.train.batch_rows = rows
  config.train.update(train)
  return config


def flipped(array, device, element, bit):
  """The array with one bit flipped in what one device holds of it; `element` counts there, modulo its number."""
  parts = []
  for shard in array.addressable_shards:
    part = np.array(shard.data)
    if shard.device == device:
      words = part.reshape(-1).view(np.dtype(f'u{part.itemsize}'))
      words[element % words.size] ^= words.dtype.type(1 << bit % (8 * part.itemsize))
    parts.append(jax.device_put(part, shard.device))
  return jax.make_array_from_single_device_arrays(array.shape, array.sharding, parts)


def flipped_somewhere(tree, rng):
  """(the tree with one bit of one leaf flipped on one device, name of the leaf, the device)."""
  leaves, structure = jax.tree_util.tree_flatten_with_path(tree)
  chosen, device = rng.integers(len(leaves)), jax.devices()[rng.integers(8)]
  path, leaf = leaves[chosen]
  values = [value for _, value in leaves]
  values[chosen] = flipped(leaf, device, int(rng.integers(1 << 30)), int(rng.integers(32)))
  return jax.tree.unflatten(structure, values), fingerprint.leaf_path(path), device


class Run:
  """A stage on a mesh, with a state of random numbers, since nothing has to be learned."""

  def __init__(self, mesh, **how):
    self.config = config_on(mesh, **how)
    self.mesh = sharding.make_mesh(self.config.mesh)
    with jax.set_mesh(self.mesh):
      self.stage = step.of_stage(self.config, self.mesh, 2)
    rng = np.random.default_rng(0)

    def draw(leaf):
      values = np.asarray(abs(rng.standard_normal(leaf.shape)) * (3 if leaf.dtype == np.int32 else 0.05))
      return jax.device_put(values.astype(leaf.dtype), leaf.sharding)

    self.state = jax.tree.map(draw, self.stage.abstract)
    self.replicas = replicas.Replicas(self.mesh, self.stage.abstract)

  def batch(self, seed=0):
    batch = make_batch(rows=self.config.train.batch_rows, vocab=MODEL['vocab'], seed=seed)
    return jax.tree.map(jax.device_put, batch, sharding.batch_shardings(self.mesh))

  def gradients(self):
    how = dict(num_sources=2, accumulation=1, chunk=8, z_loss=1e-4)
    shardings = sharding.of_leaves(self.stage.abstract.params)
    run = jax.jit(lambda params, batch: step.gradients(self.stage.model, params, batch, **how)[0], out_shardings=shardings)
    with jax.set_mesh(self.mesh):
      return run(self.state.params, self.batch())

  def updated(self, gradients):
    """The state after an update with these gradients."""
    if not hasattr(self, '_update'):

      def update(state, gradients):
        updates, opt_state = self.stage.tx.update(gradients, state.opt_state, state.params)
        return state.replace(params=optax.apply_updates(state.params, updates), opt_state=opt_state)

      self._update = jax.jit(update, out_shardings=sharding.of_leaves(self.stage.abstract))
    return self._update(self.state, gradients)


run_on = functools.cache(Run)
