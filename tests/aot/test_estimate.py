"""From a measure to an estimate and a report. Needs no libtpu."""

import pytest

from iquest_jax.aot import estimate, program, report, topology
from launch import command

MEASURE = {
    'jax': '0', 'libtpu': '0', 'peak_bytes': 10 * 2**30, 'argument_bytes': 2**30, 'host_bytes': 0,
    'allocations': [(2**30, 'bf16[2,3]{1,0}', 'jit(f)/dot')],
    'collectives': [
        {'kind': 'all-gather', 'channels': [1], 'shape': 'bf16[2,3]', 'size': 12, 'group': 2, 'links': 2, 'hidden': False,
         'times': 3, 'moved': 0.4e11},
        {'kind': 'all-gather', 'channels': [2], 'shape': 'bf16[9,3]', 'size': 54, 'group': 2, 'links': 2, 'hidden': False,
         'times': 4, 'moved': 0.6e11},
        {'kind': 'collective-permute', 'channels': [3], 'shape': 'bf16[2,3]', 'size': 12, 'group': 1, 'links': 1,
         'hidden': True, 'times': 1, 'moved': 1e11},
    ],
    'kernels': [{'name': 'attention', 'flops': 459e12, 'bytes': 1, 'times': 2}],
    'cycles': {'matrix': int(1.75e9 * 30), 'memory': int(1.75e9 * 0.5)},
}  # fmt: skip


POD = topology.find('v5p-512')


def test_the_parts_of_a_step_add_up_and_hidden_transfers_do_not_count():
  estimated = estimate.estimate(MEASURE, command.experiment('pretrain:size=7b'), POD)
  assert estimated.seconds == pytest.approx({'matrix': 30, 'memory': 0.5, 'kernels': 2, 'links': 0.5, 'links_hidden': 1})
  assert estimated.step_seconds == pytest.approx(33) and estimated.dominant == 'matrix'
  assert estimated.tokens_per_chip_second == pytest.approx(4 * 2**20 / 33 / 256)


def test_a_hidden_transfer_counts_as_far_as_it_outlasts_the_work():
  slow = MEASURE | {'collectives': [MEASURE['collectives'][2] | {'moved': 40e11}]}
  assert estimate.estimate(slow, command.experiment('pretrain:size=7b'), POD).step_seconds == pytest.approx(40)


@pytest.mark.parametrize(('over', 'fits'), [(0, True), (1, False)])
def test_a_peak_beyond_the_hbm_does_not_fit(over, fits):
  config = command.experiment('pretrain:size=7b')
  full = MEASURE | {'peak_bytes': int(95.74 * 2**30) + over}
  estimated = estimate.estimate(full, config, POD)
  assert estimated.fits == fits
  assert ('DOES NOT FIT' in report.render('pretrain 7b', config, POD, full, estimated)) != fits


def test_the_recorded_part_of_a_measure_gives_the_same_estimate():
  config, recorded = command.experiment('pretrain:size=7b'), program.for_estimate(MEASURE)
  assert recorded['collectives'] == [
      {'kind': 'all-gather', 'links': 2, 'hidden': False, 'times': 7, 'moved': 1e11, 'channels': [1, 2]},
      {'kind': 'collective-permute', 'links': 1, 'hidden': True, 'times': 1, 'moved': 1e11, 'channels': [3]},
  ]
  assert 'allocations' not in recorded and recorded['kernels'] == MEASURE['kernels']
  assert estimate.estimate(recorded, config, POD) == estimate.estimate(MEASURE, config, POD)


def test_the_report_states_memory_transfers_and_time():
  config = command.experiment('pretrain:size=7b')
  text = report.render('pretrain 7b', config, POD, MEASURE, estimate.estimate(MEASURE, config, POD))
  assert 'FITS' in text and '10.00 GiB of 95.74 GiB' in text and '33.00 s, most of it matrix units' in text
  assert '100.000 GB         7' in text


def test_the_report_lists_what_the_backward_pass_keeps_and_its_gradients():
  gib = lambda **changes: {name: size / 2**30 for name, size in estimate.kept_for_backward(changed(**changes)).items()}

  def changed(size='40b_loop', **train):
    config = command.experiment(f'midtrain_128k:size={size}')
    config.train.update(train)
    return config

  assert gib() == {'layer inputs': 12.5, 'attention outputs': 12.5, 'K1, V1': 2.5, 'dK1, dV1': 2.5}
  assert gib(remat='offload') == {'layer inputs (host)': 12.5, 'attention outputs': 12.5, 'K1, V1': 2.5, 'dK1, dV1': 2.5}
  assert gib(size='40b', remat='full') == {'layer inputs': 6.25} and gib(remat='dots') == {}
  config = changed()
  text = report.render('midtrain_128k', config, POD, MEASURE, estimate.estimate(MEASURE, config, POD))
  assert '2.50 GiB  dK1, dV1' in text


def test_a_program_that_the_compiler_refuses_does_not_fit():
  config, slice_ = command.experiment('pretrain:size=7b'), topology.find('v6e-256')
  refused = {'jax': '0', 'libtpu': '0', 'refused': 'RESOURCE_EXHAUSTED: no', 'needed_bytes': 2**36}
  estimated = estimate.estimate(refused, config, slice_)
  assert not estimated.fits and program.for_estimate(refused) == refused
  text = report.render('pretrain 7b', config, slice_, refused, estimated)
  assert 'DOES NOT FIT' in text and '64.00 GiB of 31.25 GiB' in text and 'RESOURCE_EXHAUSTED' in text
  fitting = estimate.estimate(MEASURE, config, POD)
  text = report.table({('7b', 'pretrain, anneal'): {'v5p-512': fitting, 'v6e-256': estimated}}, 'jax 0, libtpu 0')
  assert '| 7b | pretrain, anneal | 10.0 GiB, 33.0 s, 5 % | **does not fit**: 64.0 of 31.2 GiB |' in text
