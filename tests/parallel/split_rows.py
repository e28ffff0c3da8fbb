"""Attention of split rows and of the same rows on one device, and the difference between the two.

Rows of T 64 in four layouts: one document; boundaries inside every halo; boundaries exactly at the edge of every chunk;
documents of any length with padding at the end. The halo has 8 rows, so that chunks are longer (context 2), as long (4) and
shorter (8) than the halo.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np

from iquest_jax import sharding
from iquest_jax.batch import zigzag
from iquest_jax.kernels import gated_attention as kernels
from iquest_jax.kernels.gated_attention import Ids, Keys
from iquest_jax.parallel import context

T, H, G, K = 64, 4, 2, 8
HALO = 8
WINDOW = {1: 9, 2: 9, 4: 9, 8: 5}
LAYOUTS = ('one document', 'boundary in every halo', 'boundary at every edge', 'any lengths and padding')
GRADIENTS = ('q', 'k1', 'v1', 'k2', 'v2', 'gate logits')
NAMES = ('gated', *(f'gated d {name}' for name in GRADIENTS), 'dense', *(f'dense d {name}' for name in GRADIENTS[:3]))


def mesh_of(**axes):
  """A mesh over the first devices, with size 1 for axes that are not named."""
  shape = dict.fromkeys(sharding.AXES, 1) | axes
  return sharding.make_mesh(shape, jax.devices()[: int(np.prod(list(shape.values())))])


def ids_of(lengths) -> tuple[np.ndarray, np.ndarray]:
  """Segment ids and positions of a row of documents; the rest is padding."""
  segments, positions = np.zeros(T, np.int32), np.zeros(T, np.int32)
  for segment, (end, length) in enumerate(zip(itertools.accumulate(lengths), lengths), start=1):
    segments[end - length : end], positions[end - length : end] = segment, np.arange(length)
  return segments, positions


def layouts(ways) -> Ids:
  """[4, T] in natural order, with boundaries where a row over `ways` devices has its chunks."""
  chunk = T // (2 * ways)
  inside = [chunk - 2, *[chunk] * (2 * ways - 1), 2]
  rows = [ids_of(lengths) for lengths in ([T], inside, [chunk] * 2 * ways, [3, 19, 1, 12, 16, 7])]
  return Ids(*map(np.stack, zip(*rows)))


def arrays(seed=0):
  """(q, k1, v1, k2, v2, gate logits) and the gradient of the output, of four rows."""
  rng = np.random.default_rng(seed)
  draw = lambda *shape: rng.standard_normal((4, T, *shape), np.float32)
  return [draw(H, K), *(draw(G, K) for _ in range(4)), draw(H)], draw(H, K)


def both(gated, dense, ids: Ids, order, mesh=None, dtype=jnp.float32):
  """Outputs and gradients of the gated and the dense attention, by NAMES and in natural order."""
  (args, d_out), ids = arrays(), Ids(*(x[:, order] for x in ids))
  args, d_out = [x[:, order].astype(dtype) for x in args], d_out[:, order].astype(dtype)
  args[-1] = args[-1].astype(jnp.float32)

  @jax.jit
  def run(args, d_out, ids):
    out, pull = jax.vjp(lambda *args: gated(*args, ids), *args)
    dense_out, dense_pull = jax.vjp(lambda *args: dense(*args, ids), *args[:3])
    return out, *pull(d_out), dense_out, *dense_pull(d_out)

  if mesh is None:
    values = run(args, d_out, ids)
  else:
    with jax.set_mesh(mesh):
      values = run(args, d_out, ids)
  return {name: np.float32(value)[:, np.argsort(order)] for name, value in zip(NAMES, values, strict=True)}


@functools.cache
def whole(ways):
  """`both` on one device, by the kernels."""

  def gated(q, k1, v1, k2, v2, logits, ids):
    return kernels.gated_attention(q, ids, Keys(k1, v1, ids), Keys(k2, v2, ids), logits, WINDOW[ways])

  return both(
      gated,
      lambda q, k, v, ids: kernels.attention(q, ids, Keys(k, v, ids)),
      layouts(ways),
      np.arange(T),
  )


def split(ways, transport, dtype=jnp.float32, **axes):
  """`both` with rows split over `ways` devices of the context axis."""

  def gated(q, k1, v1, k2, v2, logits, ids):
    return context.gated_attention(q, Keys(k1, v1, ids), Keys(k2, v2, ids), logits, WINDOW[ways], transport, HALO)

  return both(
      gated,
      lambda q, k, v, ids: context.attention(q, Keys(k, v, ids), transport),
      layouts(ways),
      zigzag(T, ways),
      mesh_of(context=ways, **axes),
      dtype,
  )


def differences(left, right):
  """Largest difference of each value and row, relative to the value's largest entry: {name: [4]}."""
  largest = lambda x: np.abs(x).max(axis=tuple(range(1, x.ndim)))
  return {name: largest(left[name] - right[name]) / np.abs(left[name]).max() for name in left}


def assert_same(left, right):
  for name, by_row in differences(left, right).items():
    for layout, difference in zip(LAYOUTS, by_row):
      assert difference < 1e-5, f'{name}, {layout}: {difference:.1e}'
