"""Attention of new tokens over a cache and over themselves; reference.py defines it, and TPUs run it as tpu.py."""

from iquest_jax.kernels.decode_attention import reference
from iquest_jax.kernels.gated_attention import Keys
from iquest_jax.kernels.platform import target

__all__ = ['attention', 'gated_attention']


def attention(q_BTHK, own: Keys, past: Keys, layer):
  """reference.attention."""
  return _implementation().attention(q_BTHK, own, past, layer)


def gated_attention(
    q_BTHK, far: Keys, near: Keys, past_far: Keys, past_near: Keys, layer, gate_logits_BTH, window: int
):
  """reference.gated_attention."""
  return _implementation().gated_attention(q_BTHK, far, near, past_far, past_near, layer, gate_logits_BTH, window)


def _implementation():
  """Imported on first use, like those of gated_attention; the platform is the one that is compiled for."""
  if target() == 'tpu':
    from iquest_jax.kernels.decode_attention import tpu

    return tpu
  return reference
