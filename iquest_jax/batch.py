"""The one batch type every stage trains on. B rows, T positions."""

import flax.struct
import jax
import numpy as np


@flax.struct.dataclass
class Batch:
  """Packed rows with everything a step needs.

  The model sees `tokens`, `segment_ids` and `positions` only; which keys a query sees follows from the latter two: a key
  is visible iff it has the same non-zero segment and 0 <= position_q - position_k (< window). Array index never means
  time, so that rows may be permuted for a context axis.

  Attributes:
    tokens: int32 [B, T].
    targets: int32 [B, T], the token that follows in the same document; 0 where none does.
    loss_weights: float32 [B, T], weight of predicting `targets`; 0 on padding and at the end of a document.
    segment_ids: int32 [B, T], unique per document in a row, 0 is padding.
    positions: int32 [B, T], restart at 0 with each document.
    source_ids: int32 [B], index into the stage's sorted source names; a row has one source.
  """

  tokens: jax.Array
  targets: jax.Array
  loss_weights: jax.Array
  segment_ids: jax.Array
  positions: jax.Array
  source_ids: jax.Array


def zigzag(length: int, ways: int) -> np.ndarray:
  """The order in which a row lies over a context axis: int32 [length], the natural index of each place.

  A row is cut into 2 * ways chunks and device r holds chunks r and 2 * ways - 1 - r, an early one and a late one, so that
  causal work is the same on every device. The identity for one device; `np.argsort` of the order leads back.

  Args:
    length: T, a multiple of 2 * ways where ways > 1.
    ways: devices of the context axis.
  """
  order = np.arange(length, dtype=np.int32)
  if ways == 1:
    return order
  chunks = order.reshape(2 * ways, -1)
  return np.stack([chunks[:ways], chunks[: ways - 1 : -1]], axis=1).reshape(length)
