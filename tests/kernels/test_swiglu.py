"""SwiGLU has the value and the gradients of its formula; CPUs have a backward pass of their own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iquest_jax.kernels.platform import kernels_for
from iquest_jax.kernels.swiglu import swiglu


def gradients(platform, gate, up, out_gradient):
  with kernels_for(platform):
    out, pull = jax.vjp(lambda *args: swiglu(*args), gate, up)
  return out, *pull(jnp.asarray(out_gradient, out.dtype))


@pytest.mark.parametrize('platform', ['cpu', 'tpu'])
@pytest.mark.parametrize(('dtype', 'tolerance'), [(jnp.float32, 1e-6), (jnp.bfloat16, 0.03)])
def test_value_and_gradients_are_those_of_the_formula_in_float64(platform, dtype, tolerance):
  rng = np.random.default_rng(0)
  gate, up, out_gradient = (jnp.asarray(3 * rng.standard_normal((4, 50)), dtype) for _ in range(3))
  actual = gradients(platform, gate, up, out_gradient)
  g, u, d = (np.asarray(x, np.float64) for x in (gate, up, out_gradient))
  sigmoid = 1 / (1 + np.exp(-g))
  slope = sigmoid + g * sigmoid * (1 - sigmoid)
  assert [one.dtype for one in actual] == [dtype] * 3
  for one, other in zip(actual, (g * sigmoid * u, d * u * slope, d * g * sigmoid)):
    np.testing.assert_allclose(np.asarray(one, np.float64), other, rtol=tolerance, atol=tolerance)


def test_extreme_gates_give_finite_gradients():
  gate = jnp.asarray([-1e30, -100.0, 0.0, 100.0, 1e30])
  out, *pulled = gradients('cpu', gate, jnp.ones(5), jnp.ones(5))
  np.testing.assert_allclose(pulled[0], [0, 0, 0.5, 1, 1], atol=1e-6)
  assert np.isfinite(out).all() and np.isfinite(pulled[1]).all()


def test_only_a_cpu_gets_a_backward_pass_of_its_own():
  """The programs of accelerators are what the estimates are made of."""
  traced = lambda platform: str(jax.make_jaxpr(lambda *args: gradients(platform, *args))(*[jnp.ones(3)] * 3))
  assert traced('cpu') != traced('tpu') == traced('gpu')
