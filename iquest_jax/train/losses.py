"""Next-token loss as (sum, weight) per source; nothing is divided here. Legend: B batch, T positions, S sources."""

import flax.struct
import jax
import jax.numpy as jnp

from iquest_jax.batch import Batch
from iquest_jax.kernels.cross_entropy import target_logps


@flax.struct.dataclass
class LossSums:
  """Sums over tokens, float32. They may be added; whoever reports them divides once, by the global weight.

  Attributes:
    loss_S: weighted cross-entropy in nats, per source.
    z: weighted square of the log-partition.
    weight_S: sum of loss weights, per source.
  """

  loss_S: jax.Array
  z: jax.Array
  weight_S: jax.Array

  def mean(self) -> jax.Array:
    """Cross-entropy per unit of weight over all sources; 0 if the weights sum to 0."""
    return jnp.sum(self.loss_S) / jnp.maximum(jnp.sum(self.weight_S), 1e-9)

  def metrics(self) -> dict[str, jax.Array]:
    """What a step reports of them."""
    return {'loss_S': self.loss_S, 'weight_S': self.weight_S}


def next_token_sums(model, params, batch: Batch, num_sources: int, chunk: int) -> tuple[LossSums, dict]:
  """Loss sums of one (micro-)batch, and the model's diagnostics; logits exist for `chunk` positions per row at a time."""
  hidden_BTD, diagnostics = model.apply({'params': params}, batch.tokens, batch.segment_ids, batch.positions)
  logps_BT, logz_BT = target_logps(hidden_BTD, params['head'], batch.targets, chunk)
  by_source = lambda rows_B: jax.ops.segment_sum(rows_B, batch.source_ids, num_sources)
  sums = LossSums(
      loss_S=by_source(-jnp.sum(batch.loss_weights * logps_BT, axis=1)),
      z=jnp.sum(batch.loss_weights * jnp.square(logz_BT)),
      weight_S=by_source(jnp.sum(batch.loss_weights, axis=1)),
  )
  return sums, diagnostics
