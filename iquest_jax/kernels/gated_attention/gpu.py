"""Attention on GPUs: the reference, until a library kernel can say what the rows need.

Rows hold several documents, so a kernel must take either segment ids or a first visible key per query. As of jax 0.10 to
0.12, `jax.nn.dot_product_attention` (cuDNN) takes neither. tokamax 0.0.12 has such kernels, but its public
`dot_product_attention` takes only lengths, one window for all, or a mask of T x S, which does not fit a long row.
"""

import functools
import importlib.metadata
import logging

from iquest_jax.kernels.gated_attention import reference

log = logging.getLogger(__name__)


@functools.cache
def _say_why() -> None:
  try:
    library = f'tokamax {importlib.metadata.version("tokamax")} has no public way to give each query its first key'
  except importlib.metadata.PackageNotFoundError:
    library = 'tokamax is not installed'
  log.warning(
      'attention on this GPU runs as plain JAX, slower than a kernel: rows hold several documents, '
      'jax.nn.dot_product_attention takes no segment ids, and %s',
      library,
  )


def _logged(function):
  @functools.wraps(function)
  def run(*args, **kwargs):
    _say_why()
    return function(*args, **kwargs)

  return run


attention = _logged(reference.attention)
attention_with_lse = _logged(reference.attention_with_lse)
attention_backward = _logged(reference.attention_backward)
gated_attention = _logged(reference.gated_attention)
