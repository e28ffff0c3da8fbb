"""Gated attention, forward and backward, against two calls of a library's attention, mixed by the gate.

Rows have one document, since the library functions know no segments.
"""

import functools
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp

from iquest_jax.bench.machine import median_seconds
from iquest_jax.kernels import gated_attention as kernels


def results() -> Iterator[dict]:
  """Three row lengths at the width of the 40b model; on a CPU one short row of eight heads."""
  if jax.default_backend() == 'cpu':
    yield measure(T=4096, heads=(8, 8), dtype='float32', repeats=3, libraries=_libraries())
    return
  for T in (4096, 8192, 32768):
    yield measure(T, heads=(40, 8), dtype='bfloat16', repeats=10, libraries=_libraries())


def measure(T: int, heads: tuple[int, int], dtype: str, repeats: int, libraries: dict[str, Callable]) -> dict:
  """Times one row of T positions with `heads` = (H, G), query and key/value heads.

  FLOPs are those of visible pairs, the backward pass counted as 2.5 forward passes. `libraries` are attention functions
  that take is_causal and local_window_size, by name.
  """
  (H, G), K, window = heads, 128, 64
  ids = kernels.Ids(jnp.ones((1, T), jnp.int32), jnp.arange(T, dtype=jnp.int32)[None])
  shapes = [(1, T, n, K) for n in (H, G, G, G, G, H)]
  *args, d_out = (jax.random.normal(jax.random.key(i), shape, dtype) for i, shape in enumerate(shapes))
  args.append(jax.random.normal(jax.random.key(len(shapes)), (1, T, H)))

  def milliseconds(gated) -> float:
    @jax.jit
    def both(args):
      out, pull = jax.vjp(gated, *args)
      return out, pull(d_out)

    return round(1e3 * median_seconds(lambda: jax.block_until_ready(both(args)), repeats), 3)

  def fused(q, k1, v1, k2, v2, logits):
    return kernels.gated_attention(q, ids, kernels.Keys(k1, v1, ids), kernels.Keys(k2, v2, ids), logits, window)

  ours = milliseconds(fused)
  theirs = {}
  for name, attend in libraries.items():

    def mixed(q, k1, v1, k2, v2, logits, attend=attend):
      gate = jax.nn.sigmoid(logits)[..., None]
      near = attend(q, k2, v2, is_causal=True, local_window_size=(window - 1, 0))
      return (gate * attend(q, k1, v1, is_causal=True) + (1 - gate) * near).astype(q.dtype)

    try:
      theirs[name] = milliseconds(mixed)
    except Exception as error:  # every library has its own way to say that it cannot run here
      theirs[name] = f'{type(error).__name__}: {error}'.partition('\n')[0][:200]
  pairs = T * (T + 1) // 2 + T * window - window * (window - 1) // 2
  measured = [time for time in theirs.values() if isinstance(time, float)]
  return {
      'tokens': T,
      'heads': f'{H}/{G}',
      'head_dim': K,
      'dtype': dtype,
      'milliseconds': ours,
      'tflops_per_second': round(3.5 * 4 * K * H * pairs / ours / 1e9, 2),
      'two_calls_and_mix_milliseconds': theirs,
      'time_over_best_two_calls': round(ours / min(measured), 3) if measured else None,
  }


def _libraries() -> dict[str, Callable]:
  if jax.default_backend() == 'cpu':
    return {'jax.nn': jax.nn.dot_product_attention}
  libraries = {'cudnn': functools.partial(jax.nn.dot_product_attention, implementation='cudnn')}
  try:
    import tokamax
  except ImportError:
    return libraries
  return libraries | {'tokamax': functools.partial(tokamax.dot_product_attention, implementation='mosaic')}
