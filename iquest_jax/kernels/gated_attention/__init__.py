"""Attention over one stream (dense, first pass) or two mixed by a gate (later passes of the loop).

Each function means what reference.py says and runs as tpu.py, gpu.py or reference.py, by the platform that is compiled for.
`attention` and `gated_attention` name their output 'attention_output' for remat policies.
"""

import contextlib
import contextvars

import jax

from iquest_jax.kernels.gated_attention import reference
from iquest_jax.kernels.gated_attention.reference import MASKED, Halo, Ids

__all__ = [
    'MASKED', 'Halo', 'Ids', 'attention', 'attention_backward', 'attention_with_lse', 'gated_attention', 'kernels_for',
]  # fmt: skip

_target = contextvars.ContextVar('target', default=None)


@contextlib.contextmanager
def kernels_for(platform: str):
  """Traces inside compile for 'tpu', 'gpu' or 'cpu', whatever this process runs on: for compilation ahead of time.

  A function that was traced before under another target keeps its kernels: jax.jit does not see the difference.
  """
  token = _target.set(platform)
  try:
    yield
  finally:
    _target.reset(token)


def _implementation():
  # Imported when used: Pallas takes longer to import than a command that prints its help.
  platform = _target.get() or jax.default_backend()
  if platform == 'tpu':
    from iquest_jax.kernels.gated_attention import tpu

    return tpu
  if platform in ('gpu', 'cuda', 'rocm'):
    from iquest_jax.kernels.gated_attention import gpu

    return gpu
  return reference


def attention(q_BTHK, k_BSGK, v_BSGK, q_ids: Ids, k_ids: Ids, window: int | None = None):
  """reference.attention."""
  return _implementation().attention(q_BTHK, k_BSGK, v_BSGK, q_ids, k_ids, window)


def attention_with_lse(q_BTHK, k_BSGK, v_BSGK, q_ids: Ids, k_ids: Ids, window: int | None = None):
  """reference.attention_with_lse; differentiate it through `attention_backward`, kernels cannot do it by themselves."""
  return _implementation().attention_with_lse(q_BTHK, k_BSGK, v_BSGK, q_ids, k_ids, window)


def attention_backward(
    q_BTHK, k_BSGK, v_BSGK, d_out_BTHK, lse_BTH, delta_BTH, q_ids: Ids, k_ids: Ids, window: int | None = None
):
  """reference.attention_backward."""
  return _implementation().attention_backward(
      q_BTHK, k_BSGK, v_BSGK, d_out_BTHK, lse_BTH, delta_BTH, q_ids, k_ids, window
  )


def gated_attention(
    q_BTHK,
    k1_BSGK,
    v1_BSGK,
    k2_BTGK,
    v2_BTGK,
    gate_logits_BTH,
    q_ids: Ids,
    k1_ids: Ids,
    window: int,
    halo: Halo | None = None,
):
  """reference.gated_attention."""
  return _implementation().gated_attention(
      q_BTHK, k1_BSGK, v1_BSGK, k2_BTGK, v2_BTGK, gate_logits_BTH, q_ids, k1_ids, window, halo
  )
