"""The policy loss: every option against float64 formulas, packing and micro-batches, masks, and what is measured."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from iquest_jax import sharding
from iquest_jax.errors import UserError
from iquest_jax.model import sizes, transformer
from iquest_jax.rl.batches import PolicyBatch, place, policy_rows
from iquest_jax.rl.losses import PolicyOptions, batch_logps, policy_sums, token_losses
from iquest_jax.rl.types import Trajectory, Turn
from iquest_jax.train import state, step

from tests.rl import policy_oracle as oracle

ADVANTAGES = (1.5, -0.75, 0.0, -2.0, 0.5)
WIDE = PolicyOptions(clip_low=0.2, clip_high=0.28)
CASES = {
    'DAPO': (WIDE, 'token_mean'),
    'DAPO with the sampler corrected': (dataclasses.replace(WIDE, sampler_is_threshold=1.1), 'token_mean'),
    'GRPO with KL': (PolicyOptions(clip_low=0.1, clip_high=0.1, kl_coef=0.3), 'seq_mean'),
    'Dr. GRPO': (WIDE, 'seq_sum'),
    'dual clip': (dataclasses.replace(WIDE, dual_clip=1.3), 'seq_mean'),
    'GSPO': (PolicyOptions(clip_low=0.02, clip_high=0.03, ratio='sequence'), 'seq_mean'),
    'sharper': (dataclasses.replace(WIDE, temperature=0.6), 'token_mean'),
    'everything': (
        PolicyOptions(0.05, 0.1, 'sequence', dual_clip=1.1, kl_coef=0.1, sampler_is_threshold=0.9, temperature=1.3),
        'token_mean',
    ),
}


def rows(trajectories, advantages=ADVANTAGES, context=32, unit=1, loss_agg='token_mean', **fields):
  """A PolicyBatch on the host; `fields` are of [B, T]."""
  divisor = 7 if loss_agg == 'seq_sum' else None
  packed = policy_rows(
      trajectories, advantages, context=context, unit=unit, loss_agg=loss_agg, length_divisor=divisor
  )
  return PolicyBatch(**packed, **fields)


TABLE_LOGPS = jax.jit(functools.partial(batch_logps, oracle.TABLE, micro_rows=1, chunk=4))


def table_logps(params, batch):
  """The trainer's own float32 log-probabilities of a batch under a table."""
  return np.asarray(TABLE_LOGPS(params, batch))


@functools.cache
def compiled(options, accumulation):
  run = functools.partial(
      step.gradients, oracle.TABLE, num_sources=1, accumulation=accumulation, chunk=4, z_loss=0.0,
      objective=functools.partial(policy_sums, options=options),
  )  # fmt: skip
  return jax.jit(run)


def step_gradients(params, batch, options, accumulation=1):
  return jax.device_get(compiled(options, accumulation)(params, batch))


def assert_close(actual, wanted, tolerance):
  for name in wanted:
    scale = np.max(np.abs(wanted[name]))
    np.testing.assert_allclose(actual[name], wanted[name], rtol=0, atol=tolerance * scale, err_msg=name)


@pytest.mark.parametrize(('name', 'accumulation'), [('everything', 1), *((name, 3) for name in CASES)])
def test_loss_and_gradient_equal_the_float64_reference(name, accumulation):
  """Three sets of parameters: those that are trained, those of the roll-out, and the reference."""
  options, loss_agg = CASES[name]
  params, old, reference = oracle.make_params(), oracle.make_params(), oracle.make_params()
  old['head'] += 0.1 * oracle.make_params(1)['head']
  reference['head'] += 0.2 * oracle.make_params(2)['head']
  old, reference = (oracle.at_temperature(each, options.temperature) for each in (old, reference))
  trajectories = oracle.make_trajectories(old)
  batch = rows(trajectories, unit=3, loss_agg=loss_agg)
  batch = batch.replace(old_logps=table_logps(old, batch), reference_logps=table_logps(reference, batch))
  fixed = {
      'old': [oracle.logps(old, each) for each in trajectories],
      'reference': [oracle.logps(reference, each) for each in trajectories],
  }
  wanted = lambda params: oracle.policy_loss(
      params, trajectories, ADVANTAGES, options, loss_agg=loss_agg, length_divisor=7, **fixed
  )
  grads, sums, _ = step_gradients(params, batch, options, accumulation)
  np.testing.assert_allclose(sums.mean(), wanted(params), rtol=2e-5)
  assert_close(grads, oracle.differences(wanted, params), 2e-5)


def test_without_old_log_probabilities_the_update_starts_at_the_policy_of_the_roll_out():
  """So the ratio is 1 and the gradient that of REINFORCE, whatever the clip; the sampler is corrected as ever."""
  options = PolicyOptions(clip_low=1e-6, clip_high=1e-6, sampler_is_threshold=1.2)
  params = oracle.make_params()
  trajectories = oracle.make_trajectories(params)
  batch = rows(trajectories)
  grads, sums, _ = step_gradients(params, batch, options)
  here = [oracle.logps(params, each) for each in trajectories]

  def surrogate(params):
    total, count = 0.0, 0
    for trajectory, advantage, fixed in zip(trajectories, ADVANTAGES, here):
      for at, value in oracle.logps(params, trajectory).items():
        total -= min(math.exp(fixed[at] - trajectory.logps[at]), 1.2) * advantage * value
        count += 1
    return total / count

  assert_close(grads, oracle.differences(surrogate, params), 2e-5)
  given, also, _ = step_gradients(params, batch.replace(old_logps=table_logps(params, batch)), WIDE)
  left_out, other, _ = step_gradients(params, batch, WIDE)
  assert_close(given, left_out, 1e-6)
  np.testing.assert_allclose(also.mean(), other.mean(), rtol=1e-6)


# ------------------------------------------------------------------ What has no gradient


@pytest.mark.parametrize('ratio', ['token', 'sequence'])
def test_masked_tokens_get_exactly_zero_gradient(ratio):
  """Prompts, observations and padding, even where their log-probabilities are absurd."""
  options = PolicyOptions(ratio=ratio, kl_coef=0.1, sampler_is_threshold=2.0)
  batch = rows(oracle.make_trajectories(oracle.make_params()))
  masked = np.asarray(batch.loss_weights) == 0
  sane = np.where(masked, 0, batch.sampler_logps)
  fields = {'old_logps': sane - 0.1, 'reference_logps': sane + 0.1}
  total = lambda logps, batch: jnp.sum(batch.loss_weights * token_losses(logps, batch, options)[0])
  loss_and_gradient = jax.jit(jax.value_and_grad(total))
  wanted = loss_and_gradient(sane, batch.replace(**fields))
  assert np.all(wanted[1][masked] == 0) and np.count_nonzero(wanted[1])
  for absurd in (-1e30, np.inf, np.nan):
    put = lambda values: np.where(masked, np.float32(absurd), values)
    other = batch.replace(sampler_logps=put(sane), **{name: put(values) for name, values in fields.items()})
    jax.tree.map(np.testing.assert_array_equal, loss_and_gradient(put(sane), other), wanted)


def test_what_the_environment_said_is_not_learned():
  """Token 16 is only ever followed by what was not sampled, and token 15 only follows there."""
  turns = Turn((1, 2), (-1.0, -2.0), (16, 16, 15, 3)), Turn((4,), (-0.5,), (16, 15))
  batch = rows([Trajectory('p', 0, 0, (16, 5), turns, 'stop', '')], [1.0])
  grads, _, _ = step_gradients(oracle.make_params(), batch, WIDE)
  assert np.all(grads['embedding'][[15, 16]] == 0)
  assert np.all(np.any(grads['embedding'][[5, 1, 3]], axis=1))


def test_groups_of_equal_reward_give_no_gradient():
  params = oracle.make_params()
  grads, sums, _ = step_gradients(params, rows(oracle.make_trajectories(params), [0.0] * 5), WIDE)
  assert sums.mean() == 0 and not any(np.any(leaf) for leaf in grads.values())


@pytest.mark.parametrize('advantage', [1.0, -1.0])
@pytest.mark.parametrize('difference', [-500.0, 500.0])
def test_a_policy_that_ran_away_gives_finite_gradients(advantage, difference):
  params = oracle.make_params()
  batch = rows(oracle.make_trajectories(params), [advantage] * 5)
  here = table_logps(params, batch)
  batch = batch.replace(old_logps=here - difference, reference_logps=here + difference)
  grads, sums, _ = step_gradients(params, batch, PolicyOptions(kl_coef=0.1, sampler_is_threshold=2.0))
  assert np.isfinite(sums.mean()) and all(np.all(np.isfinite(leaf)) for leaf in grads.values())


def test_a_ratio_on_its_bound_still_has_its_whole_gradient():
  options = PolicyOptions(clip_high=1e-9)  # 1 + clip_high is 1 in float32, and so is the ratio
  batch = rows([Trajectory('p', 0, 0, (1,), (Turn((2,), (-0.5,)),), 'stop', '')], [3.0], context=2)
  logps = jnp.array([[-0.5, 0]], jnp.float32)
  grad = jax.jit(jax.grad(lambda logps: jnp.sum(token_losses(logps, batch, options)[0])))(logps)
  assert grad.tolist() == [[-3, 0]]


# ------------------------------------------------------------------ Packing, micro-batches, meshes

SMALL = dataclasses.replace(
    sizes.get('tiny'), vocab=oracle.V, d_model=16, d_ff=32, layers=1, heads=2, kv_heads=1, head_dim=8
)
GSPO = PolicyOptions(0.02, 0.03, 'sequence', kl_coef=0.1, sampler_is_threshold=1.5)


def update(host, accumulation=1, **axes):
  """(gradients, sums) of a transformer, given the rows of a batch; old log-probabilities are those of other parameters."""
  shape = dict.fromkeys(sharding.AXES, 1) | axes
  mesh = sharding.make_mesh(shape, jax.devices()[: math.prod(shape.values())])
  model = transformer.Transformer(SMALL, 'float32')
  with jax.set_mesh(mesh):
    params, old = (state.random_params(model, mesh, seed) for seed in (0, 1))
    batch = place(PolicyBatch, host, mesh)
    micro_rows = batch.tokens.shape[0] // accumulation

    @jax.jit
    def run(params, old, batch):
      logps = batch_logps(model, old, batch, micro_rows=micro_rows, chunk=32)
      batch = batch.replace(old_logps=logps, reference_logps=logps)
      return step.gradients(
          model, params, batch, num_sources=1, accumulation=accumulation, chunk=32, z_loss=1e-3,
          objective=functools.partial(policy_sums, options=GSPO),
      )[:2]  # fmt: skip

    return jax.device_get(run(params, old, batch))


def test_update_is_invariant_to_packing_micro_batches_and_mesh():
  """One trajectory per row on one device, and several per row in three micro-batches on a mesh of data 2, context 2."""
  trajectories = oracle.make_trajectories(oracle.make_params(), noise=0.05)
  one = lambda *pair: policy_rows(*zip(pair), context=16, unit=1, loss_agg='seq_mean')
  alone = jax.tree.map(lambda *parts: np.concatenate(parts), *map(one, trajectories, ADVANTAGES))
  packed = policy_rows(trajectories, ADVANTAGES, context=32, unit=6, loss_agg='seq_mean')
  assert np.max(packed['segment_ids']) >= 3
  for (path, wanted), actual in zip(
      jax.tree_util.tree_leaves_with_path(update(alone)),
      jax.tree.leaves(update(packed, accumulation=3, data=2, context=2)),
      strict=True,
  ):
    scale = np.max(np.abs(wanted)) + 1e-12
    assert np.max(np.abs(actual - wanted)) <= 2e-5 * scale, jax.tree_util.keystr(path)


def test_a_batch_of_more_rows_takes_more_micro_batches_of_the_same_size(monkeypatch):
  traced = []
  monkeypatch.setattr(step, 'train_step', lambda state, batch, **how: traced.append(how['accumulation']) or (state, {}))
  optim = dict(schedule='constant', peak_lr=1e-2, warmup=0.0, decay=0.0, floor=1.0, b1=0.9, b2=0.95, eps=1e-8,
               weight_decay=0.1, clip_norm=1.0, moment_dtype='float32')  # fmt: skip
  train = {'batch_rows': 4, 'accumulation': 2, 'loss_chunk': 4, 'z_loss': 0.0, 'steps': 10, 'dtype': 'float32',
           'remat': 'none', 'context_transport': 'all_gather'}  # fmt: skip
  config = ConfigDict({'model': dataclasses.asdict(SMALL), 'optim': optim, 'train': train, 'init': {'carry': ()}})
  mesh = sharding.make_mesh(dict.fromkeys(sharding.AXES, 1), jax.devices()[:1])
  with jax.set_mesh(mesh):
    stage = step.of_stage(config, mesh, 1, functools.partial(policy_sums, options=WIDE))
    for unit in (4, 12):
      jax.eval_shape(stage.train_step, stage.abstract, rows([], [], unit=unit))
  assert traced == [2, 6]


# ------------------------------------------------------------------ What is measured


@pytest.mark.parametrize('accumulation', [1, 3])
def test_what_is_measured_is_a_mean_over_sampled_tokens_however_they_are_batched(accumulation):
  options = PolicyOptions(0.1, 0.15, dual_clip=1.3, kl_coef=0.1, sampler_is_threshold=1.1)
  params, old, reference = oracle.make_params(), oracle.make_params(3), oracle.make_params(4)
  old['head'] = params['head'] + 0.1 * old['head']
  trajectories = oracle.make_trajectories(old, noise=0.2)
  batch = rows(trajectories, unit=3)
  batch = batch.replace(old_logps=table_logps(old, batch), reference_logps=table_logps(reference, batch))
  _, sums, _ = step_gradients(params, batch, options, accumulation)
  k3 = lambda log_ratio: math.exp(log_ratio) - 1 - log_ratio
  seen = []
  for trajectory, advantage in zip(trajectories, ADVANTAGES):
    of_old, of_reference = oracle.logps(old, trajectory), oracle.logps(reference, trajectory)
    for at, value in oracle.logps(params, trajectory).items():
      ratio, mismatch = math.exp(value - of_old[at]), of_old[at] - trajectory.logps[at]
      seen.append({
          'entropy': -value,
          'clipped_low': advantage < 0 and ratio < 0.9,
          'clipped_high': ratio > (1.15 if advantage >= 0 else 1.3),
          'update_kl': k3(value - of_old[at]),
          'logp_difference': abs(mismatch),
          'sampler_kl': k3(mismatch),
          'sampler_is_truncated': math.exp(mismatch) > 1.1,
          'reference_kl': k3(of_reference[at] - value),
      })  # fmt: skip
  metrics = sums.metrics()
  assert set(metrics) == {'loss_S', 'weight_S', *seen[0]} and sums.count == len(seen)
  for name in seen[0]:
    wanted = np.mean([each[name] for each in seen])
    assert wanted > 0
    np.testing.assert_allclose(metrics[name], wanted, rtol=1e-4, err_msg=name)


def test_old_log_probabilities_are_those_of_the_parameters_that_are_given():
  params = oracle.make_params()
  trajectory = oracle.make_trajectories(params)[0]
  batch = rows([trajectory], [1.0], unit=4)
  logps = table_logps(params, batch)
  wanted = oracle.logps(params, trajectory)
  np.testing.assert_allclose([logps[0, at - 1] for at in wanted], list(wanted.values()), rtol=1e-5)


# ------------------------------------------------------------------ Bad input


@pytest.mark.parametrize(
    ('options', 'says'),
    [
        ({'clip_low': 0.0}, r'clip_low must be in \(0, 1\], got 0.0'),
        ({'clip_high': -0.1}, 'clip_high must be above 0, got -0.1'),
        ({'dual_clip': 1.0}, 'dual_clip must be above 1, or None, got 1.0'),
        ({'kl_coef': math.nan}, 'kl_coef must be at least 0, got nan'),
        ({'sampler_is_threshold': 0.0}, 'sampler_is_threshold must be above 0, or None, got 0.0'),
        ({'temperature': 0.0}, 'temperature must be above 0, got 0.0'),
        ({'ratio': 'sequences'}, 'did you mean "sequence"'),
    ],
)
def test_an_option_out_of_range_is_refused(options, says):
  with pytest.raises(UserError, match=says):
    PolicyOptions(**options)


def test_kl_without_a_reference_is_refused():
  batch = rows(oracle.make_trajectories(oracle.make_params()))
  with pytest.raises(UserError, match='kl_coef needs the log-probabilities of a reference'):
    step_gradients(oracle.make_params(), batch, PolicyOptions(kl_coef=0.1))
