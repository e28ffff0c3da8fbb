"""The one batch type every stage trains on. B rows, T positions."""

import flax.struct
import jax


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
