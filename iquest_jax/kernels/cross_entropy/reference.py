"""Chunked log-probabilities in plain JAX. Legend: B batch, T positions, D model width, V vocabulary."""

import jax
import jax.numpy as jnp

from iquest_jax import sharding
from iquest_jax.kernels.product import product


def target_logps(hidden_BTD, head_DV, targets_BT, chunk):
  """Log-probability of each target and the log-partition of each position, in chunks of tokens.

  The backward pass recomputes the logits of a chunk instead of keeping them. The head is gathered once for all chunks, and
  its gradient is scattered once.

  Args:
    hidden_BTD: final hidden states in the compute dtype.
    head_DV: output projection, float32; it is cast to the compute dtype here.
    targets_BT: int32.
    chunk: positions of a row whose logits a device holds at a time; if smaller than the positions on the device, it must
      divide them.

  Returns:
    (logps, logz), float32 [B, T] each.

  Raises:
    ValueError: the chunk does not divide the positions.
  """
  run = lambda head_DV, hidden_BTD, targets_BT: _in_chunks(head_DV, hidden_BTD, targets_BT, chunk)
  return sharding.with_gathered_weight(run, head_DV, ('embed', 'vocab'), hidden_BTD.dtype, hidden_BTD, targets_BT)


def _in_chunks(head_DV, hidden_BTD, targets_BT, chunk):
  B, T, D = hidden_BTD.shape

  def one_chunk(hidden_BCD, targets_BC):
    logits = product('bcd,dv->bcv', hidden_BCD, head_DV, jnp.float32)
    logits = sharding.constrain(logits, None, None, 'vocab')
    logz = jax.nn.logsumexp(logits, axis=-1)
    # A masked sum instead of a gather, because the vocabulary may be split over the tensor axis.
    hit = jax.lax.broadcasted_iota(jnp.int32, logits.shape, 2) == targets_BC[..., None]
    return jnp.sum(jnp.where(hit, logits, 0), axis=-1) - logz, logz

  if chunk >= T:
    return one_chunk(hidden_BTD, targets_BT)
  if T % chunk:
    raise ValueError(f'cross_entropy: chunk must divide the {T} positions of a device, got {chunk}')
  step = jax.checkpoint(lambda _, xs: (None, one_chunk(*xs)))
  split = lambda x: jnp.moveaxis(x.reshape(B, T // chunk, chunk, *x.shape[2:]), 1, 0)
  _, outs = jax.lax.scan(step, None, (split(hidden_BTD), split(targets_BT)))
  return tuple(jnp.moveaxis(out, 0, 1).reshape(B, T) for out in outs)
