"""Gradients through the shared layers equal finite differences in float64, with every remat policy and gradient scale."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iquest_jax.errors import UserError
from iquest_jax.kernels.cross_entropy import target_logps
from iquest_jax.model.transformer import REMAT_POLICIES, Transformer

from tests.model import reference_model
from tests.model.small_models import DENSE, LOOP, LOOP3, RESCALED, published, random_params

MODELS = {'dense': DENSE, 'loop': LOOP, 'loop3': LOOP3, 'rescaled': RESCALED}
T = 13
TOKENS, TARGETS = np.random.default_rng(0).integers(0, DENSE.vocab, (2, T), dtype=np.int32)
STEP = 1e-5


@functools.partial(jax.jit, static_argnums=(0, 2))
def value_and_gradient(model, params, remat='none'):
  """Mean loss of one document in nats, and its gradient."""

  def loss(params):
    ids = np.ones((1, T), np.int32), np.arange(T, dtype=np.int32)[None]
    hidden, _ = Transformer(model, 'float32', remat).apply({'params': params}, TOKENS[None], *ids)
    return -jnp.mean(target_logps(hidden, params['head'], TARGETS[None], T)[0])

  return jax.value_and_grad(loss)(params)


def reference_loss(model, params, held=None):
  """(loss, hidden states passed on from pass to pass) of the float64 forward."""
  rescaled = model.loop_variant == 'rescaled'
  output = reference_model.forward(*published(model, params), TOKENS, rescaled=rescaled, held=held)
  return reference_model.loss(output.logits, TARGETS), output.handed_on


def derivatives(model, params, held=None):
  """Derivatives along one random direction per leaf: (our gradient, central differences of the float64 forward)."""
  _, gradient = value_and_gradient(model, params)
  leaves, tree = jax.tree.flatten(jax.tree.map(np.float64, params))
  ours, theirs = [], []
  for index, (leaf, slope) in enumerate(zip(leaves, jax.tree.leaves(gradient), strict=True)):
    direction = np.random.default_rng(index).standard_normal(leaf.shape)
    losses = []
    for step in (STEP, -STEP):
      moved = jax.tree.unflatten(tree, leaves[:index] + [leaf + step * direction] + leaves[index + 1 :])
      losses.append(reference_loss(model, moved, held)[0])
    ours.append(np.vdot(slope, direction))
    theirs.append((losses[0] - losses[1]) / (2 * STEP))
  return np.array(ours), np.array(theirs)


@pytest.mark.parametrize('name', MODELS)
def test_gradients_equal_finite_differences_of_the_float64_reference(name):
  model, params = MODELS[name], random_params(MODELS[name])
  np.testing.assert_allclose(value_and_gradient(model, params)[0], reference_loss(model, params)[0], rtol=1e-6)
  ours, theirs = derivatives(model, params)
  assert np.abs(theirs).min() > 1e-4  # every leaf matters
  np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('name', ['loop3', 'rescaled'])
def test_gradient_scale_zero_stops_the_gradient_at_the_reentry(name):
  model = dataclasses.replace(MODELS[name], loop_gradient_scale=0.0)
  params = random_params(model)
  _, held = reference_loss(model, params)
  ours, theirs = derivatives(model, params, held)
  np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
  free, _ = derivatives(MODELS[name], params)
  assert np.abs(free - ours).max() > 1e-2


def test_gradient_scale_scales_the_recurrent_path_and_nothing_else():
  params = random_params(RESCALED)
  scaled = lambda scale: value_and_gradient(dataclasses.replace(RESCALED, loop_gradient_scale=scale), params)
  losses, (stopped, half, full) = zip(*map(scaled, (0.0, 0.5, 1.0)), strict=True)
  assert len(set(map(float, losses))) == 1
  # With two passes the gradient is linear in the scale: the direct part plus scale times the recurrent part.
  between = jax.tree.map(lambda a, b: (a + b) / 2, stopped, full)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), half, between)
  for leaf in ('gate_weight', 'gate_bias'):
    attention = stopped['layers']['attention'], full['layers']['attention']
    np.testing.assert_allclose(attention[0][leaf], attention[1][leaf], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize('remat', ['full', 'attention', 'dots'])
def test_every_remat_policy_gives_the_same_loss_and_gradients(remat):
  params = random_params(LOOP)
  (loss, gradient), (other, other_gradient) = (value_and_gradient(LOOP, params, name) for name in ('none', remat))
  np.testing.assert_allclose(other, loss, rtol=1e-6)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), other_gradient, gradient)


def test_remat_policies_save_what_their_names_say():
  row = np.ones((1, T), np.int32)

  def recomputed(remat):
    loss = lambda params: jnp.sum(Transformer(LOOP, 'float32', remat).apply({'params': params}, row, row, row)[0])
    return str(jax.make_jaxpr(jax.grad(loss))(random_params(LOOP))).count('dot_general')

  counts = {remat: recomputed(remat) for remat in REMAT_POLICIES}
  assert set(counts) == {'none', 'full', 'attention', 'offload', 'dots'}
  assert counts['none'] < counts['dots'] < counts['attention'] <= counts['full']
  assert counts['offload'] == counts['attention']


def test_an_unknown_remat_policy_offers_the_nearest():
  with pytest.raises(UserError, match='did you mean "full"'):
    value_and_gradient(DENSE, random_params(DENSE), 'ful')
