"""Direct preference optimisation on packed pairs, as (sum, weight). Legend: B rows, T positions, P = T + 1 pairs of a row.

Source: arXiv 2305.18290, equation 7.
"""

import dataclasses
from collections.abc import Sequence

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from iquest_jax.batch import Batch
from iquest_jax.data.loader import NumpyBatch
from iquest_jax.errors import UserError
from iquest_jax.kernels.cross_entropy import target_logps
from iquest_jax.rl.batches import Piece, pack
from iquest_jax.rl.losses import MeasuredSums, by_segment


@dataclasses.dataclass(frozen=True)
class Pair:
  """Two answers to one prompt, as ids; both end with their stop token.

  Attributes:
    id: names the pair in errors.
  """

  id: str
  prompt: tuple[int, ...]
  chosen: tuple[int, ...]
  rejected: tuple[int, ...]


@flax.struct.dataclass
class PreferenceBatch(Batch):
  """Rows of pairs: of pair p = 1, 2, ..., segment 2p - 1 is the prompt with the chosen answer, 2p with the rejected one.

  Attributes:
    row_weights: float32 [B], pairs of each row.
    reference_logps: float32 [B, T], log-probabilities of the targets under the reference; see losses.batch_logps. None
      until they are known.
  """

  row_weights: jax.Array
  reference_logps: jax.Array | None = None

  def weight(self) -> jax.Array:
    return jnp.sum(self.row_weights)


def preference_rows(pairs: Sequence[Pair], *, context: int, unit: int) -> NumpyBatch:
  """The fields of a PreferenceBatch, in natural order: B a multiple of `unit`, T = `context`.

  Raises:
    UserError: both sequences of a pair do not fit into a row together.
  """
  items = [[_piece(pair.prompt, answer) for answer in (pair.chosen, pair.rejected)] for pair in pairs]
  for pair, item in zip(pairs, items):
    if (length := sum(len(piece['tokens']) for piece in item)) > context:
      raise UserError(
          f'dpo: both sequences of a pair must fit into a row of data.context = {context} tokens together, got {length} '
          f'("{pair.id}"); raise it or leave the pair out'
      )
  return pack(items, [1.0] * len(items), context, unit, ('loss_weights',))


def _piece(prompt: Sequence[int], answer: Sequence[int]) -> Piece:
  weights = np.repeat(np.float32([0, 1]), [len(prompt), len(answer)])
  return {'tokens': np.asarray([*prompt, *answer], np.int32), 'loss_weights': weights}


def preference_sums(
    model, params, batch: PreferenceBatch, num_sources: int, chunk: int, *, beta: float
) -> tuple[MeasuredSums, dict]:
  """Loss of one (micro-)batch, an objective of train/step.py once `beta` is bound; the model's diagnostics.

  -log sigmoid(beta ((log p - log p_reference)(chosen) - (log p - log p_reference)(rejected))), summed over pairs.

  Reported per pair: `accuracy`, 1 if the policy prefers the chosen answer more than the reference does, and 1/2 in a tie;
  `margin`, the argument of the sigmoid; `chosen_reward` and `rejected_reward`, its two terms; `likelier`, 1 if the policy
  gives the chosen answer the larger probability, whatever the reference does.
  """
  hidden_BTD, diagnostics = model.apply({'params': params}, batch.tokens, batch.segment_ids, batch.positions)
  logps_BT, logz_BT = target_logps(hidden_BTD, params['head'], batch.targets, chunk)
  chosen_BP, rejected_BP = _by_answer(beta * (logps_BT - batch.reference_logps), batch)
  margin_BP = chosen_BP - rejected_BP
  chosen_logp_BP, rejected_logp_BP = _by_answer(logps_BT, batch)
  exists_BP = jnp.arange(margin_BP.shape[1]) < batch.row_weights[:, None]
  total = lambda values_BP: jnp.sum(jnp.where(exists_BP, values_BP, 0))
  by_source = lambda rows_B: jax.ops.segment_sum(rows_B, batch.source_ids, num_sources)
  sums = MeasuredSums(
      loss_S=by_source(jnp.sum(jnp.where(exists_BP, jax.nn.softplus(-margin_BP), 0), axis=1)),
      z=jnp.sum(batch.loss_weights * jnp.square(logz_BT)),
      weight_S=by_source(batch.row_weights),
      count=batch.weight(),
      totals={
          'accuracy': total((jnp.sign(margin_BP) + 1) / 2),
          'margin': total(margin_BP),
          'chosen_reward': total(chosen_BP),
          'rejected_reward': total(rejected_BP),
          'likelier': total(chosen_logp_BP > rejected_logp_BP),
      },
  )
  return sums, diagnostics


def _by_answer(values_BT, batch: PreferenceBatch) -> tuple[jax.Array, jax.Array]:
  """Sums of values over the chosen and over the rejected answers, float32 [B, P] each; 0 beyond the pairs."""
  answers_BT, is_chosen_BT = jnp.where(batch.loss_weights > 0, values_BT, 0), batch.segment_ids % 2 == 1
  # Pair p is number p - 1 here: segments 1 and 2 become 0, and padding adds zeros to it.
  pair_BT = jnp.maximum(batch.segment_ids - 1, 0) // 2
  summed = lambda of_BT: by_segment(jnp.where(of_BT, answers_BT, 0), pair_BT)
  return summed(is_chosen_BT), summed(~is_chosen_BT)
