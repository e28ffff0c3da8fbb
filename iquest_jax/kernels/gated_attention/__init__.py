"""Attention over one stream (dense, first pass) or two streams mixed by a gate (later passes of the loop).

Each function is defined in reference.py and runs as tpu.py, gpu.py or cpu.py, depending on the platform that is compiled
for. `attention` and `gated_attention` name their output 'attention_output' for remat policies.
"""

import contextlib
import contextvars
import functools

import jax

from iquest_jax.kernels.gated_attention import cpu, reference
from iquest_jax.kernels.gated_attention.reference import Ids, Keys, join

__all__ = [
    'Ids', 'Keys', 'attention', 'attention_backward', 'attention_with_lse', 'gated_attention', 'join', 'kernels_for',
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
