"""Logits and diagnostics of looped models, for any number of passes, equal the float64 numpy forward."""

import numpy as np
import pytest

from tests.model import reference_model
from tests.model.small_models import DENSE, LOOP, LOOP3, RESCALED, forward, published, random_params

MODELS = {'dense': DENSE, 'loop': LOOP, 'loop3': LOOP3, 'rescaled': RESCALED}
TOKENS = np.random.default_rng(0).integers(0, DENSE.vocab, 24, dtype=np.int32)


def expected(model, params, wrong=''):
  tensors, config = published(model, params)
  return reference_model.forward(tensors, config, TOKENS, wrong, model.loop_variant == 'rescaled')


@pytest.mark.parametrize('name', MODELS)
def test_logits_equal_the_float64_reference(name):
  model, params = MODELS[name], random_params(MODELS[name])
  ours = forward(model, params, TOKENS)[0]
  np.testing.assert_allclose(ours, expected(model, params).logits, rtol=0, atol=2e-5)


@pytest.mark.parametrize('name', ['loop', 'loop3', 'rescaled'])
def test_diagnostics_equal_the_float64_reference(name):
  model, params = MODELS[name], random_params(MODELS[name])
  _, diagnostics = forward(model, params, TOKENS, method=None)
  reference = expected(model, params)
  np.testing.assert_allclose(diagnostics['loop_change'], reference.changes, rtol=1e-5)
  np.testing.assert_allclose(diagnostics['loop_gate'], reference.gates, rtol=1e-5)


def test_the_dense_model_has_no_diagnostics():
  assert forward(DENSE, random_params(DENSE), TOKENS, method=None)[1] == {}


def test_the_third_pass_looks_back_at_the_first_pass_not_the_second():
  params = random_params(LOOP3)
  latest = expected(LOOP3, params, wrong='latest_global_keys')
  assert np.abs(forward(LOOP3, params, TOKENS)[0] - latest.logits).max() > 1e-2


@pytest.mark.parametrize('wrong', reference_model.WRONG)
def test_three_passes_differ_from_every_wrong_loop(wrong):
  params = random_params(LOOP3)
  assert np.abs(forward(LOOP3, params, TOKENS)[0] - expected(LOOP3, params, wrong).logits).max() > 1e-2
