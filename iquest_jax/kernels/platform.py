"""The platform that kernels are compiled for."""

import contextlib
import contextvars

import jax

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


def target() -> str:
  """'tpu', 'gpu' or 'cpu'."""
  platform = _target.get() or jax.default_backend()
  return 'gpu' if platform in ('cuda', 'rocm') else platform
