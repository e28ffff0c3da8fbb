"""Attention and its gradients in float64 NumPy, straight from the definition; and example rows.

Legend: B batch, T query positions, S key positions, H query heads, G key/value heads, R = H / G, K head size.
"""

from typing import NamedTuple

import jax
import numpy as np

from iquest_jax.kernels.gated_attention import Ids, Keys
from iquest_jax.kernels.gated_attention.tpu_common import Options

# Rows of 300 are three blocks of queries, the last one incomplete.
INTERPRETED = Options(block_q=128, block_k=256, chunk=128, interpret=True)
NAMES = ('out', 'dq', 'd far k', 'd far v', 'd near k', 'd near v', 'd logits', 'd before k', 'd before v')


def assert_close(names, actual, expected, tolerance):
  """Compares norms; an array whose numbers cancel (a window of one key has dk = 0) is compared at the scale of 0.1."""
  for name, a, e in zip(names, actual, expected, strict=True):
    a = np.asarray(a, np.float64)
    assert np.isfinite(a).all(), name
    assert np.linalg.norm(a - e) <= tolerance * max(np.linalg.norm(e), 0.1 * e.size**0.5), name


class Stream(NamedTuple):
  """One softmax: its output [B, T, H, K] and log-sum [B, T, H], and `pull(d_out) -> (dq, dk, dv)`."""

  out: np.ndarray
  lse: np.ndarray
  pull: object


def visible(q_ids, k_ids, window=None):
  """bool [B, T, S]: same nonzero segment, and the key neither later than the query nor `window` or more before it."""
  age = np.asarray(q_ids.positions)[:, :, None] - np.asarray(k_ids.positions)[:, None, :]
  segments = np.asarray(q_ids.segment_ids)[:, :, None]
  seen = (segments == np.asarray(k_ids.segment_ids)[:, None, :]) & (segments != 0) & (age >= 0)
  return seen if window is None else seen & (age < window)


def stream(q, q_ids, keys: Keys, window=None) -> Stream:
  q, k, v = (np.asarray(x, np.float64) for x in (q, keys.k, keys.v))
  B, T, H, K = q.shape
  G, R = k.shape[2], H // k.shape[2]
  spread = lambda x: np.repeat(x, R, axis=2)
  gather = lambda x: x.reshape(B, -1, G, R, K).sum(axis=3)
  seen = visible(q_ids, keys.ids, window)[:, None]
  scores = np.where(seen, np.einsum('bthk,bshk->bhts', q, spread(k)) / np.sqrt(K), -np.inf)
  top = np.where(seen.any(-1, keepdims=True), scores.max(-1, keepdims=True), 0)
  weights = np.exp(scores - top)
  total = weights.sum(-1, keepdims=True)
  p = weights / np.where(total == 0, 1, total)
  with np.errstate(divide='ignore'):
    lse = (top + np.log(total))[..., 0].transpose(0, 2, 1)

  def pull(d_out):
    dp = np.einsum('bthk,bshk->bhts', d_out, spread(v))
    ds = p * (dp - (p * dp).sum(-1, keepdims=True)) / np.sqrt(K)
    dq = np.einsum('bhts,bshk->bthk', ds, spread(k))
    return dq, gather(np.einsum('bhts,bthk->bshk', ds, q)), gather(np.einsum('bhts,bthk->bshk', p, d_out))

  return Stream(np.einsum('bhts,bshk->bthk', p, spread(v)), lse, pull)


def gated(row, d_out):
  """(out, gradients of q, far k, v, near k, v, gate logits and, if there are rows before, of their keys and values)."""
  d_out = np.asarray(d_out, np.float64)
  near_keys, before = row.near, 0
  if row.before is not None:
    join = lambda *parts: np.concatenate([np.asarray(x) for x in parts], axis=1)
    near_keys = jax.tree.map(join, row.before, row.near)
    before = row.before.k.shape[1]
  far, near = stream(row.q, row.ids, row.far), stream(row.q, row.ids, near_keys, row.window)
  g = (1 / (1 + np.exp(-np.asarray(row.logits, np.float64))))[..., None]
  dq1, dk1, dv1 = far.pull(g * d_out)
  dq2, dk2, dv2 = near.pull((1 - g) * d_out)
  d_logits = ((far.out - near.out) * d_out * g * (1 - g)).sum(-1)
  grads = (dq1 + dq2, dk1, dv1, dk2[:, before:], dv2[:, before:], d_logits)
  if before:
    grads += (dk2[:, :before], dv2[:, :before])
  return g * far.out + (1 - g) * near.out, grads


class Row(NamedTuple):
  """What gated_attention takes."""

  q: np.ndarray
  ids: Ids
  far: Keys
  near: Keys
  logits: np.ndarray
  window: int
  before: Keys | None = None

  @property
  def arrays(self):
    """What is differentiated: (q, far k, v, near k, v, logits) and, if there are rows before, their k, v."""
    before = () if self.before is None else self.before[:2]
    return (self.q, *self.far[:2], *self.near[:2], self.logits, *before)

  def map(self, function, *others):
    """`function` of every array; ids of the same rows stay one object."""
    row = jax.tree.map(lambda *x: function(*x) if isinstance(x[0], np.ndarray) else x[0], self, *others)
    far = row.far if self.far.ids is not self.ids else row.far._replace(ids=row.ids)
    return row._replace(far=far, near=row.near._replace(ids=row.ids))

  def call(self, gated_attention, arrays, **options):
    """gated_attention of this row with other `arrays`."""
    q, far_k, far_v, near_k, near_v, logits, *before = arrays
    before = Keys(*before, self.before.ids) if before else None
    far, near = Keys(far_k, far_v, self.far.ids), Keys(near_k, near_v, self.near.ids)
    return gated_attention(q, self.ids, far, near, logits, self.window, before, **options)


# Lengths of documents; what is left of the row is padding. 'edge' has a boundary among the 128 rows before a block of 128
# queries, and one at the edge of a block.
DOCUMENTS = {
    'one': lambda T: [T],
    'short': lambda T: [1, 7, 30, 64, 2, 3, 90] * (T // 197),
    'edge': lambda T: [100, 156, T - 276],
    'padding': lambda T: [],
}


def ids_of(lengths, T, batch=1) -> Ids:
  segments, positions = np.zeros((batch, T), np.int32), np.zeros((batch, T), np.int32)
  start = 0
  for i, length in enumerate(lengths):
    segments[:, start : start + length] = i + 1
    positions[:, start : start + length] = np.arange(length)
    start += length
  return Ids(segments, positions)


def row(documents, T=300, heads=(5, 1), K=32, window=64, device=None, seed=0) -> Row:
  """A row of normal numbers; with `device` of 2, that device's part of it in zigzag order, and far keys of both devices."""
  H, G = heads
  generator = np.random.default_rng(seed)
  normal = lambda *shape: generator.standard_normal((1, T, *shape)).astype(np.float32)
  ids = ids_of(DOCUMENTS[documents](T), T)
  q, far, near = normal(H, K), Keys(normal(G, K), normal(G, K), ids), Keys(normal(G, K), normal(G, K), ids)
  logits = 2 * normal(H)
  if device is None:
    return Row(q, ids, far, near, logits, window)
  length = T // 4
  take = lambda tree, chunks: jax.tree.map(
      lambda x: np.concatenate([x[:, i * length : (i + 1) * length] for i in chunks], axis=1), tree
  )
  mine = [device, 3 - device]
  rows = min(128, length)

  def before(x):
    """The rows before each chunk; zeros before the first, and if this device holds the chunk before itself."""
    padded = np.concatenate([np.zeros_like(x[:, :rows]), x], axis=1)
    masked = [i == 0 or i - 1 in mine for i in mine]
    return np.concatenate([padded[:, i * length : i * length + rows] * (not m) for i, m in zip(mine, masked)], axis=1)

  own, far = take(near, mine), take(far, [0, 3, 1, 2])
  return Row(take(q, mine), own.ids, far, own, take(logits, mine), window, jax.tree.map(before, near))
