"""The model equals the logits of an independent implementation, and the fixture distinguishes every wrong variant."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from iquest_jax.convert.hf import from_hf
from iquest_jax.model.transformer import Transformer

from tests.model import reference_model

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden'
FIXTURES = ('dense_tiny', 'loop_tiny')


def golden(name):
  arrays = np.load(GOLDEN / name / 'golden.npz')
  return arrays['input_ids'], arrays['logits']


def reference(name, wrong=''):
  """float64 logits [B, T, V] of the numpy forward."""
  tensors = load_file(GOLDEN / name / 'model.safetensors')
  config = json.loads((GOLDEN / name / 'config.json').read_text())
  return np.stack([reference_model.forward(tensors, config, row, wrong).logits for row in golden(name)[0]])


@pytest.mark.parametrize('name', FIXTURES)
def test_logits_equal_the_golden_ones(name):
  tokens, logits = golden(name)
  config, params = from_hf(GOLDEN / name)
  positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
  forward = jax.jit(lambda *args: Transformer(config, 'float32').apply({'params': params}, *args, method='logits'))
  ours = forward(tokens, jnp.ones_like(positions), positions)
  assert ours.dtype == jnp.float32
  np.testing.assert_allclose(ours, logits, rtol=0, atol=2e-5)


@pytest.mark.parametrize('name', FIXTURES)
def test_the_numpy_reference_equals_the_golden_logits(name):
  np.testing.assert_allclose(reference(name), golden(name)[1], rtol=0, atol=2e-5)


@pytest.mark.parametrize('wrong', reference_model.WRONG)
def test_the_fixture_distinguishes_every_wrong_loop(wrong):
  assert np.abs(reference('loop_tiny', wrong) - golden('loop_tiny')[1]).max() > 1e-3


def test_the_gates_of_the_fixture_are_random_enough():
  tensors = load_file(GOLDEN / 'loop_tiny' / 'model.safetensors')
  gates = [tensor for name, tensor in tensors.items() if 'gate_projections' in name and name.endswith('weight')]
  assert len(gates) == 3 and min(gate.std() for gate in gates) > 0.1
