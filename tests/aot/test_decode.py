"""Decoding on a slice: what fits, what a token reads, and what libtpu makes of the two programs."""

import math
import re

import pytest

from iquest_jax.aot import decode, report, sweep, topology
from iquest_jax.errors import UserError
from launch import command

POD = topology.find('v5p-512')
MEASURE = {
    'jax': '0', 'libtpu': '0', 'peak_bytes': 80 * 2**30, 'argument_bytes': 2**30, 'host_bytes': 0, 'allocations': [],
    'transfers': [{'kind': 'all-reduce', 'links': 6, 'times': 320, 'moved': 6e8}], 'windows': [],
    'kernels': [{'name': 'decode_attention', 'flops': 1, 'bytes': 2765e6, 'shape': [5, 5, 128], 'times': 80}],
    'cycles': {'matrix': 1.75e7, 'memory': 1.75e6},
}  # fmt: skip
MEASURES = {'decode': MEASURE | {'peak_bytes': 70 * 2**30}, 'prefill': MEASURE}


def planned(stage='sft_thinking:size=40b_loop', slice_=POD, slots=0, **model):
  config = command.experiment(stage)
  config.model.update(model)
  return decode.plan(config, slice_, slots)


def test_a_slot_holds_the_keys_of_the_first_pass_in_full_and_a_window_of_the_second():
  """By hand, for 96k: 2 x 2 bytes x 80 layers x 8 heads x 128 = 327,680 bytes per token, 32.2 GB; 64 tokens are 21 MB."""
  config = command.experiment('sft_thinking:size=40b_loop')
  config.data.context = 98304
  plan = decode.plan(config, POD)
  assert plan.far_bytes == 98304 * 327680 == 32_212_254_720
  assert plan.slot_bytes - plan.far_bytes == 64 * 327680 == 20_971_520
  assert planned('sft_thinking:size=40b').slot_bytes == 131072 * 327680


def test_a_token_reads_both_passes_of_its_cache_and_its_share_of_the_weights():
  """By hand: 80 layers of 487,587,840 + 5,160 (gates) parameters twice, and the head, in bfloat16, for 4 slots."""
  layer = 5120 * 128 * (2 * 40 + 2 * 8) + 3 * 5120 * 27648 + 2 * 5120 + 40 * 129
  weights = 2 * (2 * (80 * layer + 5120) + 76800 * 5120)
  plan = planned(slots=4)
  assert plan.token_bytes == weights / 4 + 2 * plan.far_bytes + 64 * 327680


def test_groups_of_eight_chips_split_heads_and_have_slots_of_their_own():
  plan = planned(slots=4)
  assert (plan.groups, plan.tensor, plan.groups * plan.slots) == (32, 8, 128)
  assert planned(slice_=topology.find('v5p-8')).tensor == 4


def test_slots_are_as_many_as_fit_beside_the_parameters_and_the_rows_of_a_prefill():
  plan = planned()
  left = 8 * POD.chip.hbm_bytes - 2 * 40e9 - 5 * plan.slot_bytes
  assert plan.slots == pytest.approx(left / plan.slot_bytes, abs=1)
  with pytest.raises(UserError, match='slots of 131072 tokens must fit v5e-8 .* got none; choose a larger slice'):
    planned(slice_=topology.find('v5e-8'))


def test_a_step_is_the_sum_of_its_parts_and_draws_a_token_for_every_slot():
  plan = planned(slots=4)
  estimated = decode.estimated(MEASURES, plan, {})
  assert estimated.step == pytest.approx({'matrix': 0.01, 'memory': 0.001, 'kernels': 0.08, 'links': 0.001, 'host': 0})
  assert estimated.tokens_per_second == pytest.approx(128 / 0.092) and estimated.dominant == 'kernels'
  # 15.74 GiB are left per chip, and a slot takes 5.003.
  assert estimated.fits and estimated.peak_bytes == 80 * 2**30 and estimated.more == 3
  text = report.render_decode('sft_thinking 40b_loop', MEASURES, estimated)
  assert '128 of 131072 tokens, 4 per group; the rest of the HBM would hold 3 more' in text
  assert '92.0 ms, most of it kernels' in text and '1391 tokens/s with full slots, 5.4 per chip' in text
  table = report.decode_table({('40b_loop', 131072): {'v5p-512': estimated}})
  assert '| 40b_loop | 131072 | 128 slots, 80.0 GiB, 92 ms, 1391 tokens/s |' in table


@pytest.mark.parametrize(
    ('measure', 'says'),
    [
        ({'jax': '0', 'libtpu': '0', 'refused': 'RESOURCE_EXHAUSTED: no', 'needed_bytes': 2**37}, 'RESOURCE_EXHAUSTED'),
        (MEASURE | {'peak_bytes': 96 * 2**30}, '96.00 GiB of 95.74 GiB'),
    ],
)
def test_decoding_fits_only_if_both_programs_do(measure, says):
  measures = MEASURES | {'prefill': measure}
  estimated = decode.estimated(measures, planned(slots=4), {})
  assert not estimated.fits and estimated.more == 0
  text = report.render_decode('sft_thinking 40b_loop', measures, estimated)
  assert 'DOES NOT FIT' in text and says in text and 'tokens/s' not in text
  assert '**do not fit**' in report.decode_table({('40b_loop', 131072): {'v5p-512': estimated}})


@pytest.mark.tpu
def test_a_step_moves_sums_of_activations_and_no_weight_and_no_cache():
  config, slice_ = command.experiment('sft_thinking:size=40b_loop'), topology.find('v5p:2x2x4')
  config.model.layers, config.data.context = 2, 1024
  measures = sweep.compile_alone(config, slice_, 'decode', slots=4)
  moved = measures['decode']['transfers']
  assert {each['kind'] for each in moved} == {'all-reduce', 'all-gather'} and not measures['decode']['windows']
  for each in moved:
    for dims in re.findall(r'\w\[([\d,]+)\]', each['shape']):
      # Rows of 4 slots: hidden states are summed, logits gathered.
      assert math.prod(map(int, dims.split(','))) <= 2 * 4 * 76800, each
  names = {kernel['name'] for kernel in measures['decode']['kernels']}
  assert names == {'decode_attention', 'gated_decode_attention'}
  assert decode.estimated(measures, decode.plan(config, slice_, 4), {}).fits
