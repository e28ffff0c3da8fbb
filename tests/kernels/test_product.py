"""The product of activations and a weight has the gradients of einsum, on CPUs by a backward pass of its own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iquest_jax.kernels.platform import kernels_for
from iquest_jax.kernels.product import product

CASES = {
    'btd,df->btf': ((2, 3, 4), (4, 5)),
    'btd,dhk->bthk': ((2, 3, 4), (4, 2, 5)),
    'bthk,hkd->btd': ((2, 3, 4, 5), (4, 5, 6)),
}


def gradients(platform, subscripts, x, weight, out_gradient):
  with kernels_for(platform):
    out, pull = jax.vjp(lambda x, weight: product(subscripts, x, weight, jnp.float32), x, weight)
  return out, *pull(jnp.asarray(out_gradient, out.dtype))


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize('subscripts', CASES)
def test_value_and_gradients_are_those_of_einsum_in_float64(subscripts, dtype):
  rng = np.random.default_rng(0)
  x, weight = (jnp.asarray(rng.standard_normal(shape), dtype) for shape in CASES[subscripts])
  of_x, of_weight, of_out = subscripts.replace('->', ',').split(',')
  wide_x, wide_weight = np.asarray(x, np.float64), np.asarray(weight, np.float64)
  out = np.einsum(subscripts, wide_x, wide_weight)
  out_gradient = rng.standard_normal(out.shape)
  expected = (
      out,
      np.einsum(f'{of_out},{of_weight}->{of_x}', out_gradient, wide_weight),
      np.einsum(f'{of_x},{of_out}->{of_weight}', wide_x, out_gradient),
  )
  actual = gradients('cpu', subscripts, x, weight, out_gradient)
  assert [one.dtype for one in actual] == [jnp.float32, dtype, dtype]
  rounding = float(jnp.finfo(dtype).eps)
  for one, other in zip(actual, expected):
    np.testing.assert_allclose(np.asarray(one, np.float64), other, rtol=2 * rounding, atol=1e-5)


def test_only_a_cpu_gets_a_barrier():
  """The programs of accelerators are what the estimates are made of."""
  x, weight = jnp.ones((2, 3, 4)), jnp.ones((4, 5))

  def traced(platform):
    return str(jax.make_jaxpr(lambda *args: gradients(platform, 'btd,df->btf', *args))(x, weight, jnp.ones((2, 3, 5))))

  assert 'optimization_barrier' in traced('cpu')
  assert 'optimization_barrier' not in traced('tpu') and 'custom_vjp' not in traced('gpu')
