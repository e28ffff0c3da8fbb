"""Norms by layer group and z-loss, against float64; a batch that is passed over."""

import jax
import jax.numpy as jnp
import numpy as np

from iquest_jax.train import layer_groups, state, step

from tests.train.test_objective import OPTIM, make_batch, make_params, reference, run_steps


def tree(layers):
  random = np.random.default_rng(0)
  leaf = lambda *shape: random.normal(size=shape).astype(np.float32)
  return {
      'embedder': {'embedding': leaf(5, 3)},
      'final_norm': {'scale': leaf(3)},
      'head': leaf(3, 5),
      'layers': {
          'attention': {'query': leaf(layers, 3, 2, 2), 'gate_bias': leaf(layers, 2)},
          'attention_norm': {'scale': leaf(layers, 3)},
          'mlp': {'up': leaf(layers, 3, 4)},
          'mlp_norm': {'scale': leaf(layers, 3)},
      },
  }


def wanted(params, layers):
  """{group: norm} in float64, by hand."""
  norm = lambda *leaves: np.sqrt(sum(np.sum(np.asarray(leaf, np.float64) ** 2) for leaf in leaves))
  found = {'embedder': norm(params['embedder']['embedding']), 'final_norm': norm(params['final_norm']['scale']),
           'head': norm(params['head'])}  # fmt: skip
  of = params['layers']
  for name, first, last in layers:
    cut = slice(first, last + 1)
    leaves = of['attention']['query'], of['attention']['gate_bias'], of['attention_norm']['scale']
    found[f'attention_{name}'] = norm(*(leaf[cut] for leaf in leaves))
    found[f'mlp_{name}'] = norm(of['mlp']['up'][cut], of['mlp_norm']['scale'][cut])
  return found


def test_norms_are_those_of_each_group_and_add_up_to_the_global_norm():
  for layers, groups in (
      (10, (('0-1', 0, 1), ('2-4', 2, 4), ('5-6', 5, 6), ('7-9', 7, 9))),
      (2, (('0', 0, 0), ('1', 1, 1))),
  ):
    params = tree(layers)
    names, norms = layer_groups.names(params), np.asarray(jax.jit(layer_groups.norms)(params))
    expected = wanted(params, groups)
    assert sorted(expected) == list(names)
    np.testing.assert_allclose(norms, [expected[name] for name in names], rtol=1e-6)
    whole = np.sqrt(sum(np.sum(np.asarray(leaf, np.float64) ** 2) for leaf in jax.tree.leaves(params)))
    np.testing.assert_allclose(np.sqrt(np.sum(norms.astype(np.float64) ** 2)), whole, rtol=1e-6)


def test_norms_of_bfloat16_are_summed_in_float32():
  params = jax.tree.map(lambda leaf: jnp.full((4, 4096), 1.0, jnp.bfloat16), tree(4))
  norms = dict(zip(layer_groups.names(params), np.asarray(layer_groups.norms(params))))
  assert norms['head'] == 128.0 and norms['mlp_0'] == np.sqrt(np.float32(2 * 4096))


def test_a_step_reports_gradients_before_clipping_and_updates_relative_to_what_they_change():
  (before, _), (after, reported) = run_steps(1.0)
  assert reported['grad_norm'] > 2 * OPTIM.clip_norm
  np.testing.assert_allclose(np.sqrt(np.sum(reported['layer_grad_norms'] ** 2)), reported['grad_norm'], rtol=1e-5)
  size = lambda leaf: np.sqrt(np.sum(np.asarray(leaf, np.float64) ** 2))
  names = layer_groups.names(before.params)
  assert names == ('embedding', 'head')
  for name, ratio in zip(names, reported['layer_update_ratios'], strict=True):
    change = after.params[name].astype(np.float64) - before.params[name]
    np.testing.assert_allclose(ratio, size(change) / size(before.params[name]), rtol=1e-3)


def test_z_loss_is_what_it_adds_to_the_loss_and_is_left_out_where_it_is_not_minimised():
  """Against the log-partition of the whole logits in float64."""
  assert 'z_loss' not in run_steps(1.0)[1][1]
  (_, reported), batch = run_steps(1.0, z_loss=0.5)[1], make_batch()
  _, logz, _, _ = reference(make_params(), batch)
  expected = 0.5 * np.sum(batch.loss_weights * logz**2) / np.sum(batch.loss_weights)
  np.testing.assert_allclose(reported['z_loss'], expected, rtol=1e-5)


def test_a_batch_that_is_passed_over_is_consumed_and_the_schedule_waits():
  zero = jnp.zeros((), jnp.int32)
  before = state.TrainState({'w': jnp.ones(3)}, {'mu': jnp.ones(3)}, zero + 6, zero + 1, zero + 1)
  after = step.pass_over(before)
  assert (int(after.step), int(after.skipped), int(after.skipped_in_a_row)) == (7, 2, 1)
  assert int(after.step - after.skipped) == int(before.step - before.skipped)
  assert after.params is before.params and after.opt_state is before.opt_state
