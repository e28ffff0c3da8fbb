"""Attention and its gradients in float64 NumPy, straight from the definition; and rows to try kernels on.

Legend: B batch, T query positions, S key positions, H query heads, G key/value heads, R = H / G, K head size.
"""

from typing import NamedTuple

import numpy as np

from iquest_jax.kernels.gated_attention import Halo, Ids


class Stream(NamedTuple):
  """One softmax: its output [B, T, H, K] and log-sum [B, T, H], and `pull(d_out) -> (dq, dk, dv)`."""

  out: np.ndarray
  lse: np.ndarray
  pull: object


def stream(q, k, v, q_ids, k_ids, window=None) -> Stream:
  q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
  B, T, H, K = q.shape
  G, R = k.shape[2], H // k.shape[2]
  spread = lambda x: np.repeat(x, R, axis=2)
  gather = lambda x: x.reshape(B, -1, G, R, K).sum(axis=3)
  age = np.asarray(q_ids.positions)[:, :, None] - np.asarray(k_ids.positions)[:, None, :]
  segments = np.asarray(q_ids.segment_ids)[:, :, None]
  seen = (segments == np.asarray(k_ids.segment_ids)[:, None, :]) & (segments != 0) & (age >= 0)
  seen = (seen if window is None else seen & (age < window))[:, None]
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
  """(out, gradients of q, k1, v1, k2, v2, gate logits and, where there is one, of the halo's keys and values)."""
  d_out = np.asarray(d_out, np.float64)
  k2, v2, k2_ids, before = row.k2, row.v2, row.ids, 0
  if row.halo is not None:
    join = lambda a, b: np.concatenate([np.asarray(a), np.asarray(b)], axis=1)
    k2, v2 = join(row.halo.k, k2), join(row.halo.v, v2)
    k2_ids, before = Ids(*map(join, row.halo.ids, row.ids)), row.halo.k.shape[1]
  far = stream(row.q, row.k1, row.v1, row.ids, row.k1_ids)
  near = stream(row.q, k2, v2, row.ids, k2_ids, row.window)
  g = (1 / (1 + np.exp(-np.asarray(row.logits, np.float64))))[..., None]
  dq1, dk1, dv1 = far.pull(g * d_out)
  dq2, dk2, dv2 = near.pull((1 - g) * d_out)
  d_logits = ((far.out - near.out) * d_out * g * (1 - g)).sum(-1)
  grads = (dq1 + dq2, dk1, dv1, dk2[:, before:], dv2[:, before:], d_logits)
  if row.halo is not None:
    grads += (dk2[:, :before], dv2[:, :before])
  return g * far.out + (1 - g) * near.out, grads


class Row(NamedTuple):
  """Arguments of gated_attention."""

  q: np.ndarray
  k1: np.ndarray
  v1: np.ndarray
  k2: np.ndarray
  v2: np.ndarray
  logits: np.ndarray
  ids: Ids
  k1_ids: Ids
  window: int
  halo: Halo | None


# Lengths of documents; what is left of the row is padding. 'edge' has a boundary among the 128 rows before a block of 128
# queries, and one at a block's edge.
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
  """A row of normal numbers; with `device` of 2, that device's part of it in zigzag order, with keys of all devices."""
  H, G = heads
  generator = np.random.default_rng(seed)
  normal = lambda *shape: generator.standard_normal((1, T, *shape)).astype(np.float32)
  ids = ids_of(DOCUMENTS[documents](T), T)
  whole = Row(
      normal(H, K), normal(G, K), normal(G, K), normal(G, K), normal(G, K), 2 * normal(H), ids, ids, window, None
  )
  if device is None:
    return whole
  length = T // 4
  chunk = lambda x, i: x[:, i * length : (i + 1) * length]
  take = lambda x, chunks: np.concatenate([chunk(x, i) for i in chunks], axis=1)
  mine = [device, 3 - device]
  parts = [take(x, mine) for x in (whole.q, whole.k2, whole.v2, whole.logits, *ids)]
  rows = min(128, length)

  def before(x):
    """The rows before each chunk; zeros before the first, and where this device holds the chunk before itself."""
    pad = np.concatenate([np.zeros_like(x[:, :rows]), x], axis=1)
    masked = [i == 0 or i - 1 in mine for i in mine]
    return np.concatenate([pad[:, i * length : i * length + rows] * (not m) for i, m in zip(mine, masked)], axis=1)

  halo = Halo(before(whole.k2), before(whole.v2), Ids(*map(before, ids)))
  k1, v1, *k1_ids = (take(x, [0, 3, 1, 2]) for x in (whole.k1, whole.v1, *ids))
  q, k2, v2, logits, *own = parts
  return Row(q, k1, v1, k2, v2, logits, Ids(*own), Ids(*k1_ids), window, halo)
