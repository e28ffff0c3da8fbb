"""Re-entry into a later pass of the loop, and what is measured there. Legend: B batch, T positions, D model width."""

import jax
import jax.numpy as jnp

# LoopCoder-v2 (arXiv 2606.18023): weights of the embedding and of the normalised hidden state at re-entry.
RESCALED_EMBEDDING = 0.707
RESCALED_HIDDEN = 0.053


def reenter(variant, hidden_BTD, embedded_BTD, norm, gradient_scale):
  """Input of the next pass, [B, T, D].

  'released' passes the last hidden state on unchanged: no embedding added, no shift, no norm between passes. 'rescaled'
  mixes the embedding with the hidden state after the model's final norm. The gradient of the hidden state is multiplied by
  `gradient_scale`.
  """
  if gradient_scale != 1.0:
    still_BTD = jax.lax.stop_gradient(hidden_BTD)
    hidden_BTD = still_BTD + gradient_scale * (hidden_BTD - still_BTD)
  if variant == 'released':
    return hidden_BTD
  return RESCALED_EMBEDDING * embedded_BTD + RESCALED_HIDDEN * norm(hidden_BTD)


def relative_change(before_BTD, after_BTD, segment_ids):
  """Norm of the change by a pass over the norm of its input, without padding; float32 scalar without gradient."""
  real = (segment_ids != 0)[..., None]
  square = lambda x: jnp.sum(jnp.where(real, jnp.square(x.astype(jnp.float32)), 0))
  change = square(after_BTD.astype(jnp.float32) - before_BTD.astype(jnp.float32))
  return jax.lax.stop_gradient(jnp.sqrt(change / jnp.maximum(square(before_BTD), 1e-30)))
