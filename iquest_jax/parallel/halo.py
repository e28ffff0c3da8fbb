"""The halo: rows that the local stream takes from neighbouring devices. Everything here runs inside a shard_map."""

import jax

from iquest_jax.kernels.gated_attention import Keys, join
from iquest_jax.sharding import CONTEXT

# The most rows that a chunk takes from the chunk before: what a block of the TPU kernel's local stream looks back at.
ROWS = 128


def before_chunks(near: Keys, most: int) -> Keys:
  """The rows before each of this device's two chunks, from the devices that hold the chunks before.

  Chunk r follows the early chunk of device r - 1, and chunk 2n - 1 - r the late chunk of device r + 1. Chunk 0 has no
  predecessor. Chunk n follows chunk n - 1, which its own device holds and sees already; both get a masked halo (segment 0),
  because keys that came twice would count twice.

  Args:
    near: keys of this device, [B, T, ...].
    most: rows per chunk; a whole chunk if chunks are shorter.

  Returns:
    Keys [B, 2 W, ...] with W = min(most, T / 2): the rows before the early chunk, then those before the late chunk.
  """
  half, ways = near.k.shape[1] // 2, jax.lax.axis_size(CONTEXT)
  rows = min(most, half)
  early = jax.tree.map(lambda x: x[:, half - rows : half], near)
  late = jax.tree.map(lambda x: x[:, -rows:], near)
  # A device that receives from nobody gets zeros, which are a masked halo.
  before_early = jax.lax.ppermute(early, CONTEXT, [(r, r + 1) for r in range(ways - 1)])
  before_late = jax.lax.ppermute(late, CONTEXT, [(r + 1, r) for r in range(ways - 1)])
  return join(before_early, before_late)
