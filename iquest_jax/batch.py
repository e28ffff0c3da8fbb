"""The batch on which every stage trains. Legend: B rows, T positions."""

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np


@flax.struct.dataclass
class Batch:
  """Packed rows with everything that a step needs.

  The model sees only `tokens`, `segment_ids` and `positions`. The latter two decide which keys a query sees: a key is
  visible if and only if it has the same nonzero segment id and 0 <= position_q - position_k (< window). The array index
  never means time, so rows can be permuted for a context axis.

  Attributes:
    tokens: int32 [B, T].
    targets: int32 [B, T], the next token of the same document; 0 if there is none.
    loss_weights: float32 [B, T], weight of predicting `targets`; 0 on padding and at the end of a document.
    segment_ids: int32 [B, T], unique per document in a row; 0 is padding.
    positions: int32 [B, T], starting at 0 in each document.
    source_ids: int32 [B], index into the sorted source names of the stage; all of a row is from one source.
  """

  tokens: jax.Array
  targets: jax.Array
  loss_weights: jax.Array
  segment_ids: jax.Array
  positions: jax.Array
  source_ids: jax.Array

  def weight(self) -> jax.Array:
    """What the sum of losses over the whole batch is divided by, float32."""
    return jnp.sum(self.loss_weights)


def zigzag(length: int, ways: int) -> np.ndarray:
  """The order of a row that is split over a context axis: int32 [length], the natural index at each array index.

  The row is cut into 2 * ways chunks; device r holds chunks r and 2 * ways - 1 - r, an early and a late one, so that causal
  work is the same on every device. For one device the order is the identity; `np.argsort` of the order inverts it.

  Args:
    length: T, a multiple of 2 * ways if ways > 1.
    ways: devices of the context axis.
  """
  order = np.arange(length, dtype=np.int32)
  if ways == 1:
    return order
  chunks = order.reshape(2 * ways, -1)
  return np.stack([chunks[:ways], chunks[: ways - 1 : -1]], axis=1).reshape(length)
