"""The next token of every slot from its logits. Legend: B slots, V vocabulary."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from iquest_jax.errors import UserError


class Sampling(NamedTuple):
  """How tokens are drawn; one value per request on the host, arrays [B] in a step.

  Attributes:
    temperature: divides the logits; 0 takes the most likely token.
    top_p: keeps the most likely tokens whose probabilities first sum to at least this; 1 keeps all.
    top_k: keeps this many of the most likely tokens; 0 keeps all.
    seed: of the random numbers.
  """

  temperature: float = 0.0
  top_p: float = 1.0
  top_k: int = 0
  seed: int = 0

  def check(self) -> 'Sampling':
    """Raises UserError for a value outside of its range."""
    for name, allowed, fits in (
        ('temperature', 'finite and at least 0', 0 <= self.temperature < float('inf')),
        ('top_p', 'in (0, 1]', 0 < self.top_p <= 1),
        ('top_k', 'at least 0', self.top_k >= 0),
        ('seed', 'in [0, 2^31)', 0 <= self.seed < 2**31),
    ):
      if not fits:
        raise UserError(f'sample: {name} must be {allowed}, got {getattr(self, name)}')
    return self


GREEDY = Sampling()


def batched(requests: Sequence[Sampling]) -> Sampling:
  """One Sampling whose fields are arrays [B]."""
  dtypes = np.float32, np.float32, np.int32, np.int32
  return Sampling(*(np.asarray(column, dtype) for column, dtype in zip(zip(*requests), dtypes)))


def sample(logits_BV, sampling: Sampling, request_B, index_B):
  """(token int32 [B], its log-probability float32 [B]).

  The random numbers depend on (seed, request, index) alone, never on the slot or the time. The log-probability is that of
  the model at temperature 1, before anything is cut off: what the trainer computes for this token.

  Args:
    logits_BV: float32.
    sampling: arrays [B]; see `batched`.
    request_B: int32, what the random numbers of a slot follow from besides the seed, by default the id of its request.
    index_B: int32, how many tokens the request has drawn.
  """

  # Random numbers and the sort are most of the work of a step, so they are left out where no slot needs them.
  hot, likeliest = jnp.any(sampling.temperature > 0), lambda logits_BV, *_: jnp.argmax(logits_BV, axis=-1)
  token_B = jax.lax.cond(hot, _draw, likeliest, logits_BV, sampling, request_B, index_B)
  chosen_B = jnp.take_along_axis(logits_BV, token_B[:, None], axis=1)[:, 0]
  return token_B.astype(jnp.int32), chosen_B - jax.nn.logsumexp(logits_BV, axis=-1)


def _draw(logits_BV, sampling, request_B, index_B):
  """By the Gumbel trick: the largest of logits plus noise is a sample of their softmax."""

  def noise(seed, request, index):
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), request), index)
    return jax.random.gumbel(key, logits_BV.shape[1:])

  hot_B1 = (sampling.temperature > 0)[:, None]
  warm_BV = logits_BV / jnp.where(hot_B1, sampling.temperature[:, None], 1)
  cut = jnp.any((sampling.top_p < 1) | (sampling.top_k > 0))
  everything = lambda logits_BV, *_: jnp.ones(logits_BV.shape, bool)
  kept_BV = jax.lax.cond(cut, jax.vmap(_kept), everything, warm_BV, sampling.top_p, sampling.top_k)
  noise_BV = jnp.where(hot_B1, jax.vmap(noise)(sampling.seed, request_B, index_B), 0)
  return jnp.argmax(jnp.where(kept_BV | ~hot_B1, warm_BV + noise_BV, -jnp.inf), axis=-1)


def _kept(logits_V, top_p, top_k):
  """bool [V]: the tokens that top_k and top_p leave; always the most likely one."""
  order_V = jnp.argsort(-logits_V, stable=True)
  chance_V, rank_V = jax.nn.softmax(logits_V)[order_V], jnp.arange(len(logits_V))
  before_V = jnp.cumsum(chance_V) - chance_V
  # Rounded sums reach 1 too early, so 1 is not compared.
  enough_V = ((top_p >= 1) | (before_V < top_p)) & ((top_k == 0) | (rank_V < top_k))
  return jnp.zeros(logits_V.shape, bool).at[order_V].set(enough_V)
