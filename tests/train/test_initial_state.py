"""The state a stage starts with when it carries its parent's optimizer, and the warm-up where there is none to carry."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from absl import logging
from ml_collections import ConfigDict

from iquest_jax import sharding
from iquest_jax.checkpoint import lineage, start
from iquest_jax.checkpoint.store import Checkpoints
from iquest_jax.config import from_stage
from iquest_jax.model import sizes, transformer
from iquest_jax.run_folder import RunFolder
from iquest_jax.train import optim, state, step
from iquest_jax.train.initial_state import initial_state, lacks_moments

MODEL = dataclasses.replace(sizes.get('tiny'), vocab=16, d_model=8, d_ff=16, layers=1, heads=2, kv_heads=1, head_dim=4)
OPTIM = ConfigDict(
    dict(schedule='wsd', peak_lr=1e-2, warmup=0.3, decay=0.3, floor=0.1, b1=0.9, b2=0.95, eps=1e-8, weight_decay=0.1,
         clip_norm=1.0, moment_dtype='float32')
)  # fmt: skip


@pytest.mark.parametrize('carries', [True, False])
def test_carried_moments_stay_and_counts_and_schedule_restart(tmp_path, carries):
  run_folder = RunFolder(tmp_path)
  mesh = sharding.make_mesh(dict.fromkeys(sharding.AXES, 1), jax.devices()[:1])
  model, tx = transformer.Transformer(MODEL, 'float32'), optim.optimizer(OPTIM, 10)
  abstract = state.abstract_state(model, tx, mesh)
  trained = state.fresh_optimizer(state.random_params(model, mesh, 0), tx, abstract)
  for scale in (1.0, -0.5, 2.0):
    grads = jax.tree.map(lambda leaf, scale=scale: leaf * scale, trained.params)
    _, opt_state = tx.update(grads, trained.opt_state, trained.params)
    trained = trained.replace(opt_state=opt_state, step=trained.step + 2, skipped=trained.skipped + 1)
  parent = Checkpoints(run_folder.stage('midtrain_32k'))
  parent.save(6, trained.params, trained.optimizer_item(), {'model': dataclasses.asdict(MODEL), 'finished': True})
  parent.wait()

  carry = ('params', 'optimizer') if carries else ('params',)
  config = ConfigDict({'stage': 'midtrain_128k', 'size': 'tiny', 'init': from_stage('midtrain_32k', carry)})
  chosen = start.choose(config, run_folder, Checkpoints(run_folder.stage('midtrain_128k')))
  begun = initial_state(chosen, config, step.Stage(model, tx, abstract, None, None, None), mesh)

  jax.tree.map(np.testing.assert_array_equal, begun.params, trained.params)
  assert (int(begun.step), int(begun.skipped), int(begun.skipped_in_a_row)) == (0, 0, 0)
  is_schedule = lambda node: isinstance(node, optax.ScaleByScheduleState)
  counts = [node.count for node in jax.tree.leaves(begun.opt_state, is_leaf=is_schedule) if is_schedule(node)]
  assert [int(count) for count in counts] == [0]
  adam, before = begun.opt_state[1][0], trained.opt_state[1][0]
  if carries:
    jax.tree.map(np.testing.assert_array_equal, (adam.mu, adam.nu), (before.mu, before.nu))
    assert int(adam.count) == 3
  else:
    assert not any(np.any(leaf) for leaf in jax.tree.leaves((adam.mu, adam.nu))) and int(adam.count) == 0


def test_a_parent_without_moments_is_said_and_recorded(tmp_path, monkeypatch):
  """An imported model has none."""
  said = []
  monkeypatch.setattr(logging, 'warning', lambda text, *values: said.append(text % values))
  run_folder = RunFolder(tmp_path)
  mesh = sharding.make_mesh(dict.fromkeys(sharding.AXES, 1), jax.devices()[:1])
  model, tx = transformer.Transformer(MODEL, 'float32'), optim.optimizer(OPTIM, 10, carries=True)
  abstract = state.abstract_state(model, tx, mesh)
  parent = Checkpoints(run_folder.stage('midtrain_32k'))
  imported = lineage.imported('midtrain_32k', 'tiny', 'models/tiny', dataclasses.asdict(MODEL))
  parent.save(0, state.random_params(model, mesh, 0), None, imported)
  parent.wait()
  init = from_stage('midtrain_32k', ('params', 'optimizer'))
  config = ConfigDict({'stage': 'midtrain_128k', 'size': 'tiny', 'init': init, 'optim': OPTIM})
  chosen = start.choose(config, run_folder, Checkpoints(run_folder.stage('midtrain_128k')))
  assert lacks_moments(chosen, config) and chosen.carried(config.init.carry) == ('params',)
  begun = initial_state(chosen, config, step.Stage(model, tx, abstract, None, None, None), mesh)
  assert not any(np.any(leaf) for leaf in jax.tree.leaves(begun.opt_state))
  line = 'midtrain_128k: midtrain_32k holds no optimizer moments to carry; they start at 0, and the rate warms up over '
  assert line + 'the first 40 updates' in said


def test_the_rate_rises_with_the_gradients_that_the_moments_have_seen():
  """2 / (1 - 0.95) = 40 updates; then, and with carried moments, the factor is exactly 1."""
  plain, warming = optim.optimizer(OPTIM, 10_000), optim.optimizer(OPTIM, 10_000, carries=True)
  params = {'kernel': np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)}
  grads = jax.tree.map(np.cos, params)
  clipped, (adam, *rest) = jax.jit(plain.update)(grads, plain.init(params), params)[1]
  for age, wanted in ((0, 1 / 41), (1, 2 / 41), (20, 21 / 41), (39, 40 / 41), (40, 1.0), (5000, 1.0)):
    opt_state = (clipped, (adam._replace(count=jnp.int32(age)), *rest))
    factor = float(optim.warm_up(opt_state, OPTIM.b2))
    assert factor == wanted if wanted == 1.0 else factor == pytest.approx(wanted, rel=1e-6)
    (without, after), (scaled, same) = (jax.jit(tx.update)(grads, opt_state, params) for tx in (plain, warming))
    jax.tree.map(np.testing.assert_array_equal, same, after)
    np.testing.assert_allclose(scaled['kernel'], wanted * without['kernel'], rtol=1e-6)
