"""Stages of reinforcement learning: the published numbers, options that fit each other, and steps that trace."""

import functools

import jax
import numpy as np
import pytest

from experiments import chain, meshes
from iquest_jax import config as config_lib
from iquest_jax import sharding
from iquest_jax.model import sizes
from iquest_jax.rl import batches, loop, losses, rewards, rollout
from iquest_jax.rl.batches import PolicyBatch
from iquest_jax.train import loop as train_loop
from iquest_jax.train import optim, step
from launch import command

RL = [stage for stage in chain.PARENTS if chain.is_rl(stage)]
FULL = ('7b', '14b', '40b', '40b_loop')


def test_rl_thinking_has_the_published_numbers():
  config = command.experiment('rl_thinking:size=40b_loop')
  rl = config.rl
  assert (rl.prompts_per_step, rl.group_size, rl.max_tests) == (64, 16, 20)
  assert (config.data.context, config.train.steps) == (96 * 1024, 500)
  assert rl.kl_coef == 0 and (rl.clip_low, rl.clip_high) == (0.2, 0.28)
  assert {name for name, weight in rl.rewards.items() if weight} == {'pass_rate'} and rl.rewards.pass_rate == 1
  rate = optim.schedule(config.optim, config.train.steps)
  assert float(rate(19)) < float(rate(20)) == float(rate(499)) == pytest.approx(1e-6)  # 20 steps of warm-up


@pytest.mark.parametrize('size', sizes.SIZES)
@pytest.mark.parametrize('stage', RL)
def test_every_stage_at_every_size_resolves_and_its_options_fit(stage, size):
  config = command.experiment(f'{stage}:size={size}')
  rl = config.rl
  assert (config.stage, config.size, config.init.stage) == (stage, size, stage.replace('rl', 'sft'))
  config_lib.check_start(config.init)
  rollout.RolloutOptions(rl.prompts_per_step, rl.group_size, rl.max_groups, rl.dynamic_sampling, rl.max_tokens)
  rewards.RewardOptions(dict(rl.rewards), rl.max_tokens, rl.overlong_cache)
  losses.PolicyOptions.of(rl)
  assert rl.objective in loop.OBJECTIVES and rl.loss_agg in batches.LOSS_AGGS
  assert rl.max_tokens < config.data.context <= config.model.max_context
  assert all(leaf is not None for leaf in config_lib.flatten(config).values())
  assert config.train.steps % config.eval.every == 0


@pytest.mark.parametrize('topology', meshes.CHIPS)
@pytest.mark.parametrize('size', FULL)
@pytest.mark.parametrize('stage', RL)
def test_every_full_size_uses_all_chips_of_every_slice(stage, size, topology):
  config = command.experiment(f'{stage}:size={size},topology={topology}')
  mesh = config.mesh
  assert mesh.data * mesh.fsdp * mesh.context * mesh.tensor == meshes.CHIPS[topology]
  assert config.train.batch_rows % (mesh.data * mesh.fsdp * config.train.accumulation) == 0
  assert config.data.context // mesh.context <= meshes.TOKENS_PER_CHIP


@pytest.mark.parametrize('name', ['rl_thinking:size=40b_loop', 'rl_thinking:size=tiny_loop'])
def test_the_update_traces_with_more_rows_than_a_batch(name):
  config = command.experiment(name)
  shape = {axis: max(1, config.mesh[axis]) for axis in sharding.AXES}
  auto = (jax.sharding.AxisType.Auto,) * len(shape)
  mesh = jax.sharding.AbstractMesh(tuple(shape.values()), tuple(shape), axis_types=auto)
  train_loop.check(config, mesh)
  rows = (3 * config.train.batch_rows, config.data.context)
  ints, floats = jax.ShapeDtypeStruct(rows, np.int32), jax.ShapeDtypeStruct(rows, np.float32)
  of_rows = jax.ShapeDtypeStruct(rows[:1], np.int32), jax.ShapeDtypeStruct(rows[:1], np.float32)
  batch = PolicyBatch(ints, ints, floats, ints, ints, *of_rows, floats, floats)
  objective = functools.partial(losses.policy_sums, options=losses.PolicyOptions())
  with jax.sharding.use_abstract_mesh(mesh):
    stage = step.of_stage(config, mesh, 1, objective)
    _, metrics = jax.eval_shape(stage.train_step, stage.abstract, batch)
  assert metrics['loss'].shape == metrics['logp_difference'].shape == ()
