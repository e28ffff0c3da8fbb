"""tokamax's attention on a CPU: its own forward operation in plain XLA, and what its gradient kernels compute.

Its mask class and argument binding are the real ones. Its own plain gradient is not used, because it computes the
statistics and delta itself; the kernels take them from their arguments, and gpu.py relies on that.
"""

import jax.numpy as jnp
from absl import flags
from tokamax._src.ops.attention import base

from iquest_jax.kernels.gated_attention import gpu

# tokamax would parse the command line of pytest.
flags.FLAGS.mark_as_parsed()


def backward(residuals, out, d_out, q, k, v, *, mask, logits_scale, **options):
  """Like pallas_mosaic_gpu_vjp: p from the given (maximum, sum), delta = sum(out * d_out), dk and dv summed over heads."""
  unused = ('bias', 'logits_soft_cap', 'dropout_mask', 'q_indices', 'k_indices')
  assert all(options[name] is None for name in unused)
  assert d_out.dtype == q.dtype == k.dtype == v.dtype and out.dtype == jnp.float32
  top, total = residuals
  dtype, repeats = q.dtype, q.shape[2] // k.shape[2]
  einsum = lambda *args: jnp.einsum(*args, preferred_element_type=jnp.float32)
  spread = lambda x: jnp.repeat(x, repeats, axis=2)
  scores = einsum('bthk,bshk->bhts', q, spread(k)) * logits_scale
  scores = jnp.where(mask.as_array(q.shape[1], k.shape[1]), scores, jnp.finfo(jnp.float32).min)
  p = jnp.exp(scores - top[..., None]) / (total + jnp.finfo(jnp.float32).tiny)[..., None]
  delta = einsum('bthk,bthk->bht', out, d_out)
  ds = p * (einsum('bthk,bshk->bhts', d_out, spread(v)) - delta[..., None])
  p, ds = p.astype(dtype), ds.astype(dtype)
  gather = lambda x: x.astype(dtype).reshape(*k.shape[:3], repeats, -1).sum(axis=3)
  return {
      'q': (einsum('bhts,bshk->bthk', ds, spread(k)) * logits_scale).astype(dtype),
      'k': gather(einsum('bhts,bthk->bshk', ds, q) * logits_scale),
      'v': gather(einsum('bhts,bthk->bshk', p, d_out)),
      'bias': None,
  }


LIBRARY = gpu.Library(base.DotProductAttention(), backward, base.Mask)
