"""Attention over one stream (dense, first pass) or two streams mixed by a gate (later passes of the loop).

Each function is defined in reference.py and runs as tpu.py, gpu.py or reference.py, depending on the platform that is
compiled for. `attention` and `gated_attention` name their output 'attention_output' for remat policies.
"""

import contextlib
import contextvars

import jax

from iquest_jax.kernels.gated_attention import reference
from iquest_jax.kernels.gated_attention.reference import MASKED, Ids, Keys, join

__all__ = [
    'MASKED', 'Ids', 'Keys', 'attention', 'attention_backward', 'attention_with_lse', 'gated_attention', 'join',
    'kernels_for',
]  # fmt: skip

_target = contextvars.ContextVar('target', default=None)


@contextlib.contextmanager
def kernels_for(platform: str):
  """Traces inside this context compile for 'tpu', 'gpu' or 'cpu', whatever the process runs on: ahead-of-time compilation.

  A function that was already traced for another target keeps its kernels, because jax.jit does not see the difference.
  """
  token = _target.set(platform)
  try:
    yield
  finally:
    _target.reset(token)


def _implementation():
  # Imported on first use: importing Pallas takes longer than printing the help of a command.
  platform = _target.get() or jax.default_backend()
  if platform == 'tpu':
    from iquest_jax.kernels.gated_attention import tpu

    return tpu
  if platform in ('gpu', 'cuda', 'rocm'):
    from iquest_jax.kernels.gated_attention import gpu

    return gpu
  return reference


def attention(q_BTHK, q_ids: Ids, keys: Keys, window: int | None = None):
  """reference.attention."""
  return _implementation().attention(q_BTHK, q_ids, keys, window)


def attention_with_lse(q_BTHK, q_ids: Ids, keys: Keys, window: int | None = None):
  """reference.attention_with_lse; only the reference differentiates it, kernels need `attention_backward`."""
  return _implementation().attention_with_lse(q_BTHK, q_ids, keys, window)


def attention_backward(q_BTHK, q_ids: Ids, keys: Keys, d_out_BTHK, lse_BTH, delta_BTH, window: int | None = None):
  """reference.attention_backward."""
  return _implementation().attention_backward(q_BTHK, q_ids, keys, d_out_BTHK, lse_BTH, delta_BTH, window)


def gated_attention(
    q_BTHK, q_ids: Ids, far: Keys, near: Keys, gate_logits_BTH, window: int, before: Keys | None = None
):
  """reference.gated_attention."""
  return _implementation().gated_attention(q_BTHK, q_ids, far, near, gate_logits_BTH, window, before)
