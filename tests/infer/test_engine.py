"""Whatever else is decoded, a request gets the tokens and log-probabilities of the whole sequence."""

import dataclasses
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iquest_jax import sharding
from iquest_jax.errors import UserError
from iquest_jax.infer import engine as engine_module
from iquest_jax.infer.engine import Engine, Request
from iquest_jax.infer.sampler import Sampling
from iquest_jax.model.transformer import Transformer, init_params

from tests.infer import oracle
from tests.model.small_models import DENSE, LOOP, LOOP3, random_params

MODELS = {'dense': DENSE, 'loop': LOOP, 'three passes': LOOP3}
HOT = Sampling(temperature=1.3, top_p=0.9, top_k=20, seed=4)
# Shorter and longer than the window of 5, than the shortest prefilled row, and of different lengths.
PROMPTS = [np.random.default_rng(i).integers(0, DENSE.vocab, n, dtype=np.int32) for i, n in enumerate((1, 3, 17, 40, 8))]


def engine(model, slots=2):
  return Engine(Transformer(model, jnp.float32), random_params(model), slots)


def drawn(tokens):
  """{request: (tokens, log-probabilities)}."""
  results = {}
  for token in tokens:
    results.setdefault(token.request, []).append(token)
  return {id: ([t.token for t in ts], [t.logp for t in ts]) for id, ts in results.items()}


@pytest.mark.parametrize('name', MODELS)
def test_greedy_tokens_and_log_probabilities_are_those_of_the_whole_sequence(name):
  """Five requests in two slots: each slot is refilled, and slots hold different lengths."""
  model = MODELS[name]
  requests = [Request(id, prompt, length=12 + id) for id, prompt in enumerate(PROMPTS)]
  for id, (tokens, logps) in drawn(engine(model).run(requests)).items():
    assert len(tokens) == 12 + id
    expected = oracle.of_drawn(model, random_params(model), PROMPTS[id], tokens)
    np.testing.assert_allclose(logps, expected[np.arange(len(tokens)), tokens], atol=1e-4)
    assert (expected.max(-1) - expected[np.arange(len(tokens)), tokens] <= 1e-5).all()


@pytest.mark.parametrize('sampling', [Sampling(), HOT], ids=['greedy', 'hot'])
def test_neighbours_order_and_slots_change_no_bit(sampling):
  requests = [Request(id, prompt, 20, sampling if id % 2 else HOT) for id, prompt in enumerate(PROMPTS)]
  together = drawn(engine(LOOP, slots=3).run(requests))
  backwards = drawn(engine(LOOP, slots=3).run(requests[::-1]))
  assert together == backwards
  for request in requests:
    assert drawn(engine(LOOP, slots=3).run([request])) == {request.id: together[request.id]}


def test_random_numbers_depend_on_seed_request_and_index():
  draw = lambda id, seed: drawn(engine(DENSE).run([Request(id, PROMPTS[1], 30, HOT._replace(seed=seed))]))[id][0]
  assert draw(1, 4) == draw(1, 4)
  assert draw(1, 4) != draw(2, 4) and draw(1, 4) != draw(1, 5)
  assert len(set(draw(1, 4))) > 5  # not the same number at every index


def test_the_same_noise_draws_the_same_for_several_requests_at_a_time():
  requests = [Request(id, PROMPTS[1], 20, HOT, noise=7) for id in range(3)]
  together = drawn(engine(LOOP, slots=3).run(requests))
  alone = drawn(engine(LOOP, slots=3).run([Request(7, PROMPTS[1], 20, HOT)]))[7]
  assert list(together.values()) == [alone] * 3


def test_a_stop_token_ends_a_request_and_frees_its_slot():
  whole = drawn(engine(LOOP).run([Request(0, PROMPTS[2], 10)]))[0][0]
  decoding = engine(LOOP)
  tokens = list(decoding.run([Request(0, PROMPTS[2], 10, stop=(whole[3],))]))
  assert [token.token for token in tokens] == whole[: whole.index(whole[3]) + 1] and tokens[-1].end == 'stop'
  assert decoding.free == 2
  assert [token.end for token in decoding.run([Request(1, PROMPTS[2], 2)])] == ['', 'length']


@pytest.mark.parametrize('name', MODELS)
def test_a_held_request_extended_by_given_tokens_is_the_whole_sequence(name):
  model, result = MODELS[name], np.random.default_rng(9).integers(0, DENSE.vocab, 9).tolist()
  decoding = engine(model)
  first = drawn(decoding.run([Request(7, PROMPTS[3], 4, hold=True), Request(8, PROMPTS[0], 9)]))[7]
  assert decoding.free == 1
  more = [decoding.extend(7, result, 5), *(token for _ in range(4) for token in decoding.step())]
  sequence = [*PROMPTS[3], *first[0], *result]
  expected = oracle.of_drawn(model, random_params(model), sequence, [token.token for token in more])
  for token, row in zip(more, expected, strict=True):
    assert token.request == 7 and abs(token.logp - row[token.token]) < 1e-5
    assert row.max() - row[token.token] <= 1e-5
  assert more[-1].end == 'length'
  decoding.release(7)
  assert decoding.free == 2


def on_mesh(model, slots):
  """An engine of a model whose slots are split over 4 devices, and heads, ffn and vocabulary over 2."""
  mesh = sharding.make_mesh({'data': 4, 'fsdp': 1, 'context': 1, 'tensor': 2})
  module = Transformer(model, jnp.float32)
  boxed = jax.eval_shape(lambda: init_params(module, jax.random.key(0)))
  return Engine(module, jax.device_put(random_params(model), sharding.shardings(boxed, mesh)), slots)


@pytest.mark.parametrize('name', ['dense', 'three passes'])
def test_a_mesh_draws_the_same_and_neighbours_change_no_bit(name):
  model = dataclasses.replace(MODELS[name], vocab=64)  # divides over the mesh
  requests = [Request(id, PROMPTS[id % 5], 6 + id, HOT if id % 2 else Sampling()) for id in range(7)]
  together = drawn((split := on_mesh(model, slots=3)).run(requests))
  assert split.free == 4  # rounded up to the ways
  alone = drawn(engine(model, slots=4).run(requests))
  for request in requests:
    assert together[request.id][0] == alone[request.id][0]
    np.testing.assert_allclose(together[request.id][1], alone[request.id][1], atol=1e-5)
  assert drawn(split.run(requests[::-1])) == together
  assert drawn(split.run(requests[4:5])) == {4: together[4]}
  held = drawn(split.run([Request(9, PROMPTS[3], 2, hold=True), requests[0]]))
  token = split.extend(9, [5, 6, 7], 1)
  expected = oracle.of_drawn(model, random_params(model), [*PROMPTS[3], *held[9][0], 5, 6, 7], [token.token])
  assert abs(token.logp - expected[0, token.token]) < 1e-5


@pytest.mark.parametrize('step', ['decode', 'prefill'])
def test_a_mesh_moves_activations_but_no_weight_and_no_cache(step, monkeypatch):
  """Heads are so wide here that the smallest matrix of a layer is larger than the activations of a row."""
  model, lowered = dataclasses.replace(LOOP, vocab=64, d_model=64, head_dim=32), []
  decoding, compiled = on_mesh(model, slots=8), getattr(engine_module, f'_{step}')
  monkeypatch.setattr(engine_module, f'_{step}', lambda *args: lowered.append(compiled.lower(*args)) or compiled(*args))
  list(decoding.run([Request(0, PROMPTS[1], 2)]))
  # A collective's type is that of an array, or a tuple of several.
  collective = re.compile(r'= ([^=]*?) ((?:all-|reduce-scatter|collective-|ragged-)[\w-]*)\(')
  found = collective.findall(lowered[0].compile().as_text())
  shapes = [dims.split(',') for types, _ in found for dims in re.findall(r'\[([\d,]*)\]', types)]
  sizes = [math.prod(int(n) for n in shape if n) for shape in shapes]
  smallest = model.d_model * min(model.d_ff, model.kv_heads * model.head_dim, model.vocab)
  activations = 64 * (32 if step == 'prefill' else 2)  # of one device
  assert {kind for _, kind in found} == {'all-reduce', 'all-gather'}
  assert activations in sizes and max(sizes) <= max(activations, 8 * 64) < smallest  # 8 x 64: the logits


def test_requests_of_one_row_length_share_one_compile():
  model = dataclasses.replace(DENSE, layers=1)  # not compiled by another test
  before = [function._cache_size() for function in (engine_module._prefill, engine_module._decode)]
  requests = [Request(id, PROMPTS[id % 3], 5 + id, Sampling(temperature=id % 2)) for id in range(8)]
  list(engine(model).run(requests))
  list(engine(model).run(requests))
  assert [function._cache_size() for function in (engine_module._prefill, engine_module._decode)] == [n + 1 for n in before]


def test_what_does_not_fit_is_refused():
  decoding = engine(DENSE)
  with pytest.raises(UserError, match='the prompt must not be empty'):
    decoding.start(Request(0, np.zeros(0, np.int32), 4))
  with pytest.raises(UserError, match='at most 64, got 40 . 30; shorten one of them'):
    decoding.start(Request(0, PROMPTS[3], 30))
  for name, value in (('temperature', -1), ('top_p', 0), ('top_k', -1), ('seed', 2**31)):
    with pytest.raises(UserError, match=f'sample: {name} must be'):
      decoding.start(Request(0, PROMPTS[0], 4, Sampling(**{name: value})))
  assert decoding.free == 2
  decoding.start(Request(0, PROMPTS[3], 24, hold=True))
