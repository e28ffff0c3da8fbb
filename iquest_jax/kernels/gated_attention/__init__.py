"""Attention over one stream (dense, first pass) or two streams mixed by a gate (later passes of the loop).

Each function is defined in reference.py and runs as tpu.py, gpu.py or cpu.py, depending on the platform that is compiled
for. `attention` and `gated_attention` name their output 'attention_output' for remat policies.
"""

import functools

from iquest_jax.kernels.gated_attention import cpu, reference
from iquest_jax.kernels.gated_attention.reference import Ids, Keys, join
from iquest_jax.kernels.platform import kernels_for, target

__all__ = [
    'Ids', 'Keys', 'attention', 'attention_backward', 'attention_with_lse', 'gated_attention', 'join', 'kernels_for',
]  # fmt: skip


def _implementation():
  # Imported on first use: importing Pallas takes longer than printing the help of a command.
  if target() == 'tpu':
    from iquest_jax.kernels.gated_attention import tpu

    return tpu
  if target() == 'gpu':
    from iquest_jax.kernels.gated_attention import gpu

    return gpu
  return cpu


def _of_platform(function):
  """The function of the same name in the implementation for the platform that is compiled for."""

  @functools.wraps(function)
  def run(*args, **kwargs):
    return getattr(_implementation(), function.__name__)(*args, **kwargs)

  return run


attention = _of_platform(reference.attention)
attention_with_lse = _of_platform(reference.attention_with_lse)
attention_backward = _of_platform(reference.attention_backward)
gated_attention = _of_platform(reference.gated_attention)
