"""The compiled step is checked, not hoped for: what libtpu makes of full-width train steps, on a machine without a TPU.

Small depth, full width. `make test` compiles a step with split parameters and one with split rows of 128k; `make
test-long` also the ring and a whole torus of 256.
"""

import functools
import importlib.util
import math
import re

import pytest

from iquest_jax.aot import estimate, sweep, topology
from iquest_jax.model import sizes
from launch import command

pytestmark = pytest.mark.skipif(importlib.util.find_spec('libtpu') is None, reason='libtpu, extra "tpu", is missing')

LAYERS = 2
M = sizes.get('40b')
# name -> (experiment, slice, mesh in the order of sharding.AXES, rows, overrides of train).
STEPS = {
    'fsdp': ('pretrain:size=40b', 'v5p:4x4x4', (4, 16, 1, 1), 64, {}),
    'context': ('midtrain_128k:size=40b_loop', 'v5p:4x4x4', (1, 4, 16, 1), 4, {}),
    'ring': ('midtrain_128k:size=40b_loop', 'v5p:4x4x4', (1, 4, 16, 1), 4, {'context_transport': 'ring'}),
    'torus': ('anneal:size=40b', 'v6e:16x16', (1, 256, 1, 1), 256, {}),
}
# Peak HBM of a chip as jax 0.10.2 and libtpu 0.0.42 compile them.
PEAK_BYTES = {'fsdp': 5_494_611_168, 'context': 5_748_552_448, 'ring': 5_115_929_344, 'torus': 3_348_326_624}
PASSES = {'fsdp': 1, 'context': 2, 'ring': 2, 'torus': 1}

BOTH = ['fsdp', 'context']
ALL = [*BOTH, *(pytest.param(name, marks=pytest.mark.long) for name in ('ring', 'torus'))]


def config_of(name):
  experiment, _, mesh, rows, train = STEPS[name]
  config = command.experiment(experiment)
  config.mesh = dict(zip(('data', 'fsdp', 'context', 'tensor'), mesh))
  config.model.layers, config.train.batch_rows, config.train.accumulation = LAYERS, rows, 1
  config.train.update(train)
  return config


@functools.cache
def measure(name):
  return sweep.compile_alone(config_of(name), topology.find(STEPS[name][1]))


def arrays(found):
  """Dimensions of every array a transfer carries."""
  return [tuple(map(int, dims.split(','))) for dims in re.findall(r'\w\[([\d,]+)\]', found['shape'])]


def is_keys(found):
  """Whether it carries keys and values, [..., positions, G, K] of one device or of all."""
  own = 131072 // 16
  return any({own, own * 16} & set(dims) and (M.kv_heads, M.head_dim) == dims[-2:] for dims in arrays(found))


def of_kind(name, kind):
  return [found for found in measure(name)['collectives'] if found['kind'] == kind]


def moved(name, kind, keys=False):
  return sum(found['moved'] for found in of_kind(name, kind) if is_keys(found) == keys)


@pytest.mark.parametrize('name', ALL)
def test_weights_arrive_by_all_gather_and_gradients_leave_by_reduce_scatter(name):
  _, fsdp, context, _ = STEPS[name][2]
  layer = 2 * (M.d_model * M.head_dim * 2 * (M.heads + M.kv_heads) + 3 * M.d_model * M.d_ff)
  ends, left = 2 * 2 * M.vocab * M.d_model, 1 - 1 / (fsdp * context)
  # Forward and backward gather every layer once a pass; embedding and head are gathered once and kept for the backward.
  gathered = left * (2 * PASSES[name] * LAYERS * layer + ends)
  assert moved(name, 'all-gather') == pytest.approx(gathered, rel=0.05)
  assert moved(name, 'reduce-scatter') == pytest.approx(left * (PASSES[name] * LAYERS * layer + ends), rel=0.05)


@pytest.mark.parametrize('name', ALL)
def test_nothing_as_large_as_a_weight_is_all_reduced(name):
  # The smallest weight is that of keys; what is left over data of split gradients is smaller than a matrix, too.
  for found in of_kind(name, 'all-reduce'):
    for dims in arrays(found):
      assert math.prod(dims) <= M.d_model * M.vocab / STEPS[name][2][1] and len(set(dims) & {M.d_model, M.d_ff}) < 2, found


@pytest.mark.parametrize('name', ['context', pytest.param('ring', marks=pytest.mark.long)])
def test_the_local_stream_moves_a_halo_of_128_rows(name):
  own = 131072 // 16
  permuted = [dims for found in of_kind(name, 'collective-permute') for dims in arrays(found) if len(dims) == 4]
  assert {dims[1] for dims in permuted} == ({128} if name == 'context' else {128, own})


def test_keys_travel_once_a_pass_each_way_and_their_gradients_once():
  whole = 2 * 131072 * M.kv_heads * M.head_dim * 2 * 15 / 16  # keys and values, bfloat16
  assert moved('context', 'all-gather', keys=True) == pytest.approx(2 * 2 * LAYERS * whole, rel=0.01)
  assert moved('context', 'reduce-scatter', keys=True) == pytest.approx(2 * LAYERS * whole, rel=0.01)


@pytest.mark.long
def test_no_device_of_a_ring_ever_holds_keys_of_the_whole_row():
  for found in measure('ring')['collectives']:
    assert all(131072 not in dims for dims in arrays(found)), found


@pytest.mark.parametrize('name', ALL)
def test_attention_is_the_kernel(name):
  assert measure(name)['kernels'] and all(kernel['flops'] for kernel in measure(name)['kernels'])


@pytest.mark.parametrize('name', ALL)
def test_peak_memory_is_the_recorded_one(name):
  assert measure(name)['peak_bytes'] == pytest.approx(PEAK_BYTES[name], rel=0.02)


@pytest.mark.parametrize('name', ALL)
def test_estimates_are_possible(name):
  found = estimate.estimate(measure(name), config_of(name), topology.find(STEPS[name][1]))
  assert found.fits and 0.2 < found.mfu < 0.9
  assert all(spent >= 0 for spent in found.seconds.values()) and found.dominant == 'matrix'
