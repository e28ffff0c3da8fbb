"""To the model a row is documents by segment and position, and nothing else."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iquest_jax.kernels.gated_attention import Ids, Keys
from iquest_jax.model.attention import Attention
from iquest_jax.model.transformer import Transformer

from tests.model.small_models import DENSE, LOOP, RESCALED, forward, random_params

MODELS = pytest.mark.parametrize('model', [DENSE, LOOP, RESCALED], ids=['dense', 'loop', 'rescaled'])
LENGTHS = (14, 1, 14, 1)
T = 48


def packed_row(seed=0):
  """(documents, tokens, segment_ids, positions) of one row [1, T] that ends with padding."""
  rng = np.random.default_rng(seed)
  documents = [rng.integers(0, DENSE.vocab, length, dtype=np.int32) for length in LENGTHS]
  padding = T - sum(LENGTHS)
  tokens = np.concatenate([*documents, rng.integers(0, DENSE.vocab, padding, dtype=np.int32)])
  segment_ids = np.repeat(np.int32([1, 2, 3, 4, 0]), [*LENGTHS, padding])
  positions = np.concatenate([np.arange(length, dtype=np.int32) for length in (*LENGTHS, padding)])
  return documents, tokens[None], segment_ids[None], positions[None]


@MODELS
def test_packed_rows_equal_unpacked_documents(model):
  documents, *row = packed_row()
  params = random_params(model)
  packed, start = forward(model, params, *row)[0], 0
  for document in documents:
    alone = forward(model, params, document)[0]
    np.testing.assert_allclose(packed[start : start + len(document)], alone, rtol=0, atol=2e-5)
    start += len(document)


@MODELS
def test_outputs_follow_a_permutation_of_the_row(model):
  _, *row = packed_row()
  order = np.random.default_rng(1).permutation(T)
  params = random_params(model)
  straight, permuted = forward(model, params, *row), forward(model, params, *(array[:, order] for array in row))
  np.testing.assert_allclose(permuted, straight[:, order], rtol=0, atol=2e-5)


@MODELS
def test_tokens_of_padding_change_nothing(model):
  _, tokens, segment_ids, positions = packed_row()
  params, real = random_params(model), segment_ids[0] != 0
  other = np.where(segment_ids == 0, (tokens + 7) % model.vocab, tokens)
  hidden, diagnostics = forward(model, params, tokens, segment_ids, positions, method=None)
  changed, changed_diagnostics = forward(model, params, other, segment_ids, positions, method=None)
  np.testing.assert_array_equal(hidden[0, real], changed[0, real])
  for name in diagnostics:
    np.testing.assert_array_equal(diagnostics[name], changed_diagnostics[name])


@pytest.mark.parametrize('later', [False, True], ids=['first pass', 'later pass'])
def test_attention_is_zero_on_padding(later):
  _, _, segment_ids, positions = packed_row()
  x_BTD = np.random.default_rng(2).standard_normal((1, T, DENSE.d_model), np.float32)
  shape = (1, T, DENSE.kv_heads, DENSE.head_dim)
  ids = Ids(segment_ids, positions)
  first = Keys(*np.random.default_rng(3).standard_normal((2, *shape), np.float32), ids) if later else None
  layer = jax.tree.map(lambda leaf: leaf[0], random_params(LOOP)['layers']['attention'])
  attend = jax.jit(lambda *args: Attention(LOOP, jnp.float32).apply({'params': layer}, *args))
  out, _, _ = attend(x_BTD, ids, first)
  padding = segment_ids[0] == 0
  assert np.all(np.asarray(out)[0, padding] == 0)
  assert np.all(np.abs(out)[0, ~padding].max(axis=-1) > 1e-3)


def without_gates(params):
  attention = {name: leaf for name, leaf in params['layers']['attention'].items() if not name.startswith('gate')}
  return params | {'layers': params['layers'] | {'attention': attention}}


def test_the_loop_with_one_pass_is_the_dense_model_bit_for_bit():
  _, *row = packed_row()
  params = random_params(LOOP)
  expected = forward(DENSE, without_gates(params), *row)
  np.testing.assert_array_equal(forward(dataclasses.replace(LOOP, loops=1), without_gates(params), *row), expected)
  # So is the first of two passes, with gates present.
  whole_rows = (None,) * 3
  layers = lambda module, tokens, *ids: module.layers(module.embedder(tokens), Ids(*ids), *whole_rows)[0]
  first_pass = lambda module, *row: module.final_norm(layers(module, *row))
  hidden, _ = forward(DENSE, without_gates(params), *row, method=None)
  np.testing.assert_array_equal(forward(LOOP, params, *row, method=first_pass), hidden)
  assert np.abs(forward(LOOP, params, *row) - expected).max() > 1e-2


@MODELS
def test_bfloat16_computes_in_bfloat16_and_keeps_float32_logits(model):
  _, *row = packed_row()
  params = random_params(model)
  hidden, diagnostics = jax.eval_shape(lambda *args: Transformer(model, 'bfloat16').apply({'params': params}, *args), *row)
  assert hidden.dtype == jnp.bfloat16 and {leaf.dtype for leaf in diagnostics.values()} <= {jnp.dtype('float32')}
  logits, exact = (forward(model, params, *row, dtype=dtype) for dtype in ('bfloat16', 'float32'))
  assert logits.dtype == jnp.float32
  # Every layer rounds to 8 bits of mantissa; rounding only the final states would give about 0.002.
  error = np.sqrt(np.mean(np.square(logits - exact)) / np.mean(np.square(exact)))
  assert 1e-3 < error < 5e-2
