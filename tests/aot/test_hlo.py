"""Reading HLO: runs per step, transfers, kernels and buffers. Needs no libtpu."""

import functools
import re

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec

from iquest_jax import sharding
from iquest_jax.aot import hlo


def parsed(function, *args):
  return hlo.Module(jax.jit(function).lower(*args).compile().as_text())


def test_an_instruction_counts_once_per_iteration_of_its_loops():
  mesh = sharding.make_mesh({'data': 2, 'fsdp': 2, 'context': 2, 'tensor': 1})

  @functools.partial(jax.shard_map, mesh=mesh, in_specs=PartitionSpec(), out_specs=PartitionSpec(), check_vma=False)
  def summed(x):
    def outer(x, _):
      x = jax.lax.scan(lambda x, _: (jax.lax.psum(jnp.tanh(x), 'fsdp'), None), x, length=3)[0]
      return jax.lax.all_gather(x, 'context').sum(0), None

    return jax.lax.scan(outer, x, length=5)[0]

  alone, windows = parsed(summed, jnp.ones((4, 128))).transfers()
  by_kind = {each.kind: each for each in alone}
  assert not windows
  assert {kind: each.times for kind, each in by_kind.items()} == {'all-reduce': 15, 'all-gather': 5}
  assert {each.group for each in by_kind.values()} == {2} and all(len(each.channels) == 1 for each in by_kind.values())
  assert by_kind['all-reduce'].size == 4 * 128 * 4 and by_kind['all-gather'].size == 2 * 4 * 128 * 4
  assert by_kind['all-reduce'].moved == 15 * 2 * 2048 / 2 and by_kind['all-gather'].moved == 5 * 4096 / 2


def test_a_scatter_counts_its_whole_argument_and_a_permute_what_it_sends():
  mesh = sharding.make_mesh({'data': 1, 'fsdp': 8, 'context': 1, 'tensor': 1})

  @functools.partial(jax.shard_map, mesh=mesh, in_specs=PartitionSpec(), out_specs=PartitionSpec('fsdp'), check_vma=False)
  def spread(x):
    ring = [(n, (n + 1) % 8) for n in range(8)]
    return jax.lax.ppermute(jax.lax.psum_scatter(x, 'fsdp', tiled=True), 'fsdp', ring)

  moved = {each.kind: each.moved for each in parsed(spread, jnp.ones((64, 128))).transfers()[0]}
  assert moved == {'reduce-scatter': 64 * 128 * 4 * 7 / 8, 'collective-permute': 8 * 128 * 4}


@pytest.mark.parametrize(
    ('groups', 'size'),
    [
        ('replica_groups={{0,1,2},{3,4,5}}', 3),
        ('replica_groups=[4,16]<=[64]', 16),
        ("replica_groups=mesh['axis_0'=4,'axis_1'=16] {'axis_1'}", 16),
        ("replica_groups=mesh['axis_0'=4,'axis_1'=16] {'axis_0','axis_1'}", 64),
        ("replica_groups=mesh['axis_0'=64] {'axis_0':(4)16}", 16),
        ('dimensions={0}', 1),
    ],
)
def test_replica_groups_are_read_in_every_notation(groups, size):
  assert hlo.group_size(f'%x), channel_id=1, {groups}, use_global_device_ids=true') == size


def test_sizes_are_padded_to_tiles_and_count_hbm_only():
  assert hlo.size_of('bf16[3,100]{1,0:T(8,128)(2,1)}') == 8 * 128 * 2
  assert hlo.size_of('f32[27648,80]{0,1:T(8,128)}') == 27648 * 80 * 4
  assert hlo.size_of('(f32[8,128]{1,0:T(8,128)}, pred[]{:T(512)})') == 4096 + 1
  assert hlo.size_of('bf16[2048,8192]{0,1:T(8,128)(2,1)S(1)}') == 0


def test_the_branch_with_more_work_counts():
  text = '''
%long (p: f32[8]) -> f32[8] {
  %p = f32[8]{0} parameter(0)
  ROOT %k.1 = f32[8]{0} custom-call(%p), custom_call_target="tpu_custom_call", backend_config={"custom_call_config": {"cost_estimate":{"flops":"70","bytes_accessed":"9"}}}
}
%short (p: f32[8]) -> f32[8] {
  %p = f32[8]{0} parameter(0)
  ROOT %k.2 = f32[8]{0} custom-call(%p), custom_call_target="tpu_custom_call", backend_config={"custom_call_config": {"cost_estimate":{"flops":"30","bytes_accessed":"9"}}}
}
ENTRY %main (a: s32[], b: f32[8]) -> f32[8] {
  %a = s32[] parameter(0)
  %b = f32[8]{0} parameter(1)
  ROOT %c = f32[8]{0} conditional(%a, %b, %b), branch_computations={%short, %long}
}
'''  # fmt: skip  # noqa: E501
  (kernel,) = hlo.Module(text).kernels()
  assert (kernel.name, kernel.flops, kernel.bytes, kernel.times) == ('k', 70, 9, 1)


def gather(channel, name, async_='', shape='f32[64,128]'):
  groups = f'channel_id={channel}, replica_groups={{{{0,1,2,3}}}}, dimensions={{0}}'
  return f'  %{name} = {shape}{{1,0}} all-gather(%p.{name}), {groups}, backend_config={{{async_}}}\n'


CYCLES = 'backend_config={"window_config":{"estimated_cycles":"%d"}}'
SPREAD = '"async_collective_fusion_config":{"flag_start":"2","flag_end":"8"}'
FLAGS = '(f32[16,128]{1,0}, f32[64,128]{1,0}, u32[]{:S(2)})'


def test_a_collective_spread_over_fusions_counts_once_behind_the_products_that_carry_it():
  """Two gathers on one channel, one after the other; the second is carried by two fusions, one of them with a kernel.

  By hand: each moves 64 x 128 x 4 x 3/4 = 24,576 bytes. Behind the first are 700 cycles; behind the second 800 + 100 and
  the kernel. The 5,000 cycles between are behind neither, although the first is still open.
  """
  cost = '"cost_estimate":{"flops":"70","bytes_accessed":"9"}'
  body = lambda name, *lines: f'%{name} (p: f32[16,128]) -> f32[64,128] {{\n' + ''.join(lines) + '}\n'
  fusion = lambda name, operands, calls, cycles, shape=FLAGS: (
      f'  %{name} = {shape} fusion({operands}), kind=kOutput, calls=%{calls}, {CYCLES % cycles}\n'
  )
  flag = lambda name, of: f'  %{name} = u32[]{{:S(2)}} get-tuple-element(%{of}), index=2\n'
  product = '  %dot.1 = f32[16,16]{1,0} dot(%p, %p)\n'
  kernel = '  %attention_backward.3 = f32[1,2,8,128]{3,2,1,0} custom-call(%p), custom_call_target="tpu_custom_call"\n'
  text = (
      body('fused_computation.1', gather(1, 'g1', SPREAD))
      + body('async_collective_fusion.2', product, gather(1, 'g2', SPREAD))
      + body('async_collective_fusion.3', kernel, gather(1, 'g3', SPREAD))
      + body('fused_computation.4', gather(1, 'g4', SPREAD))
      + 'ENTRY %main (a: f32[16,128]) -> f32[64,128] {\n  %a = f32[16,128]{1,0} parameter(0)\n'
      + fusion('start.1', '%a', 'fused_computation.1', 0)
      + flag('flag.1', 'start.1')
      + fusion('step.1', '%a, %flag.1', 'async_collective_fusion.2', 700)
      + flag('flag.2', 'step.1')
      + fusion('other', '%a', 'nothing', 5000, 'f32[16,128]{1,0}')
      + fusion('done.1', '%flag.2', 'fused_computation.4', 0, 'f32[64,128]{1,0}')
      + '  %product = f32[16,128]{1,0} get-tuple-element(%step.1), index=0\n'
      + fusion('start.2', '%product, %done.1', 'fused_computation.1', 0)
      + flag('flag.3', 'start.2')
      + fusion('step.2', '%done.1, %flag.3', 'async_collective_fusion.2', 800)
      + flag('flag.4', 'step.2')
      + fusion('step.3', '%done.1, %flag.4', 'async_collective_fusion.3', 100).replace('window', f'x":{{{cost}}},"window')
      + flag('flag.5', 'step.3')
      + fusion('done.2', '%flag.5', 'fused_computation.4', 0, 'f32[64,128]{1,0}')
      + '}\n'
  )
  module = hlo.Module(text)
  alone, windows = module.transfers()
  assert not alone and [[each.moved for each in window.transfers] for window in windows] == [[24576], [24576]]
  assert [window.behind.cycles for window in windows] == [700, 900]
  (inside,) = windows[1].behind.kernels
  assert not windows[0].behind.kernels and inside == module.kernels()[0]
  assert (inside.name, inside.flops, inside.bytes, inside.shape) == ('attention_backward', 70, 9, (1, 2, 8, 128))
  assert module.cycles() == {'matrix': 1500, 'memory': 5100}


def test_one_fusion_that_carries_two_collectives_hides_them_together():
  body = lambda name, *lines: f'%{name} (p: f32[16,128]) -> f32[64,128] {{\n' + ''.join(lines) + '}\n'
  step = lambda name, operands, calls, cycles: (
      f'  %{name} = {FLAGS} fusion({operands}), kind=kOutput, calls=%{calls}, {CYCLES % cycles}\n'
      f'  %flag.{name} = u32[]{{:S(2)}} get-tuple-element(%{name}), index=2\n'
  )
  text = (
      body('one', gather(1, 'g1', SPREAD)) + body('two', gather(2, 'g2', SPREAD))
      + body('both', gather(1, 'g3', SPREAD), gather(2, 'g4', SPREAD))
      + 'ENTRY %main (a: f32[16,128]) -> f32[64,128] {\n  %a = f32[16,128]{1,0} parameter(0)\n'
      + step('s1', '%a', 'one', 0) + step('s2', '%a', 'two', 0) + step('s3', '%flag.s1, %flag.s2', 'both', 50) + '}\n'
  )  # fmt: skip
  alone, (window,) = hlo.Module(text).transfers()
  assert not alone and window.behind.cycles == 50
  assert sorted(each.channels for each in window.transfers) == [(1,), (2,)]


HOST_LOOP = '''
%body (state: (s32[], bf16[4,8,128], bf16[8,128])) -> (s32[], bf16[4,8,128], bf16[8,128]) {
  %state = (s32[], bf16[4,8,128]{2,1,0:S(5)}, bf16[8,128]{1,0}) parameter(0)
  %stack = bf16[4,8,128]{2,1,0:S(5)} get-tuple-element(%state), index=1
  %x = bf16[8,128]{1,0} get-tuple-element(%state), index=2
  %out = ((bf16[4,8,128]{2,1,0:S(5)}, bf16[1,8,128]{2,1,0}, s32[]), bf16[4,8,128]{2,1,0:S(5)}, u32[]{:S(2)}) dynamic-update-slice-start(%stack, %x, %i)
  %early = bf16[8,128]{1,0} fusion(%x), kind=kLoop, calls=%f, CYCLES_10
  %in = ((bf16[4,8,128]{2,1,0:S(5)}, s32[]), bf16[1,8,128]{2,1,0}, u32[]{:S(2)}) dynamic-slice-start(%stack, %i)
  %both = bf16[8,128]{1,0} fusion(%x), kind=kLoop, calls=%f, CYCLES_30
  %sent = bf16[4,8,128]{2,1,0:S(5)} dynamic-update-slice-done(%out)
  %late = bf16[8,128]{1,0} fusion(%x), kind=kLoop, calls=%f, CYCLES_200
  %got = bf16[1,8,128]{2,1,0} dynamic-slice-done(%in)
  ROOT %next = (s32[], bf16[4,8,128]{2,1,0:S(5)}, bf16[8,128]{1,0}) tuple(%i, %sent, %late)
}
%condition (state.1: (s32[], bf16[4,8,128], bf16[8,128])) -> pred[] {
  %state.1 = (s32[], bf16[4,8,128]{2,1,0:S(5)}, bf16[8,128]{1,0}) parameter(0)
  %bound = s32[] constant(4)
  ROOT %less = pred[] compare(%state.1, %bound), direction=LT
}
ENTRY %main (a: bf16[8,128]) -> bf16[8,128] {
  %a = bf16[8,128]{1,0} parameter(0)
  %first = s32[] constant(FIRST)
  %counter = s32[] copy(%first)
  %host = bf16[4,8,128]{2,1,0:S(5)} custom-call(), custom_call_target="AllocateBuffer"
  %initial = (s32[], bf16[4,8,128]{2,1,0:S(5)}, bf16[8,128]{1,0}) tuple(%counter, %host, %a)
  ROOT %loop = (s32[], bf16[4,8,128]{2,1,0:S(5)}, bf16[8,128]{1,0}) while(%initial), condition=%condition, body=%body
}
'''  # noqa: E501


@pytest.mark.parametrize(('first', 'times'), [(0, 4), (1, 3)])
def test_slices_copied_to_and_from_the_host_are_behind_the_work_between_start_and_end(first, times):
  """By hand: 8 x 128 x 2 bytes each way; 10 + 30 cycles behind the one, 30 + 200 behind the other; none if peeled off."""
  text = re.sub(r'CYCLES_(\d+)', lambda found: CYCLES % int(found[1]), HOST_LOOP.replace('FIRST', str(first)))
  alone, windows = hlo.Module(text).transfers()
  assert not alone
  seen = [(*(each.kind for each in w.transfers), w.transfers[0].moved, w.behind.cycles, w.times) for w in windows]
  assert seen == [('to host', times * 2048, 40, times), ('from host', times * 2048, 230, times)]


def test_asynchronous_permutes_that_overlap_share_one_window():
  permute = lambda name: (
      f'  %{name} = (f32[8,128]{{1,0}}, f32[8,128]{{1,0}}, u32[]{{:S(2)}}) collective-permute-start(%a), channel_id=1\n'
  )
  work = lambda name, cycles: f'  %{name} = f32[8,128]{{1,0}} fusion(%a), kind=kLoop, calls=%f, {CYCLES % cycles}\n'
  done = lambda name: f'  %{name}.d = f32[8,128]{{1,0}} collective-permute-done(%{name})\n'
  text = (
      'ENTRY %main (a: f32[8,128]) -> f32[8,128] {\n  %a = f32[8,128]{1,0} parameter(0)\n' + work('w0', 1)
      + permute('k') + work('w1', 10) + permute('v') + work('w2', 100) + done('k') + work('w3', 1000) + done('v')
      + work('w4', 10000) + permute('ids') + work('w5', 5) + done('ids') + '}\n'
  )  # fmt: skip
  alone, windows = hlo.Module(text).transfers()
  assert not alone and [[each.moved for each in window.transfers] for window in windows] == [[4096, 4096], [4096]]
  assert [window.behind.cycles for window in windows] == [1110, 5]


def test_a_sum_over_slices_is_open_from_its_send_until_it_is_received():
  """By hand: sums of 4 MiB over 2 and over 4 slices, of which each chip sends 2 (n - 1) / n; scalars by themselves."""
  after = 'u32[], token[]'

  def each(op, name, operands, met, slices, rows):
    attributes = (
        f'_xla_host_transfer_rendezvous="{met}",_xla_megascale_target="{{{slices}}}x{{0:15}}",'
        '_xla_megascale_transfer_type="ALL_REDUCE"'
    )
    return f'  %{name} = (f32[{rows},8,128]{{2,1,0}}, {after}) {op}({operands}), frontend_attributes={{{attributes}}}\n'

  work = lambda name, cycles: f'  %{name} = f32[8,128]{{1,0}} fusion(%a), kind=kLoop, calls=%f, {CYCLES % cycles}\n'
  done = lambda name: f'  %{name}.d = (f32[8,128]{{1,0}}, token[]) recv-done(%{name})\n'
  text = (
      'ENTRY %main (a: f32[8,128]) -> f32[8,128] {\n  %a = f32[8,128]{1,0} parameter(0)\n' + work('w0', 1)
      + each('send', 's0', '%a, %t', 'psum.0_0', '1,2', 1) + work('w1', 10)
      + each('send', 's1', '%a, %t', 'psum.1_0', '1,2', 1024) + work('w2', 100)
      + each('send', 's11', '%a, %t', 'psum.11_0', '1:4', 1024) + each('recv', 'r11', '%t', 'psum.11_0', '1:4', 1024)
      + each('recv', 'r1', '%t', 'psum.1_0', '1,2', 1024) + each('recv', 'r0', '%t', 'psum.0_0', '1,2', 1)
      + done('r1') + work('w3', 1000) + done('r11') + work('w4', 10000) + done('r0') + '}\n'
  )  # fmt: skip
  alone, windows = hlo.Module(text).transfers()
  assert not alone and {transfer.kind for window in windows for transfer in window.transfers} == {'between slices'}
  assert [[transfer.moved / 2**20 for transfer in window.transfers] for window in windows] == [[4, 6], [1 / 256]]
  assert [window.behind.cycles for window in windows] == [1100, 11110]


@pytest.mark.parametrize(
    ('text', 'links'),
    [
        ('"strategy":"UniDirectionNDRingStrategy","debug":"\\nUniDirectionNDRingStrategy{colors:6 phases:3', 6),
        ('"debug":"\\nStrategyND{colors:3 phases:3', 6),
        ('"debug":"\\nStrategyRing{colors:1 phases:1', 2),
        ('"emitter":"1DAllGatherNonMajorDim"', 2),
    ],
)
def test_links_follow_from_the_algorithm_that_the_compiler_chose(text, links):
  assert hlo.links('all-gather', text) == links and hlo.links('collective-permute', text) == 1


def test_every_buffer_is_listed_once():
  """Views, in-place updates and the two halves of an asynchronous pair add nothing; host memory counts as 0 bytes."""
  text = '''
%fused_computation.1 (p0: f32[8,128], p1: f32[1,128], p2: s32[]) -> f32[8,128] {
  %p0 = f32[8,128]{1,0} parameter(0)
  %p1 = f32[1,128]{1,0} parameter(1)
  %p2 = s32[] parameter(2)
  ROOT %update = f32[8,128]{1,0} dynamic-update-slice(%p0, %p1, %p2, %p2)
}
%body.2 (state: (f32[8,128], s32[])) -> (f32[8,128], s32[]) {
  %state = (f32[8,128]{1,0}, s32[]) parameter(0)
  %stack = f32[8,128]{1,0} get-tuple-element(%state), index=0
  %step = s32[] get-tuple-element(%state), index=1
  %row = f32[1,128]{1,0} broadcast(%step), dimensions={}
  %written = f32[8,128]{1,0} fusion(%stack, %row, %step), kind=kLoop, calls=%fused_computation.1
  %again = f32[8,128]{1,0} dynamic-update-slice(%written, %row, %step, %step)
  ROOT %next = (f32[8,128]{1,0}, s32[]) tuple(%again, %step)
}
%condition.3 (state.1: (f32[8,128], s32[])) -> pred[] {
  %state.1 = (f32[8,128]{1,0}, s32[]) parameter(0)
  ROOT %less = pred[] constant(false)
}
ENTRY %main (argument: f32[16,128]) -> f32[16,128] {
  %argument = f32[16,128]{1,0} parameter(0)
  %zeros = f32[8,128]{1,0} broadcast(%argument), dimensions={}
  %count = s32[] constant(0)
  %initial = (f32[8,128]{1,0}, s32[]) tuple(%zeros, %count)
  %loop = (f32[8,128]{1,0}, s32[]) while(%initial), condition=%condition.3, body=%body.2
  %result = f32[8,128]{1,0} get-tuple-element(%loop), index=0
  %flat = f32[1024]{0} bitcast(%result)
  %gather-start = (f32[8,128]{1,0}, f32[64,128]{1,0}) all-gather-start(%result), channel_id=1, dimensions={0}
  %gather-done = f32[64,128]{1,0} all-gather-done(%gather-start)
  %send-start = (f32[64,128]{1,0}, f32[64,128]{1,0}, u32[], u32[]) collective-permute-start(%gather-done), channel_id=2
  %send-done = f32[64,128]{1,0} collective-permute-done(%send-start)
  %reduce-start = f32[32,128]{1,0} all-reduce-start(%send-done), channel_id=3
  %reduce-done = f32[32,128]{1,0} all-reduce-done(%reduce-start)
  %copy-start = (f32[32,128]{1,0:S(5)}, f32[32,128]{1,0}, u32[]) copy-start(%reduce-done)
  %copy-done = f32[32,128]{1,0:S(5)} copy-done(%copy-start)
  %back-start = (f32[32,128]{1,0}, f32[32,128]{1,0:S(5)}, u32[]) copy-start(%copy-done)
  %back-done = f32[32,128]{1,0} copy-done(%back-start)
  %barrier = f32[32,128]{1,0} optimization-barrier(%back-done)
  ROOT %kernel = f32[16,128]{1,0} custom-call(%argument, %barrier), output_to_operand_aliasing={{}: (0, {})}
}
'''
  listed = [(source.lstrip('%'), size // 512) for size, _, source in hlo.Module(text).allocations() if size]
  assert sorted(listed) == [
      ('argument', 16), ('back-start', 32), ('gather-start', 64), ('reduce-start', 32), ('row', 1), ('send-start', 64),
      ('zeros', 8),
  ]  # fmt: skip
