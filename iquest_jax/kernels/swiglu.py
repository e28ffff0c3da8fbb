"""The product of SwiGLU's two halves, with a gradient that XLA's CPU compiler computes in few passes over memory."""

import jax

from iquest_jax.kernels import platform


def swiglu(gate, up):
  """silu(gate) * up, elementwise."""
  return _on_cpu(gate, up) if platform.target() == 'cpu' else jax.nn.silu(gate) * up


@jax.custom_vjp
def _on_cpu(gate, up):
  """The same, of which the backward pass keeps the two arguments and no more.

  Otherwise the forward pass also writes the sigmoid and two products of it, each in a loop of its own.
  """
  return jax.nn.silu(gate) * up


def _forward(gate, up):
  return _on_cpu(gate, up), (gate, up)


def _backward(saved, out_gradient):
  gate, up = saved
  sigmoid = jax.nn.sigmoid(gate)
  return out_gradient * up * sigmoid * (1 + gate * (1 - sigmoid)), out_gradient * gate * sigmoid


_on_cpu.defvjp(_forward, _backward)
