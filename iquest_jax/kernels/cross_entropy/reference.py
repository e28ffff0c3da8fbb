"""Chunked log-probabilities in plain JAX. Legend: B batch, T positions, D model width, V vocabulary."""

import jax
import jax.numpy as jnp

from iquest_jax import sharding


def target_logps(hidden_BTD, head_DV, targets_BT, chunk):
  """Log-probability of each target and the log-partition of each position, in chunks of tokens.

  The backward pass recomputes a chunk's logits instead of keeping them. A chunk takes every n-th position of a row, not
  a run of them, so that a row split over the context axis stays evenly split inside every chunk.

  Args:
    hidden_BTD: final hidden states in compute dtype.
    head_DV: output projection, float32 master; cast to the compute dtype here.
    targets_BT: int32.
    chunk: positions of a row whose logits exist at a time; T must divide by it where it is smaller.

  Returns:
    (logps, logz), float32 [B, T] each.
  """
  B, T, D = hidden_BTD.shape
  head_DV = head_DV.astype(hidden_BTD.dtype)

  def one_chunk(hidden_BCD, targets_BC):
    logits = jnp.einsum('bcd,dv->bcv', hidden_BCD, head_DV, preferred_element_type=jnp.float32)
    logits = sharding.constrain(logits, 'batch', 'sequence', 'vocab')
    logz = jax.nn.logsumexp(logits, axis=-1)
    # A masked sum, not a gather: the vocabulary may be split over the tensor axis.
    hit = jax.lax.broadcasted_iota(jnp.int32, logits.shape, 2) == targets_BC[..., None]
    return jnp.sum(jnp.where(hit, logits, 0), axis=-1) - logz, logz

  if chunk >= T:
    return one_chunk(hidden_BTD, targets_BT)
  if T % chunk:
    raise ValueError(f'cross_entropy: {T} positions do not divide by chunk {chunk}')
  n = T // chunk
  step = jax.checkpoint(lambda _, xs: (None, one_chunk(*xs)))
  strided = lambda x: jnp.moveaxis(x.reshape(B, chunk, n, *x.shape[2:]), 2, 0)
  _, outs = jax.lax.scan(step, None, (strided(hidden_BTD), strided(targets_BT)))
  return tuple(jnp.moveaxis(out, 0, 2).reshape(B, T) for out in outs)
