"""The objective and its gradient, the optimizer and its rate, against float64 formulas written out in numpy."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from iquest_jax.batch import Batch
from iquest_jax.train import losses, optim, state, step

V, D, B, T, SOURCES = 13, 6, 4, 8, 3


def _apply(variables, tokens, segment_ids, positions):
  """The simplest model: a token's hidden state is its embedding, and the diagnostic is the mean token."""
  return variables['params']['embedding'][tokens], {'loop_gate': jnp.mean(tokens.astype(jnp.float32), keepdims=True)[0]}


MODEL = types.SimpleNamespace(apply=_apply, config=types.SimpleNamespace(loop_window=3))


def make_params():
  random = np.random.default_rng(0)
  draw = lambda *shape: random.standard_normal(shape).astype(np.float32)
  return {'embedding': draw(V, D), 'head': draw(D, V)}


def make_batch():
  """Weights between 0 and 3, and all three sources, one of them in two rows."""
  random = np.random.default_rng(1)
  return Batch(
      tokens=random.integers(0, V, (B, T), dtype=np.int32),
      targets=random.integers(0, V, (B, T), dtype=np.int32),
      loss_weights=random.choice([0.0, 0.25, 1.0, 3.0], (B, T)).astype(np.float32),
      segment_ids=np.ones((B, T), np.int32),
      positions=np.tile(np.arange(T, dtype=np.int32), (B, 1)),
      source_ids=np.array([2, 0, 2, 1], np.int32),
  )


def reference(params, batch):
  """float64 (log-probabilities of targets [B, T], log-partition [B, T], probabilities [B, T, V], hidden [B, T, D])."""
  hidden = params['embedding'].astype(np.float64)[batch.tokens]
  logits = hidden @ params['head'].astype(np.float64)
  logz = np.log(np.sum(np.exp(logits), axis=-1))
  logps = np.take_along_axis(logits, batch.targets[..., None], axis=-1)[..., 0] - logz
  return logps, logz, np.exp(logits - logz[..., None]), hidden


def test_loss_z_and_weight_are_weighted_sums_per_source():
  params, batch = make_params(), make_batch()
  sums, _ = losses.next_token_sums(MODEL, params, batch, SOURCES, chunk=4)
  logps, logz, _, _ = reference(params, batch)
  weights = batch.loss_weights.astype(np.float64)
  of_source = lambda values: [np.sum(values[batch.source_ids == source]) for source in range(SOURCES)]
  np.testing.assert_allclose(sums.loss_S, of_source(-weights * logps), rtol=1e-5)
  np.testing.assert_allclose(sums.weight_S, of_source(weights), rtol=1e-6)
  np.testing.assert_allclose(sums.z, np.sum(weights * logz**2), rtol=1e-5)
  np.testing.assert_allclose(sums.mean(), np.sum(-weights * logps) / np.sum(weights), rtol=1e-5)


@pytest.mark.parametrize('accumulation', [1, 2])
def test_the_gradient_is_that_of_mean_loss_plus_z_loss(accumulation):
  params, batch, z_loss = make_params(), make_batch(), 0.3
  grads, _, _ = step.gradients(
      MODEL, params, batch, num_sources=SOURCES, accumulation=accumulation, chunk=4, z_loss=z_loss
  )
  _, logz, probabilities, hidden = reference(params, batch)
  weights = (batch.loss_weights / np.sum(batch.loss_weights, dtype=np.float64))[..., None]
  by_logits = weights * (probabilities - np.eye(V)[batch.targets] + 2 * z_loss * logz[..., None] * probabilities)
  head = np.einsum('btd,btv->dv', hidden, by_logits)
  np.testing.assert_allclose(grads['head'], head, rtol=1e-4, atol=1e-6 * np.max(np.abs(head)))


def test_diagnostics_are_averaged_over_micro_batches():
  batch = make_batch()
  for accumulation in (1, 2, 4):
    _, _, diagnostics = step.gradients(
        MODEL, make_params(), batch, num_sources=SOURCES, accumulation=accumulation, chunk=4, z_loss=0.0
    )
    np.testing.assert_allclose(diagnostics['loop_gate'], [np.mean(batch.tokens, dtype=np.float64)], rtol=1e-6)


# Every constant has a value of its own, and eps is large enough to show in an update.
OPTIM = ConfigDict(
    dict(schedule='wsd', peak_lr=0.02, warmup=0.4, decay=0.3, floor=0.1, b1=0.8, b2=0.95, eps=1e-2, weight_decay=0.3,
         clip_norm=0.5, moment_dtype='float32')
)  # fmt: skip
STEPS = 10


def test_two_updates_are_those_of_adamw_after_clipping_by_global_norm():
  random = np.random.default_rng(2)
  draw = lambda: {'scale': random.standard_normal(5), 'weight': random.standard_normal((3, 4))}
  params, gradients = draw(), [draw(), {name: 0.01 * leaf for name, leaf in draw().items()}]  # only the first is clipped
  tx = optim.optimizer(OPTIM, STEPS)
  single = lambda tree: jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), tree)
  current, opt_state = single(params), tx.init(single(params))
  wanted, m, v = dict(params), dict.fromkeys(params, 0.0), dict.fromkeys(params, 0.0)
  for count, grads in enumerate(gradients, 1):
    updates, opt_state = tx.update(single(grads), opt_state, current)
    current = jax.tree.map(jnp.add, current, updates)
    norm = np.sqrt(sum(np.sum(leaf**2) for leaf in grads.values()))
    rate = 0.02 * count / 5  # four steps of warm-up, the first of which takes a fifth of the peak
    for name, leaf in grads.items():
      leaf = leaf * min(1, 0.5 / norm)
      m[name], v[name] = 0.8 * m[name] + 0.2 * leaf, 0.95 * v[name] + 0.05 * leaf**2
      direction = m[name] / (1 - 0.8**count) / (np.sqrt(v[name] / (1 - 0.95**count)) + 1e-2)
      wanted[name] = wanted[name] - rate * (direction + (0.3 * wanted[name] if name == 'weight' else 0))
    for name in params:
      np.testing.assert_allclose(current[name], wanted[name], rtol=0, atol=1e-6)


def run_steps(*weights, z_loss=0.0):
  """(state, metrics) after each step, starting with the first state; a batch's weights are multiplied by a number."""
  params, tx = jax.tree.map(jnp.asarray, make_params()), optim.optimizer(OPTIM, STEPS)
  run = jax.jit(
      lambda current, batch: step.train_step(
          current, batch, model=MODEL, tx=tx, learning_rate=optim.schedule(OPTIM, STEPS), num_sources=SOURCES,
          accumulation=1, chunk=4, z_loss=z_loss,
      )
  )  # fmt: skip
  results = [(state.create(params, tx), {})]
  for weight in weights:
    batch = make_batch()
    batch = batch.replace(loss_weights=batch.loss_weights * np.float32(weight))
    results.append(run(results[-1][0], batch))
  return jax.device_get(results)


def test_a_skipped_update_does_not_advance_the_learning_rate():
  results = run_steps(1.0, np.nan, 1.0, 1.0)
  np.testing.assert_allclose([metrics['lr'] for _, metrics in results[1:]], 0.004 * np.array([1, 2, 2, 3]), rtol=1e-6)


def test_a_loss_that_is_not_finite_skips_the_update_although_the_gradient_is():
  before, (after, metrics) = run_steps(1.0, 1e38)[1:]
  assert not np.isfinite(metrics['loss']) and np.isfinite(metrics['grad_norm'])
  assert (metrics['skipped'], metrics['skipped_in_a_row']) == (1, 1)
  jax.tree.map(np.testing.assert_array_equal, (after.params, after.opt_state), (before[0].params, before[0].opt_state))
