"""The product of activations and a weight, with gradients that XLA's CPU compiler computes fast."""

import functools

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from iquest_jax.kernels import platform


def product(subscripts: str, x, weight, dtype=None):
  """einsum(subscripts, x, weight), named 'product' for remat policies; `dtype` is the result's, by default theirs."""
  multiply = _on_cpu(subscripts, dtype) if platform.target() == 'cpu' else functools.partial(_einsum, subscripts, dtype)
  return checkpoint_name(multiply(x, weight), 'product')


def _einsum(subscripts, dtype, x, weight):
  return jnp.einsum(subscripts, x, weight, preferred_element_type=dtype)


@functools.cache
def _on_cpu(subscripts, dtype):
  """The same with a backward pass of its own.

  Both of its products read the gradient of the result, one of them transposed. XLA's CPU compiler fuses whatever computes
  that gradient into the transposition, so it is computed twice, once in large strides. A barrier makes it an array first.
  The weight's gradient then transposes the activations instead, which are often narrower.
  """
  of_x, of_weight, of_out = subscripts.replace('->', ',').split(',')
  multiply = jax.custom_vjp(functools.partial(_einsum, subscripts, dtype))

  def forward(x, weight):
    return multiply(x, weight), (x, weight)

  def backward(saved, out_gradient):
    x, weight = saved
    out_gradient = jax.lax.optimization_barrier(out_gradient)
    x_gradient = _einsum(f'{of_out},{of_weight}->{of_x}', dtype, out_gradient, weight)
    weight_gradient = _einsum(f'{of_x},{of_out}->{of_weight}', dtype, x, out_gradient)
    return x_gradient.astype(x.dtype), weight_gradient.astype(weight.dtype)

  multiply.defvjp(forward, backward)
  return multiply
