"""What libtpu makes of the checks of hardware on a machine without a TPU, mostly for two layers of full width."""

import functools
import json

import pytest

from iquest_jax.aot import bundles, estimate, health, sweep, topology
from iquest_jax.model import sizes
from launch import command
from launch.aot import BUNDLES

from tests import processes

pytestmark = pytest.mark.tpu

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


@pytest.mark.long
def test_the_checks_cost_less_than_a_percent():
  found = health.shares(measures(), config(), SLICE, bundles.load(BUNDLES))
  assert found.keys() == {'replicas', 'recompute'}
  assert 0 < sum(share for _, share in found.values()) < 0.01
  fits, text = health.render('midtrain_128k', measures(), config(), SLICE, bundles.load(BUNDLES))
  assert fits and "libtpu's checker" in text and 'DOES NOT FIT' not in text


@pytest.mark.long
def test_replicas_are_compared_by_one_read_of_the_state_and_no_copy_of_it():
  m, found = sizes.get('40b'), measures()['replicas']
  parameters = LAYERS * (2 * m.d_model * m.head_dim * (m.heads + m.kv_heads) + 3 * m.d_model * m.d_ff)
  state = 3 * 4 * (parameters + 2 * m.vocab * m.d_model) / 32  # of a chip: parameters and two moments in float32
  assert found['argument_bytes'] == pytest.approx(state, rel=0.01)
  assert found['peak_bytes'] < 1.1 * found['argument_bytes']  # what is read ahead
  # Hashing takes libtpu about twice as long as reading.
  assert 1 <= seconds('replicas') / (state / SLICE.chip.hbm_bandwidth) < 2.5


@pytest.mark.long
def test_the_recompute_takes_no_gradients_of_weights():
  # They are what is scattered as large as a weight.
  kinds = {each['kind'] for each in measures()['recompute']['transfers']}
  assert seconds('recompute') < 0.9 * seconds('step') and 'all-gather' in kinds


@pytest.mark.long
def test_the_checked_step_fits_and_has_more_instructions():
  plain, checked = measures()['step'], measures()['checked step']
  assert checked['code_bytes'] > plain['code_bytes'] and checked['peak_bytes'] < SLICE.chip.hbm_bytes


@pytest.mark.parametrize('slice_name', ['v5p:2x2x1', 'v6e:2x2'])
def test_the_checker_keeps_something_of_every_product(tmp_path, slice_name):
  # It repeats below HLO, where libtpu reports neither instructions nor time: only the scratch memory of an operation.
  command = ['-m', 'tests.programs.checked_product', slice_name]
  found = json.loads(processes.Commands(tmp_path).run(command, fresh=True).stdout)
  assert len(found['plain']) == len(found['checked']) >= 2
  assert all(checked > plain for plain, checked in zip(found['plain'], found['checked']))
