"""What the forward and the backward kernel for TPUs share.

Legend: B batch, T query positions, S key positions, H query heads, G key/value heads, R = H / G, K head size, N pairs of
blocks (block_pairs.py), W rows of halo.
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
# Of the 64 MiB (v5p) to 128 MiB (v5e, v6e) of vector memory; the compiler would grant 16.
VMEM_BYTES = 60 * 2**20
# Powers of two are what the hardware has an instruction for.
LOG2_E = math.log2(math.e)


class Options(NamedTuple):
  """How a kernel runs; tests interpret small blocks.

  block_q, block_k: rows of a block, multiples of 128. chunk: keys whose scores are held at once.
  interpret: False on a TPU; True, or pltpu.InterpretParams, elsewhere.
  seen: share of the pairs that are visible if a row is one document, for the cost that a kernel declares: a half of a
    causal row, also of a zigzag part of it against the whole.
  """

  block_q: int = 512
  block_k: int = 1024
  chunk: int = 512
  interpret: object = False
  seen: float = 0.5

  def fitted(self, T: int, S: int) -> 'Options':
    """Blocks no longer than the rows."""
    up = lambda length: -(-length // LANES) * LANES
    block_k = min(self.block_k, up(S))
    chunk = self.chunk if block_k % self.chunk == 0 else LANES
    return self._replace(block_q=min(self.block_q, up(T)), block_k=block_k, chunk=chunk)


DEFAULT = Options()


def dot(a, b, contract):
  """a . b over dimensions `contract` of each, in float32; float32 operands keep all their bits."""
  precision = jax.lax.Precision.HIGHEST if a.dtype == jnp.float32 else jax.lax.Precision.DEFAULT
  return jax.lax.dot_general(
      a, b, (((contract[0],), (contract[1],)), ((), ())), precision=precision, preferred_element_type=jnp.float32
  )


def widen(x, width):
  """[rows, width] of [rows, 128] whose lanes are all equal."""
  return x[:, :width] if width <= LANES else jnp.tile(x, (1, width // LANES))


def column(row):
  """[n, 128], every lane equal, of [1, n]."""
  return jnp.transpose(jnp.broadcast_to(row, (LANES, row.shape[1])))


def visible(work, q_segments, q_positions, k_segments, k_positions, window):
  """bool, or None where everything is visible; ids broadcast against each other."""
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
