"""What libtpu makes of the checks of hardware, for a model of full width and two layers, on a machine without a TPU."""

import functools

import pytest

from iquest_jax.aot import bundles, estimate, health, sweep, topology
from iquest_jax.model import sizes
from launch import command
from launch.aot import BUNDLES

pytestmark = [pytest.mark.tpu, pytest.mark.long]

SLICE = topology.find('v5p:4x4x4')
LAYERS = 2


@functools.cache
def config():
  """Replicas, split parameters and split rows."""
  found = command.experiment('midtrain_128k:size=40b_loop')
  found.mesh = {'data': 2, 'fsdp': 2, 'context': 16, 'tensor': 1}
  found.model.layers, found.train.batch_rows, found.train.accumulation = LAYERS, 4, 1
  return found


@functools.cache
def measures():
  return sweep.compile_alone(config(), SLICE, 'health')


def seconds(name):
  return sum(estimate.parts(measures()[name], SLICE, bundles.load(BUNDLES))[0].values())


def test_the_checks_cost_less_than_a_percent():
  found = health.shares(measures(), config(), SLICE, bundles.load(BUNDLES))
  assert found.keys() == {'replicas', 'recompute'}
  assert 0 < sum(share for _, share in found.values()) < 0.01
  fits, text = health.render('midtrain_128k', measures(), config(), SLICE, bundles.load(BUNDLES))
  assert fits and "libtpu's checker" in text and 'DOES NOT FIT' not in text


def test_replicas_are_compared_by_one_read_of_the_state():
  m = sizes.get('40b')
  parameters = LAYERS * (2 * m.d_model * m.head_dim * (m.heads + m.kv_heads) + 3 * m.d_model * m.d_ff)
  state = 3 * 4 * (parameters + 2 * m.vocab * m.d_model) / 32  # of a chip: parameters and two moments in float32
  assert seconds('replicas') == pytest.approx(state / SLICE.chip.hbm_bandwidth, rel=0.5)


def test_the_recompute_takes_no_gradients_of_weights():
  # They are what is scattered as large as a weight.
  kinds = {each['kind'] for each in measures()['recompute']['transfers']}
  assert seconds('recompute') < 0.9 * seconds('step') and 'all-gather' in kinds


def test_the_checker_repeats_the_operations_of_the_step():
  plain, checked = measures()['step'], measures()['checked step']
  assert checked['cycles']['matrix'] >= 1.9 * plain['cycles']['matrix']
  assert checked['peak_bytes'] < SLICE.chip.hbm_bytes
