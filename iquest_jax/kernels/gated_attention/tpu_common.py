"""What the forward and the backward kernel for TPUs share.

Legend: B batch, T query positions, S key positions, H query heads, G key/value heads, R = H / G, K head size, N pairs of
blocks (block_pairs.py).
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.pallas import tpu as pltpu

from iquest_jax.kernels.gated_attention import block_pairs
from iquest_jax.kernels.gated_attention.reference import MASKED

LANES = 128
# Rows before a block of queries that the local stream sees: one tile of lanes, so that 128 queries see 2 x 128 keys.
HALO = LANES
# Chips have 64 MiB (v5p) to 128 MiB (v5e, v6e) of vector memory; the compiler's own limit is 16 MiB.
VMEM_BYTES = 60 * 2**20
# The hardware has an instruction for powers of two.
LOG2_E = math.log2(math.e)


class Options(NamedTuple):
  """How a kernel runs; tests interpret small blocks.

  Attributes:
    block_q, block_k: rows per block, multiples of 128.
    chunk: keys whose scores are held at once.
    interpret: False on a TPU; True, or pltpu.InterpretParams, elsewhere.
    part: whether the keys are another part of the row, which the queries see in full; for the cost that a kernel declares.
    resident_bytes: vector memory for dq, float32, of the heads that share a key/value head; longer rows are split.
  """

  block_q: int = 512
  block_k: int = 1024
  chunk: int = 512
  interpret: object = False
  part: bool = False
  resident_bytes: int = 40 * 2**20

  def fitted(self, T: int, S: int) -> 'Options':
    """Blocks no longer than the rows."""
    up = lambda length: -(-length // LANES) * LANES
    block_k = min(self.block_k, up(S))
    chunk = self.chunk if block_k % self.chunk == 0 else LANES
    return self._replace(block_q=min(self.block_q, up(T)), block_k=block_k, chunk=chunk)


DEFAULT = Options()


def scores_of_a_document(T: int, S: int, chunks: int, window: int | None, options: Options) -> int:
  """Scores of the stream of S keys that a kernel computes per head if the row is one document, the most a row can cost.

  A pair of blocks that is visible in part is computed in full. If there are more keys than queries, the queries are two
  chunks of a zigzag row (batch.zigzag). The keys are then those of the whole row or, with a window, as many rows before
  each chunk as are left over, then those of the queries.

  Args:
    T, S: queries and keys, without padding.
    chunks: parts of the queries that are padded to whole blocks.
    window: keys that a query sees; None if all before it.
    options: fitted to the rows.
  """
  block_q, block_k = options.block_q, options.block_k
  if options.part:
    return -(-T // block_q) * block_q * -(-S // block_k) * block_k
  ways = max(1, S // T) if window is None or S == T else 2
  chunk = lambda n: np.arange(n * T // 2, (n + 1) * T // 2)
  q = np.concatenate([chunk(0), chunk(2 * ways - 1)])
  before = (S - T) // 2 if window is not None else 0
  parts = range(1 if window is not None else ways)
  halo = [start - before + np.arange(before) for start in (q[0], q[T // 2])]
  k = np.concatenate(halo + [chunk(n) for r in parts for n in (r, 2 * ways - 1 - r)])
  # Padding repeats the last position, which changes no comparison.
  in_blocks = lambda x, block: np.pad(x, [(0, 0), (0, -x.shape[1] % block)], 'edge').reshape(-1, block)
  q, k = in_blocks(q.reshape(chunks, -1), block_q)[:, None], in_blocks(k[None], block_k)
  computed = k.min(-1) <= q.max(-1)
  if window is not None:
    computed &= q.min(-1) - k.max(-1) < window
  return int(computed.sum()) * block_q * block_k


class Near(NamedTuple):
  """The local stream in the layout of the kernels: rows in whole blocks, heads before rows.

  Attributes:
    logits: of the gate, float32 [B, H, 1, T].
    lse: log of the softmax sum, float32 [B, H, 1, T]; None until the forward kernel has computed it.
    k, v: the queries' own rows, [B, G, T, K].
    halo_k, halo_v: the HALO rows before each block of queries, [B, G, T / block_q * HALO, K].
    ids: segments and positions of halo and own rows per block, int32 [B, T / block_q, 2, HALO + block_q].
  """

  logits: jax.Array
  lse: jax.Array | None
  k: jax.Array
  v: jax.Array
  halo_k: jax.Array
  halo_v: jax.Array
  ids: jax.Array


def add_to_softmax(scores, values, scale, top, total, acc):
  """Adds a chunk of keys to the online softmax that `top`, `total` and `acc` hold, all float32.

  Args:
    scores: [Q, C], without scale.
    values: [C, K].
    scale: of the scores, times log2(e).
    top: ref [Q, LANES], the largest score so far in every lane.
    total: ref [Q, LANES], sums of the weights; each lane keeps its own, since adding across lanes is expensive.
    acc: ref [Q, K], the weighted sum of the values.
  """
  chunk = scores.shape[1]
  before = top[...]
  now = jnp.maximum(before, jnp.max(scores, axis=1, keepdims=True))
  # Scaling the difference from the maximum costs no more than exp2 does anyway, and rounds nothing to bfloat16.
  p = jnp.exp2((scores - widen(now, chunk)) * scale)
  shrink = jnp.exp2((before - now) * scale)
  top[...] = now
  total[...] = total[...] * shrink + sum(p[:, lane : lane + LANES] for lane in range(0, chunk, LANES))
  acc[...] = acc[...] * widen(shrink, acc.shape[1]) + dot(p.astype(values.dtype), values, (1, 0))


def dot(a, b, contract):
  """Product of a and b over one dimension of each, in float32; float32 operands keep all their bits."""
  precision = jax.lax.Precision.HIGHEST if a.dtype == jnp.float32 else jax.lax.Precision.DEFAULT
  return jax.lax.dot_general(
      a, b, (((contract[0],), (contract[1],)), ((), ())), precision=precision, preferred_element_type=jnp.float32
  )


def widen(x, width):
  """[rows, width] from [rows, 128] whose lanes are all equal."""
  return x[:, :width] if width <= LANES else jnp.tile(x, (1, width // LANES))


def column(row):
  """[n, 128] with equal lanes from [1, n]."""
  return jnp.transpose(jnp.broadcast_to(row, (LANES, row.shape[1])))


def visible(work, q_segments, q_positions, k_segments, k_positions, window):
  """Mask of a pair of blocks, or None if all of it is visible; ids broadcast against each other."""
  if work == block_pairs.ALL:
    return None
  seen = (k_positions <= q_positions) & (q_segments == k_segments)
  if window is not None:
    seen &= q_positions - k_positions < window
  return seen


def hide(scores, seen):
  return scores if seen is None else jnp.where(seen, scores, MASKED)


def compiler_params(*semantics):
  return pltpu.CompilerParams(dimension_semantics=semantics, vmem_limit_bytes=VMEM_BYTES)
