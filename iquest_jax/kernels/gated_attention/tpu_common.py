"""What the forward and the backward kernel for TPUs share.

Legend: B batch, T query positions, S key positions, H query heads, G key/value heads, R = H / G, K head size, N pairs of
blocks (block_pairs.py).
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
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
    seen: share of the pairs that is visible if a row is one document, for the cost that a kernel declares: half of a causal
      row, and also of a zigzag part of it against the whole.
    resident_bytes: vector memory for dq, float32, of the heads that share a key/value head; longer rows are split.
  """

  block_q: int = 512
  block_k: int = 1024
  chunk: int = 512
  interpret: object = False
  seen: float = 0.5
  resident_bytes: int = 40 * 2**20

  def fitted(self, T: int, S: int) -> 'Options':
    """Blocks no longer than the rows."""
    up = lambda length: -(-length // LANES) * LANES
    block_k = min(self.block_k, up(S))
    chunk = self.chunk if block_k % self.chunk == 0 else LANES
    return self._replace(block_q=min(self.block_q, up(T)), block_k=block_k, chunk=chunk)


DEFAULT = Options()


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
