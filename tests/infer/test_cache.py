"""Whatever the tokens were cached in, hidden states are those of the whole sequence."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iquest_jax.model import cache as caches
from iquest_jax.model.transformer import Transformer

from tests.model.small_models import DENSE, LOOP, LOOP3, RESCALED, forward, random_params

MODELS = {'dense': DENSE, 'loop': LOOP, 'three passes': LOOP3, 'rescaled': RESCALED}
SIZE = 24


@functools.partial(jax.jit, static_argnums=0)
def extend(model, params, cache, tokens, count):
  """(hidden [B, T, D], cache with the first `count` tokens of each slot)."""
  module, ids = Transformer(model, jnp.float32, keep_keys=True), cache.next_ids(tokens.shape[1], count)
  hidden, passes = module.apply({'params': params}, tokens, ids, cache, method='extend')
  return hidden, caches.write(cache, passes, count)


@pytest.mark.parametrize('name', MODELS)
@pytest.mark.parametrize('parts', [(1,) * SIZE, (9, 1, 1, 12, 1), (SIZE,)], ids=['single', 'mixed', 'whole'])
def test_hidden_states_are_those_of_the_whole_sequence(name, parts):
  """One token at a time, several that reach over the window of 5, and all at once; two slots, one of them shorter."""
  model = MODELS[name]
  params, tokens = random_params(model), np.random.default_rng(0).integers(0, model.vocab, (2, SIZE), dtype=np.int32)
  whole = forward(model, params, tokens, method=None)[0]
  cache = caches.empty(model, 2, SIZE, jnp.float32)
  lengths = np.array([0, 0])
  for part in parts:
    # The second slot gets one token less of every part of more than one, and those it missed never.
    count = np.array([part, max(part - 1, 1)])
    row = np.stack([np.resize(tokens[i, lengths[i] :], part) for i in range(2)])
    hidden, cache = extend(model, params, cache, row, jnp.asarray(count, jnp.int32))
    for i in range(2):
      expected = whole[i, lengths[i] : lengths[i] + count[i]]
      np.testing.assert_allclose(hidden[i, : count[i]], expected, rtol=0, atol=2e-5)
    lengths = lengths + count
    np.testing.assert_array_equal(cache.length_B, lengths)


@pytest.mark.parametrize(('length', 'count'), [(0, 9), (3, 9), (7, 2), (2, 0), (4, 5)])
def test_no_place_of_a_ring_is_written_twice_and_the_newest_tokens_are(length, count):
  """Which of two writes to one place wins is undefined on accelerators."""
  (places,) = caches._places(jnp.int32([length]), jnp.int32([count]), 9, 5).tolist()
  written = {t: place for t, place in enumerate(places) if place < 5}
  assert written == {t: (length + t) % 5 for t in range(max(0, count - 5), count)}
  assert len(set(written.values())) == len(written)


def test_a_slot_taken_out_and_put_back_leaves_the_others():
  model = dataclasses.replace(LOOP, loop_window=3)
  rng = np.random.default_rng(0)
  cache = jax.tree.map(lambda x: rng.random(x.shape).astype(x.dtype), caches.empty(model, 3, 8, jnp.float32))
  one = caches.take(cache, [1])
  assert one.far[0].shape[1] == 1 and np.array_equal(one.far[0][:, 0], cache.far[0][:, 1])
  other = jax.tree.map(lambda x: x + 1, one)
  changed = caches.replace(cache, [1], other)
  for before, after in zip(jax.tree.leaves((cache.far, cache.near)), jax.tree.leaves((changed.far, changed.near))):
    np.testing.assert_array_equal(after[:, [0, 2]], before[:, [0, 2]])
    np.testing.assert_array_equal(after[:, 1], before[:, 1] + 1)
  assert changed.length_B.tolist() == [0, 1, 0]
