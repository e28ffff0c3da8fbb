"""From a measure to an estimate and a report. Needs no libtpu."""

import pytest

from iquest_jax.aot import estimate, program, report, topology
from launch import command

GATHER = {'kind': 'all-gather', 'channels': [1], 'shape': 'bf16[2,3]', 'size': 12, 'group': 2, 'links': 2}
PERMUTE = GATHER | {'kind': 'collective-permute', 'channels': [3], 'links': 1}
KERNEL = {'name': 'decode', 'flops': 459e12, 'bytes': 1, 'shape': [1, 8], 'times': 2}
CYCLES = 1.75e9  # per second
MEASURE = {
    'jax': '0', 'libtpu': '0', 'peak_bytes': 10 * 2**30, 'argument_bytes': 2**30, 'host_bytes': 0,
    'allocations': [(2**30, 'bf16[2,3]{1,0}', 'jit(f)/dot')],
    'transfers': [
        GATHER | {'times': 3, 'moved': 0.4e11},
        GATHER | {'channels': [2], 'shape': 'bf16[9,3]', 'size': 54, 'times': 4, 'moved': 0.6e11},
    ],
    'windows': [
        # 10 windows of half a second over the link, behind 0.2 s of cycles and 0.1 s of a kernel: 2 s show.
        {'transfers': [PERMUTE | {'times': 2, 'moved': 0.5e11}], 'cycles': int(0.2 * CYCLES), 'times': 10,
         'kernels': [KERNEL | {'flops': 45.9e12, 'times': 1}]},
        # 5 windows of a tenth, behind a second: nothing shows, and none of the rest hides the windows above.
        {'transfers': [PERMUTE | {'times': 2, 'moved': 0.1e11}], 'cycles': int(CYCLES), 'times': 5, 'kernels': []},
        # Two copies of a second to the host, behind half a second: 1 s shows.
        {'transfers': [PERMUTE | {'kind': 'to host', 'times': 1, 'moved': 15e9}], 'cycles': int(0.5 * CYCLES), 'times': 2,
         'kernels': []},
    ],
    'kernels': [KERNEL],
    'cycles': {'matrix': int(CYCLES * 30), 'memory': int(CYCLES * 0.5)},
}  # fmt: skip


POD, TRILLIUM = topology.find('v5p-512'), topology.find('v6e-256')
PRETRAIN = 'pretrain:size=7b'


def estimated_of(measure, slice_=POD, bundles=None, **kwargs):
  return estimate.estimate(measure, command.experiment(PRETRAIN), slice_, bundles or {}, **kwargs)


def test_a_step_is_the_sum_of_its_parts_and_each_transfer_hides_behind_its_own_work_only():
  estimated = estimated_of(MEASURE)
  assert estimated.seconds == pytest.approx({'matrix': 30, 'memory': 0.5, 'kernels': 2, 'links': 0.5 + 2, 'host': 1})
  assert estimated.hidden == pytest.approx({'links': 3 + 0.5, 'host': 1})
  assert estimated.step_seconds == pytest.approx(36) and estimated.dominant == 'matrix'
  assert estimated.moved == {'all-gather': 1e11, 'collective-permute': 5.5e11, 'to host': 30e9}
  assert estimated.tokens_per_chip_second == pytest.approx(4 * 2**20 / 36 / 256)


def test_sums_over_slices_take_the_network_and_hide_behind_what_runs_meanwhile():
  """By hand: 50 GB at 6.25 GB/s are 8 s; 3 s of work run meanwhile."""
  between = {'kind': 'between slices', 'links': 1, 'times': 1, 'moved': 50e9}
  window = {'transfers': [between], 'cycles': int(CYCLES * 3), 'kernels': [], 'times': 2}
  two = topology.find('v5p-512x2')
  estimated = estimated_of({**MEASURE, 'windows': [window]}, two)
  assert estimated.seconds['network'] == pytest.approx(2 * 5) and estimated.hidden['network'] == pytest.approx(2 * 3)
  assert estimated.moved['between slices'] == pytest.approx(100e9)
  text = report.render('pretrain 7b', command.experiment(PRETRAIN), two, MEASURE, estimated)
  assert 'joins 2 slices; 6.25 GB/s per chip and direction, as published' in text
  assert 'network                10.000 s, and 6.000 s behind other work' in text


def attention(direction, pairs, queries=1024, stream='gated_'):
  """A kernel of two heads that computes `pairs` block pairs per head and, with two streams, 256 keys per query."""
  scores = pairs * 512 * 1024 + (queries * 256 if stream else 0)
  flops = {'forward': 4, 'backward': 10}[direction] * 128 * 2 * scores
  shape = [1, 2, queries, 128]
  return {'name': f'{stream}attention_{direction}', 'flops': flops, 'bytes': 1, 'shape': shape, 'times': 1}


COUNTS = {
    'forward': [2000, 2100], 'forward_step': {'step': 100, 'local': 300},
    'backward': [4000, 4100], 'backward_step': {'step': 200, 'local': 500},
}  # fmt: skip


@pytest.mark.parametrize(
    ('slice_', 'kernel', 'cycles'),
    [
        # v5p, two cores: 6 pairs of 2000 + 100 bundles; 4 query blocks, each with a masked pair and a local stream.
        (POD, attention('forward', 3), (6 * 2100 + 4 * 400) / 2),
        (POD, attention('forward', 3, stream=''), (6 * 2100 + 4 * 100) / 2),
        # The matrix units take 5 products x 2 x 512 x 1024 x 128 FLOPs / 131,072 = 5120 cycles of a core for a pair.
        (POD, attention('backward', 3), (6 * 5120 + 4 * 600) / 2),
        # v6e, one core: 128 fills half of a side of 256, so 262,144 FLOPs per cycle: 1024 and 2560 cycles.
        (TRILLIUM, attention('forward', 3), 6 * 2100 + 4 * 400),
        (TRILLIUM, attention('backward', 3), 6 * 4200 + 4 * 600),
    ],
)  # fmt: skip
def test_attention_takes_the_larger_of_its_bundles_and_the_time_of_its_products(slice_, kernel, cycles):
  bundles = {'v5p': COUNTS, 'v6e': COUNTS}
  seconds = estimated_of({**MEASURE, 'kernels': [kernel]}, slice_, bundles).seconds['kernels']
  assert seconds == pytest.approx(cycles / CYCLES, rel=2e-3)  # peak rates are published with three digits


def test_without_bundle_counts_half_filled_matrix_units_bound_attention():
  kernel = attention('backward', 3, stream='')
  seconds = estimated_of({**MEASURE, 'kernels': [kernel]}, TRILLIUM).seconds['kernels']
  assert seconds == pytest.approx(6 * 2560 / CYCLES, rel=2e-3)


def test_at_a_published_rate_attention_takes_its_flops_over_that_share_of_peak():
  measure = {**MEASURE, 'kernels': [attention('backward', 3, stream=''), KERNEL]}
  estimated = estimated_of(measure, POD, {'v5p': COUNTS}, attention_rate=0.5)
  assert estimated.seconds['kernels'] == pytest.approx(6 * 5120 / CYCLES + 2, rel=2e-3)


@pytest.mark.parametrize('rate', [None, 0.5])
def test_rows_of_several_documents_cost_the_block_pairs_that_they_have(rate):
  """The local stream is as wide in any row."""
  kernel, half = attention('forward', 4), attention('forward', 2)
  of = lambda kernel, **how: estimate.one_kernel(kernel, POD.chip, COUNTS, rate, **how)
  assert of(kernel, attended=0.5) == pytest.approx(of(half)) and of(kernel, attended=1.0) == of(kernel)
  assert estimate.one_kernel(KERNEL, POD.chip, COUNTS, rate, attended=0.5) == of(KERNEL)


def test_a_kernel_takes_at_least_the_time_of_its_bytes():
  for kernel in (KERNEL, attention('forward', 3)):
    measure = {**MEASURE, 'kernels': [kernel | {'bytes': 2765e9 * 7, 'times': 1}]}
    assert estimated_of(measure, POD, {'v5p': COUNTS}).seconds['kernels'] == pytest.approx(7)


@pytest.mark.parametrize(('over', 'fits'), [(0, True), (1, False)])
def test_a_peak_beyond_the_hbm_does_not_fit(over, fits):
  config = command.experiment('pretrain:size=7b')
  full = MEASURE | {'peak_bytes': int(95.74 * 2**30) + over}
  estimated = estimated_of(full)
  assert estimated.fits == fits
  assert ('DOES NOT FIT' in report.render('pretrain 7b', config, POD, full, estimated)) != fits


def test_the_recorded_part_of_a_measure_gives_the_same_estimate():
  recorded = program.for_estimate(MEASURE)
  assert recorded['transfers'] == [{'kind': 'all-gather', 'links': 2, 'times': 7, 'moved': 1e11}]
  assert [window['times'] for window in recorded['windows']] == [10, 5, 2]
  assert 'allocations' not in recorded and recorded['kernels'] == MEASURE['kernels']
  assert estimated_of(recorded) == estimated_of(MEASURE)


def test_equal_windows_are_recorded_as_one():
  other = MEASURE['windows'][0] | {'transfers': [PERMUTE | {'channels': [9], 'times': 2, 'moved': 0.5e11}]}
  measure = {**MEASURE, 'windows': [*MEASURE['windows'], other]}
  recorded = program.for_estimate(measure)
  assert [window['times'] for window in recorded['windows']] == [20, 5, 2]
  assert estimated_of(recorded).seconds == pytest.approx(estimated_of(measure).seconds)


def test_the_report_states_memory_transfers_and_time():
  config = command.experiment(PRETRAIN)
  text = report.render('pretrain 7b', config, POD, MEASURE, estimated_of(MEASURE))
  assert 'FITS' in text and '10.00 GiB of 95.74 GiB' in text and '36.00 s, most of it matrix units' in text
  assert '100.000 GB         7' in text and '550.000 GB        30' in text
  assert 'links                   2.500 s, and 3.500 s behind other work' in text


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
  text = report.render('midtrain_128k', config, POD, MEASURE, estimated_of(MEASURE))
  assert '2.50 GiB  dK1, dV1' in text


def test_a_program_that_the_compiler_refuses_does_not_fit():
  config, slice_ = command.experiment('pretrain:size=7b'), topology.find('v6e-256')
  refused = {'jax': '0', 'libtpu': '0', 'refused': 'RESOURCE_EXHAUSTED: no', 'needed_bytes': 2**36}
  estimated = estimated_of(refused, slice_)
  assert not estimated.fits and program.for_estimate(refused) == refused
  text = report.render('pretrain 7b', config, slice_, refused, estimated)
  assert 'DOES NOT FIT' in text and '64.00 GiB of 31.25 GiB' in text and 'RESOURCE_EXHAUSTED' in text
  row = ('7b', 'pretrain, anneal')
  fitting, slower = estimated_of(MEASURE), estimated_of({**MEASURE, 'cycles': {'matrix': 0, 'memory': 0}})
  text = report.table({row: {'v5p-512': fitting, 'v6e-256': estimated}}, {row: slower}, 'jax 0, libtpu 0')
  assert '| v5p-512, attention at 66 % |' in text
  assert '| 7b | pretrain, anneal | 10.0 GiB, 36.0 s, 5 % | **does not fit**: 64.0 of 31.2 GiB | 5.5 s, 30 % |' in text
