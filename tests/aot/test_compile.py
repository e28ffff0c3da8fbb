"""What libtpu makes of train steps of full width and two layers, on a machine without a TPU.

A compile takes minutes. `make test-tpu` compiles a step with replicas, split parameters and split rows of 128k, which
covers every promise but the ring's, and one of two slices; `make test-long` also a dense step, a ring and a whole torus
of 256.
"""

import functools
import math
import re

import pytest

from iquest_jax.aot import bundles, estimate, sweep, topology
from iquest_jax.model import sizes
from launch import command
from launch.aot import BUNDLES

pytestmark = pytest.mark.tpu

LAYERS = 2
M = sizes.get('40b')
# name -> (experiment, slice, mesh in the order of sharding.AXES, rows, overrides of train).
STEPS = {
    'fsdp': ('pretrain:size=40b', 'v5p:4x4x4', (4, 16, 1, 1), 64, {}),
    'context': ('midtrain_128k:size=40b_loop', 'v5p:4x4x4', (2, 2, 16, 1), 4, {}),
    'ring': ('midtrain_128k:size=40b_loop', 'v5p:4x4x4', (1, 4, 16, 1), 4, {'context_transport': 'ring'}),
    'torus': ('anneal:size=40b', 'v6e:16x16', (1, 256, 1, 1), 256, {}),
    'slices': ('pretrain:size=40b', 'v5p-8x2', (2, 4, 1, 1), 8, {}),
}
# Peak HBM per chip, reported by libtpu 0.0.42 under jax 0.10.2.
PEAK_BYTES = {'fsdp': 5_494_611_168, 'context': 6_170_206_464, 'ring': 5_115_929_344, 'torus': 3_348_326_624}
PASSES = {'fsdp': 1, 'context': 2, 'ring': 2, 'torus': 1}

ALL = ['context', *(pytest.param(name, marks=pytest.mark.long) for name in ('fsdp', 'ring', 'torus'))]


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


def arrays(transfer):
  """Dimensions of every array that a transfer carries."""
  return [tuple(map(int, dims.split(','))) for dims in re.findall(r'\w\[([\d,]+)\]', transfer['shape'])]


def is_keys(transfer):
  """Whether it carries keys and values, [..., positions, G, K], of one device or of all."""
  own = 131072 // 16
  return any({own, own * 16} & set(dims) and (M.kv_heads, M.head_dim) == dims[-2:] for dims in arrays(transfer))


def transfers(name):
  """Every transfer, with what it moves per step, whether other work hides it or not."""
  hidden = [
      each | {'moved': window['times'] * each['moved']}
      for window in measure(name)['windows']
      for each in window['transfers']
  ]
  return measure(name)['transfers'] + hidden


def of_kind(name, kind):
  return [transfer for transfer in transfers(name) if transfer['kind'] == kind]


def moved(name, kind, keys=False):
  return sum(transfer['moved'] for transfer in of_kind(name, kind) if is_keys(transfer) == keys)


@pytest.mark.parametrize('name', ALL)
def test_weights_arrive_by_all_gather_and_gradients_leave_by_reduce_scatter(name):
  _, fsdp, context, _ = STEPS[name][2]
  layer = 2 * (M.d_model * M.head_dim * 2 * (M.heads + M.kv_heads) + 3 * M.d_model * M.d_ff)
  ends, left = 2 * 2 * M.vocab * M.d_model, 1 - 1 / (fsdp * context)
  # Forward and backward gather every layer once per pass; embedding and head are gathered once and kept for the backward.
  gathered = left * (2 * PASSES[name] * LAYERS * layer + ends)
  assert moved(name, 'all-gather') == pytest.approx(gathered, rel=0.05)
  assert moved(name, 'reduce-scatter') == pytest.approx(left * (PASSES[name] * LAYERS * layer + ends), rel=0.05)


@pytest.mark.parametrize('name', ALL)
def test_nothing_as_large_as_a_weight_is_all_reduced(name):
  # Split gradients are all-reduced over data; those parts are smaller than a matrix too.
  for transfer in of_kind(name, 'all-reduce'):
    for dims in arrays(transfer):
      assert math.prod(dims) <= M.d_model * M.vocab / STEPS[name][2][1], transfer
      assert len(set(dims) & {M.d_model, M.d_ff}) < 2, transfer


def test_of_two_slices_each_has_all_weights_and_only_gradients_cross_the_network_once():
  layer = 2 * M.d_model * M.head_dim * (M.heads + M.kv_heads) + 3 * M.d_model * M.d_ff
  crosses = of_kind('slices', 'between slices')
  # Summed in float32; a chip sends what it has, a quarter of the parameters, 2 (n - 1) / n times.
  own = (LAYERS * layer + 2 * M.vocab * M.d_model) / 4
  assert sum(each['moved'] for each in crosses) == pytest.approx(4 * own, rel=0.01)
  # Gathering weights and scattering gradients stay within a slice.
  gathered = 3 / 4 * 2 * (2 * LAYERS * layer + 2 * M.vocab * M.d_model)
  assert moved('slices', 'all-gather') == pytest.approx(gathered, rel=0.05)


@pytest.mark.parametrize('name', ['context', pytest.param('ring', marks=pytest.mark.long)])
def test_the_local_stream_moves_a_halo_of_128_rows(name):
  own = 131072 // 16
  permuted = [dims for transfer in of_kind(name, 'collective-permute') for dims in arrays(transfer) if len(dims) == 4]
  assert {dims[1] for dims in permuted} == ({128} if name == 'context' else {128, own})


def test_keys_are_gathered_twice_per_pass_and_their_gradients_scattered_once():
  whole = 2 * 131072 * M.kv_heads * M.head_dim * 2 * 15 / 16  # keys and values, bfloat16
  assert moved('context', 'all-gather', keys=True) == pytest.approx(2 * 2 * LAYERS * whole, rel=0.01)
  assert moved('context', 'reduce-scatter', keys=True) == pytest.approx(2 * LAYERS * whole, rel=0.01)


@pytest.mark.long
def test_no_device_of_a_ring_ever_holds_keys_of_the_whole_row():
  for transfer in transfers('ring'):
    assert all(131072 not in dims for dims in arrays(transfer)), transfer


@pytest.mark.parametrize('name', ALL)
def test_attention_is_the_kernel(name):
  kernels = measure(name)['kernels']
  assert {kernel['name'].removeprefix('gated_') for kernel in kernels} == {'attention_forward', 'attention_backward'}
  assert all(kernel['flops'] for kernel in kernels)


@pytest.mark.parametrize('name', ALL)
def test_peak_memory_is_the_recorded_one(name):
  assert measure(name)['peak_bytes'] == pytest.approx(PEAK_BYTES[name], rel=0.02)


@pytest.mark.parametrize('name', ALL)
def test_the_estimate_is_plausible(name):
  slice_ = topology.find(STEPS[name][1])
  estimated = estimate.estimate(measure(name), config_of(name), slice_, bundles.load(BUNDLES))
  assert estimated.fits and 0.2 < estimated.mfu < 0.9
  assert all(seconds >= 0 for seconds in estimated.seconds.values()) and estimated.dominant in ('matrix', 'kernels')
