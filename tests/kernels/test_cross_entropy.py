"""Log-probabilities in chunks of tokens are those of the whole, and so are their gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iquest_jax.kernels.cross_entropy import target_logps

B, T, D, V = 2, 24, 16, 53


def problem(dtype=np.float32):
  rng = np.random.default_rng(0)
  hidden, head = rng.standard_normal((B, T, D)), rng.standard_normal((D, V))
  return hidden.astype(dtype), head.astype(np.float32), rng.integers(0, V, (B, T), dtype=np.int32)


def weighted(hidden, head, targets, chunk):
  """A loss that needs both results, so that its gradient does too."""
  logps, logz = target_logps(hidden, head, targets, chunk)
  weights = jnp.linspace(0, 1, B * T).reshape(B, T)
  return jnp.sum(weights * (1e-2 * logz**2 - logps))


def test_log_probabilities_equal_a_float64_softmax():
  hidden, head, targets = problem()
  logits = hidden.astype(np.float64) @ head
  logz = np.log(np.sum(np.exp(logits), axis=-1))
  logps = np.take_along_axis(logits, targets[..., None], axis=-1)[..., 0] - logz
  for ours, exact in zip(target_logps(hidden, head, targets, T), (logps, logz), strict=True):
    assert ours.dtype == jnp.float32
    np.testing.assert_allclose(ours, exact, rtol=0, atol=2e-5)


@pytest.mark.parametrize('chunk', [1, 8, 12, 24, 100])
def test_chunked_log_probabilities_equal_the_whole(chunk):
  args = problem()
  for part, whole in zip(target_logps(*args, chunk), target_logps(*args, T), strict=True):
    np.testing.assert_allclose(part, whole, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize('chunk', [1, 8, 12])
def test_chunked_gradients_equal_the_whole(chunk):
  args = problem()
  gradient = jax.jit(jax.grad(weighted, argnums=(0, 1)), static_argnums=3)
  for part, whole in zip(gradient(*args, chunk), gradient(*args, T), strict=True):
    np.testing.assert_allclose(part, whole, rtol=1e-5, atol=1e-5)


def test_only_one_chunk_of_logits_exists_at_a_time():
  shapes = jax.make_jaxpr(jax.grad(weighted, argnums=(0, 1)), static_argnums=3)(*problem(), 8)
  assert f'f32[{B},8,{V}]' in str(shapes) and f'f32[{B},{T},{V}]' not in str(shapes)


def test_bfloat16_states_keep_float32_results():
  hidden, head, targets = problem(jnp.bfloat16)
  assert {result.dtype for result in target_logps(hidden, head, targets, 8)} == {jnp.dtype('float32')}


def test_a_chunk_that_does_not_divide_the_row_is_refused():
  with pytest.raises(ValueError, match='24 positions do not divide by chunk 7'):
    target_logps(*problem(), 7)
