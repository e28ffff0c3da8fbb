"""Re-entry into a later pass of the loop, and what is measured there. Legend: B batch, T positions, D model width."""

import jax
import jax.numpy as jnp

# LoopCoder-v2 (arXiv 2606.18023): weights of the embedding and of the normalised hidden state at re-entry.
RESCALED_EMBEDDING = 0.707
RESCALED_HIDDEN = 0.053


def scale_gradient(x, scale):
  """The identity in the forward pass; the backward pass multiplies the gradient by `scale`."""
  if scale == 1.0:
    return x
  still = jax.lax.stop_gradient(x)
  return still + scale * (x - still)


def reenter(variant, hidden_BTD, embedded_BTD, norm, gradient_scale):
  """Input of the next pass, [B, T, D].

  'released' passes the last hidden state on unchanged: no embedding added, no shift, no norm between passes. 'rescaled'
  mixes the embedding with the hidden state after the model's final norm.
  """
  hidden_BTD = scale_gradient(hidden_BTD, gradient_scale)
  if variant == 'released':
    return hidden_BTD
  return RESCALED_EMBEDDING * embedded_BTD + RESCALED_HIDDEN * norm(hidden_BTD)


def relative_change(before_BTD, after_BTD, segment_ids):
  """Norm of the change by a pass over the norm of its input, without padding; float32 scalar without gradient."""
  real = (segment_ids != 0)[..., None]
  square = lambda x: jnp.sum(jnp.where(real, jnp.square(x.astype(jnp.float32)), 0))
  change = square(after_BTD.astype(jnp.float32) - before_BTD.astype(jnp.float32))
  return jax.lax.stop_gradient(jnp.sqrt(change / jnp.maximum(square(before_BTD), 1e-30)))
