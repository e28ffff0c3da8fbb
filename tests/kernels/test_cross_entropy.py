"""Log-probabilities and their gradients equal a float64 softmax, in chunks of any size."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iquest_jax.kernels.cross_entropy import target_logps

B, T, D, V = 2, 24, 16, 53
WEIGHTS = np.linspace(0, 1, B * T).reshape(B, T)


def problem(dtype=jnp.float32):
  """(hidden, head, targets); values of hidden and head are exact in `dtype`."""
  rng = np.random.default_rng(0)
  hidden, head = (np.asarray(rng.standard_normal(shape), dtype) for shape in ((B, T, D), (D, V)))
  return hidden, head.astype(np.float32), rng.integers(0, V, (B, T), dtype=np.int32)


def softmax(hidden, head, targets):
  """(log-probabilities of targets, log-partition, probabilities) in float64."""
  logits = np.asarray(hidden, np.float64) @ np.asarray(head, np.float64)
  logz = np.log(np.sum(np.exp(logits), axis=-1))
  logps = np.take_along_axis(logits, targets[..., None], axis=-1)[..., 0] - logz
  return logps, logz, np.exp(logits - logz[..., None])


def loss(hidden, head, targets, chunk):
  """A loss of both results, so that its gradient involves both."""
  logps, logz = target_logps(hidden, head, targets, chunk)
  return jnp.sum(WEIGHTS.astype(np.float32) * (1e-2 * logz**2 - logps))


# bfloat16 has 8 bits: logits that were rounded to it on the way would be off by 1e-2.
@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize('chunk', [1, 8, 24, 100])
def test_log_probabilities_equal_a_float64_softmax(chunk, dtype):
  args = problem(dtype)
  for ours, exact in zip(target_logps(*args, chunk), softmax(*args)[:2], strict=True):
    assert ours.dtype == jnp.float32
    np.testing.assert_allclose(ours, exact, rtol=0, atol=2e-5)


@pytest.mark.parametrize('chunk', [1, 8, 12, 24])
def test_gradients_equal_those_of_a_float64_softmax(chunk):
  hidden, head, targets = problem()
  _, logz, p = softmax(hidden, head, targets)
  d_logits = WEIGHTS[..., None] * ((2e-2 * logz[..., None] + 1) * p - np.eye(V)[targets])
  d_hidden, d_head = jax.jit(jax.grad(loss, argnums=(0, 1)), static_argnums=3)(hidden, head, targets, chunk)
  np.testing.assert_allclose(d_hidden, d_logits @ head.T.astype(np.float64), rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(d_head, np.einsum('btd,btv->dv', hidden, d_logits), rtol=1e-5, atol=1e-5)


def test_only_one_chunk_of_logits_exists_at_a_time():
  shapes = jax.make_jaxpr(jax.grad(loss, argnums=(0, 1)), static_argnums=3)(*problem(), 8)
  assert f'f32[{B},8,{V}]' in str(shapes) and f'f32[{B},{T},{V}]' not in str(shapes)


def test_a_chunk_that_does_not_divide_the_row_is_refused():
  with pytest.raises(ValueError, match='chunk must divide the 24 positions of a device, got 7'):
    target_logps(*problem(), 7)
