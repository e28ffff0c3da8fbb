"""A step of reinforcement learning on a slice: what fits together, and what a step takes. Needs no libtpu."""

import numpy as np
import pytest

from iquest_jax import batch
from iquest_jax.aot import decode, program, report_rl, rl, sweep, topology
from iquest_jax.kernels.gated_attention import Ids, block_pairs
from iquest_jax.model import cost, sizes
from launch import command

POD, GIB = topology.find('v5p-512'), 2**30
MODEL = sizes.get('40b_loop')


def configured(stage='rl_thinking', cloud='v5p-512', **options):
  config = command.experiment(f'{stage}:size=40b_loop,topology={cloud}')
  config.rl.update(options)
  return config


def measured(peak, argument=2 * GIB, seconds=1.0, kernels=()):
  """A program of so much memory, that runs so long on v5p besides its kernels."""
  return {
      'jax': '0', 'libtpu': '0', 'peak_bytes': int(peak * GIB), 'argument_bytes': argument, 'host_bytes': 0,
      'allocations': [], 'transfers': [], 'windows': [], 'kernels': list(kernels),
      'cycles': {'matrix': int(1.75e9 * seconds), 'memory': 0},
  }  # fmt: skip


READS = {'name': 'decode_attention', 'flops': 1, 'bytes': 2765e9 * 0.04, 'shape': [5, 5, 128], 'times': 1}
MEASURES = {
    'update': measured(30, seconds=20), 'decode': measured(50, seconds=0.02, kernels=[READS]),
    'prefill': measured(55, seconds=0.5),
}  # fmt: skip


def test_a_host_decodes_by_itself_with_the_slots_of_the_configuration():
  plan = rl.sampler(configured(), POD)
  assert (plan.slice_.name, plan.groups, plan.tensor, plan.slots) == ('v5p:2x2x1', 1, 4, 4)
  assert (plan.size, plan.row) == (98304, 8192)
  # rl_instruct leaves 16k of 32k to the prompt.
  assert rl.sampler(configured('rl_instruct', slots=6), POD).row == 16384


def test_both_programs_stay_in_memory():
  """By hand: of 40 billion parameters a chip of four holds a quarter in bfloat16, and of a slot of 96k a quarter."""
  plan = rl.sampler(configured(), POD)
  params = cost.num_params(MODEL)
  weights, slot = 2 * params / 4, 98304 * 327680 / 4 + 64 * 327680 / 4
  memory = rl.memory(configured(), POD, MEASURES, plan)
  assert memory.phases['update'] == pytest.approx(30 * GIB + weights + 4 * slot)
  assert memory.phases['roll-out'] == 2 * GIB + 55 * GIB
  assert memory.phases['sync'] == pytest.approx(2 * GIB + 2 * params / 256 + 2 * weights + 4 * slot)
  free = POD.chip.hbm_bytes - max(memory.phases.values())
  assert memory.fits and memory.slots == 4 + int(free // slot)
  # Without the state and the update, the sampler's own peak is the limit, or two copies of its parameters.
  alone = max(55 * GIB, 2 * params / 256 + 2 * weights + 4 * slot)
  assert memory.offloaded == 4 + int((POD.chip.hbm_bytes - alone) // slot) > memory.slots
  assert memory.host_bytes == 4 * 2 * GIB


@pytest.mark.parametrize(('name', 'peak'), [('update', 60), ('decode', 94), ('prefill', 94)])
def test_it_fits_only_if_every_phase_does(name, peak):
  plan = rl.sampler(configured(), POD)
  memory = rl.memory(configured(), POD, MEASURES | {name: measured(peak)}, plan)
  assert not memory.fits and memory.slots < 4
  refused = {'jax': '0', 'libtpu': '0', 'refused': 'RESOURCE_EXHAUSTED: no', 'needed_bytes': 1}
  memory = rl.memory(configured(), POD, MEASURES | {name: refused}, plan)
  assert not memory.fits
  text = report_rl.render('rl_thinking', configured(), POD, MEASURES | {name: refused}, plan, memory, ())
  assert 'DOES NOT FIT' in text and f'{name}: RESOURCE_EXHAUSTED' in text and 'a step, estimated' not in text


def stepped(lengths, config=None, slice_=POD):
  config = config or configured()
  return rl.step(config, slice_, MEASURES, rl.sampler(config, slice_), {}, lengths)


def test_a_step_as_long_as_allowed_takes_every_slot_through_four_waves():
  """By hand: 64 groups on 64 hosts, 16 roll-outs in 4 slots; a token takes 20 ms, and 40 ms with a full cache."""
  _, longest = rl.assumed(configured(), 0)
  assert (longest.prompt, longest.answer) == (8192, 90112)
  step = stepped(longest)
  filled = (8192 + 45056) / 98304
  assert step.waves == 4 and step.rollout == pytest.approx(4 * 90112 * (0.02 + 0.04 * filled))
  assert step.prefill == pytest.approx(16 * 0.5)
  # Every roll-out fills a row; 16 rows are a micro-batch, and two of them take 20 s.
  assert step.rows == 1024 and step.update == pytest.approx(64 * 20 / 2)
  flops = 3 * 1024 * cost.forward_flops(MODEL, 98304)
  assert step.flops == flops and step.mfu == pytest.approx(flops / (640 * 256 * 459e12))
  assert step.seconds == pytest.approx(step.rollout + step.prefill + step.update + step.sync)


def test_short_roll_outs_share_rows_and_their_flops_are_counted_by_documents():
  """By hand: 5 of 17,408 tokens in a row of 96k, so 205 rows, padded to a multiple of 16 x 2."""
  step = stepped(rl.Lengths(1024, 16384))
  assert step.rows == 224 and step.update < 14 * 20 / 2 + 1e-6
  assert step.flops == 3 * 1024 * cost.forward_flops(MODEL, 17408)
  assert step.prefill == pytest.approx(16 * 0.5 / 8)  # a row of 1,024 instead of 8,192


def test_hosts_beyond_the_groups_of_a_step_are_named():
  config, two = configured(cloud='v5p-512x2'), topology.find('v5p-512x2')
  plan = rl.sampler(config, two)
  text = report_rl.render('rl_thinking', config, two, MEASURES, plan, rl.memory(config, two, MEASURES, plan), ())
  assert '64 hosts have none' in text
  assert rl.rollouts_of_a_host(config, two) == 16 and rl.rollouts_of_a_host(config, topology.find('v5p-256')) == 32


def test_the_report_states_waves_slots_and_seconds():
  config = configured()
  plan = rl.sampler(config, POD)
  steps = tuple(stepped(lengths) for lengths in rl.assumed(config, 16384))
  memory = rl.memory(config, POD, MEASURES, plan)
  text = report_rl.render('rl_thinking 40b_loop', config, POD, MEASURES, plan, memory, steps)
  assert 'rl_thinking 40b_loop on v5p:8x8x4, 256 chips, 64 hosts: FITS' in text
  assert '4 slots of 98304 tokens (rl.slots), 256 in all; prompts up to 8192' in text
  assert '1024 (64 prompts x 16), if no group is dropped; at most 3072' in text
  assert 'if all have 1024 + 16384 tokens' in text and 'if all have 8192 + 90112 tokens' in text
  assert text.count('4 waves of 256') == 2 and '1024 rows' in text


@pytest.mark.parametrize('document', [8192, 3000, 1100, 700])
def test_packed_rows_have_the_block_pairs_that_the_kernels_list(document):
  config = configured()
  config.data.context, config.mesh.context = 8192, 2
  order = batch.zigzag(8192, 2)
  packed = 8192 // document * document
  place = np.arange(8192, dtype=np.int32)
  segments = np.where(place < packed, place // document + 1, 0).astype(np.int32)
  positions = np.where(place < packed, place % document, 0).astype(np.int32)

  def listed(segments, positions, own):
    of = lambda index: Ids(segments[index][None], positions[index][None])
    kind = np.asarray(block_pairs.forward(of(own), of(order), 512, 1024, None)[0].kind)
    return int(np.sum(kind % 4 != block_pairs.NOTHING))

  parts = order.reshape(2, -1)
  most = max(listed(segments, positions, own) for own in parts)
  whole = max(listed(np.ones_like(place), place, own) for own in parts)
  assert rl.attended(config, document) == most / whole


@pytest.mark.tpu
@pytest.mark.long
def test_the_update_of_packed_roll_outs_compiles_as_the_train_step_does():
  config, slice_ = configured(), topology.find('v5p:2x2x4')
  config.model.layers, config.data.context, config.rl.max_tokens = 1, 8192, 4096
  config.mesh = dict(data=2, fsdp=4, context=2, tensor=1)
  config.train.batch_rows, config.train.accumulation = 8, 1
  measure = sweep.compile_alone(config, slice_)
  assert program.for_estimate(measure)['peak_bytes'] < slice_.chip.hbm_bytes
  names = {kernel['name'].removeprefix('gated_') for kernel in measure['kernels']}
  assert names == {'attention_forward', 'attention_backward'}
  assert decode.plan(config, slice_.of_host(), 2, 4096).row == 4096
