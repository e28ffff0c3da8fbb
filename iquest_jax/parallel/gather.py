"""The all-gather transport: every device collects the keys of the whole row. Everything here runs inside a shard_map.

Legend: B batch, T positions on this device, H query heads, G key/value heads, K head size.
"""

import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint

from iquest_jax.kernels import gated_attention as kernels
from iquest_jax.kernels.gated_attention import Keys
from iquest_jax.sharding import CONTEXT


def attention(q_BTHK, keys: Keys):
  """`kernels.attention` of this device's part of a row; `keys` are its own."""
  return kernels.attention(q_BTHK, keys.ids, jax.tree.map(_gather, keys))


def gated_attention(q_BTHK, far: Keys, near: Keys, gate_logits_BTH, window: int, before: Keys):
  """`kernels.gated_attention` of this device's part of a row; `far` and `near` are its own."""
  return kernels.gated_attention(q_BTHK, near.ids, jax.tree.map(_gather, far), near, gate_logits_BTH, window, before)


@jax.custom_vjp
def _gather(x_BT):
  """[B, n T, ...] of [B, T, ...] on each of n devices, in the order of the batch."""
  parts = jax.lax.all_gather(x_BT, CONTEXT)
  return jnp.moveaxis(parts, 0, 1).reshape(x_BT.shape[0], -1, *x_BT.shape[2:])


def _scatter(_, d_BT):
  parts = d_BT.reshape(d_BT.shape[0], jax.lax.axis_size(CONTEXT), -1, *d_BT.shape[2:])
  # Parts must be contiguous in memory as well: libtpu scatters along an inner axis by all-reduce and slice.
  parts = with_layout_constraint(jnp.moveaxis(parts, 1, 0), Layout(tuple(range(parts.ndim))))
  return (jax.lax.psum_scatter(parts, CONTEXT),)


_gather.defvjp(lambda x_BT: (_gather(x_BT), None), _scatter)
