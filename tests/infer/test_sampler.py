"""Drawn tokens follow the model's distribution, as temperature, top-k and top-p leave it."""

import jax.numpy as jnp
import numpy as np
import pytest

from iquest_jax.infer.sampler import Sampling, batched, sample

LOGITS = np.log(np.float32([0.4, 0.3, 0.15, 0.1, 0.05]))
N = 4000


def shares(sampling, logits=LOGITS):
  """How often each token is drawn in N requests."""
  rows = jnp.tile(jnp.asarray(logits), (N, 1))
  tokens, _ = sample(rows, batched([sampling] * N), jnp.arange(N), jnp.zeros(N, jnp.int32))
  return np.bincount(np.asarray(tokens), minlength=len(logits)) / N


@pytest.mark.parametrize(
    ('sampling', 'expected'),
    [
        (Sampling(), [1, 0, 0, 0, 0]),
        (Sampling(temperature=1), [0.4, 0.3, 0.15, 0.1, 0.05]),
        (Sampling(temperature=0.5), np.square([0.4, 0.3, 0.15, 0.1, 0.05]) / 0.285),
        (Sampling(temperature=1, top_k=2), [4 / 7, 3 / 7, 0, 0, 0]),
        # The third token is kept, since the first two do not reach 0.8; the fourth is not.
        (Sampling(temperature=1, top_p=0.8), [0.4 / 0.85, 0.3 / 0.85, 0.15 / 0.85, 0, 0]),
        (Sampling(temperature=1, top_p=0.01), [1, 0, 0, 0, 0]),
        (Sampling(temperature=1, top_k=3, top_p=0.6), [4 / 7, 3 / 7, 0, 0, 0]),
    ],
    ids=str,
)
def test_tokens_are_drawn_as_often_as_they_are_likely(sampling, expected):
  # Four standard deviations of a share are at most 0.032.
  np.testing.assert_allclose(shares(sampling), expected, atol=0.032)
  assert (shares(sampling)[np.asarray(expected) == 0] == 0).all()


def test_slots_of_one_step_keep_their_own_settings():
  settings = [Sampling(), Sampling(temperature=1, top_k=1), Sampling(temperature=5, seed=3), Sampling(temperature=1)]
  rows, ids = jnp.tile(jnp.asarray(LOGITS), (4, 1)), jnp.arange(4)
  together = sample(rows, batched(settings), ids, ids)
  for i, sampling in enumerate(settings):
    alone = sample(rows[i : i + 1], batched([sampling]), ids[i : i + 1], ids[i : i + 1])
    assert [int(x[0]) for x in alone[:1]] == [int(together[0][i])]
    assert float(alone[1][0]) == float(together[1][i])
  assert together[0][:2].tolist() == [0, 0]


def test_the_log_probability_is_the_models_own():
  zero = jnp.zeros(1, jnp.int32)
  tokens, logps = sample(jnp.asarray(LOGITS)[None] + 3, batched([Sampling(temperature=7, top_k=4)]), zero, zero)
  np.testing.assert_allclose(logps, LOGITS[np.asarray(tokens)], atol=1e-6)
