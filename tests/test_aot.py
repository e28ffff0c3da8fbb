"""The compiled step is checked, not hoped for: what libtpu makes of full-width train steps, on a machine without a TPU.

Two compiles, side by side, of small depth on v5p:4x4x4: a step with split parameters, and one at 128k with split rows.
"""

import concurrent.futures
import importlib.util
import math
import re

import pytest

from iquest_jax.aot import estimate, sweep, topology
from iquest_jax.model import sizes
from launch import command

# Minutes a compile: with `make test-long`, where libtpu is installed.
pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(importlib.util.find_spec('libtpu') is None, reason='libtpu, extra "tpu", is missing'),
]

SLICE = topology.find('v5p:4x4x4')
LAYERS = 2
STEPS = {
    'fsdp': ('pretrain:size=40b', {'data': 4, 'fsdp': 16, 'context': 1, 'tensor': 1}, 64),
    'context': ('midtrain_128k:size=40b_loop', {'data': 1, 'fsdp': 4, 'context': 16, 'tensor': 1}, 4),
}
# Peak HBM of a chip as jax 0.10.2 and libtpu 0.0.42 compile the two.
PEAK_BYTES = {'fsdp': 5_662_383_328, 'context': 5_115_929_344}


def config_of(name):
  experiment, mesh, rows = STEPS[name]
  config = command.experiment(experiment)
  config.mesh, config.model.layers = mesh, LAYERS
  config.train.batch_rows, config.train.accumulation = rows, 1
  return config


@pytest.fixture(scope='module')
def measures():
  with concurrent.futures.ThreadPoolExecutor() as pool:
    jobs = {name: pool.submit(sweep.compile_alone, config_of(name), SLICE) for name in STEPS}
    return {name: job.result() for name, job in jobs.items()}


def arrays(found):
  """Dimensions of every array a transfer carries."""
  return [tuple(map(int, dims.split(','))) for dims in re.findall(r'\w\[([\d,]+)\]', found['shape'])]


def of_kind(measure, kind):
  return [found for found in measure['collectives'] if found['kind'] == kind]


def weight_bytes():
  """(bfloat16 bytes of one layer's matrices, of embedding and head together)."""
  m = sizes.get('40b')
  layer = m.d_model * m.head_dim * 2 * (m.heads + m.kv_heads) + 3 * m.d_model * m.d_ff
  return 2 * layer, 2 * 2 * m.vocab * m.d_model


def moved(measure, kind):
  return sum(found['moved'] for found in of_kind(measure, kind))


@pytest.mark.parametrize(('name', 'passes', 'left'), [('fsdp', 1, 15 / 16), ('context', 2, 63 / 64)])
def test_weights_arrive_by_all_gather_and_gradients_leave_by_reduce_scatter(measures, name, passes, left):
  layer, ends = weight_bytes()
  # Forward and backward gather every layer once a pass; embedding and head are gathered once and kept for the backward.
  gathered = left * (2 * passes * LAYERS * layer + ends)
  assert moved(measures[name], 'all-gather') == pytest.approx(gathered, rel=0.05)
  assert moved(measures[name], 'reduce-scatter') == pytest.approx(left * (passes * LAYERS * layer + ends), rel=0.05)


@pytest.mark.parametrize('name', STEPS)
def test_no_weight_sized_array_is_all_reduced(measures, name):
  m = sizes.get('40b')
  weights = {m.d_model * m.d_ff, m.d_model * m.heads * m.head_dim, m.d_model * m.kv_heads * m.head_dim}
  for found in of_kind(measures[name], 'all-reduce'):
    for dims in arrays(found):
      assert math.prod(dims) not in weights and math.prod(dims) <= m.d_model * m.vocab / 16, found


def test_the_halo_is_128_rows_and_a_hop_one_part_of_the_row(measures):
  own = 131072 // 16
  rows = {dims[1] for found in of_kind(measures['context'], 'collective-permute') for dims in arrays(found) if len(dims) == 4}
  assert rows == {128, own}
  for found in measures['context']['collectives']:
    assert all(131072 not in dims for dims in arrays(found)), found


def test_attention_is_the_kernel(measures):
  assert all(measure['kernels'] and all(kernel['flops'] for kernel in measure['kernels']) for measure in measures.values())


@pytest.mark.parametrize('name', STEPS)
def test_peak_memory_is_the_recorded_one(measures, name):
  assert measures[name]['peak_bytes'] == pytest.approx(PEAK_BYTES[name], rel=0.02)


@pytest.mark.parametrize('name', STEPS)
def test_estimates_are_possible(measures, name):
  found = estimate.estimate(measures[name], config_of(name), SLICE)
  assert found.fits and 0.2 < found.mfu < 0.9
  assert all(spent >= 0 for spent in found.seconds.values()) and found.dominant == 'matrix'
