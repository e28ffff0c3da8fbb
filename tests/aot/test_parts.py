"""Parts of launch.aot that need no libtpu: reading HLO, the arithmetic, the cache, names and bad input."""

import functools
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec

from experiments import chain, meshes
from iquest_jax import sharding
from iquest_jax.aot import estimate, hlo, report, sweep, topology
from iquest_jax.errors import UserError
from launch import aot, command

ROOT = pathlib.Path(__file__).parents[2]
MEASURE = {
    'jax': '0', 'libtpu': '0', 'peak_bytes': 10 * 2**30, 'argument_bytes': 2**30, 'host_bytes': 0,
    'allocations': [(2**30, 'bf16[2,3]{1,0}', 'jit(f)/dot')],
    'collectives': [
        {'kind': 'all-gather', 'moved': 1e11, 'links': 2, 'times': 7, 'hidden': False},
        {'kind': 'collective-permute', 'moved': 1e11, 'links': 1, 'times': 1, 'hidden': True},
    ],
    'kernels': [{'name': 'attention', 'flops': 459e12, 'bytes': 1, 'times': 2}],
    'cycles': {'matrix': int(1.75e9 * 30), 'memory': int(1.75e9 * 0.5)},
}  # fmt: skip


def parsed(function, *args):
  return hlo.Module(jax.jit(function).lower(*args).compile().as_text())


def test_what_is_in_a_loop_counts_as_often_as_the_loop_runs():
  mesh = sharding.make_mesh({'data': 2, 'fsdp': 2, 'context': 2, 'tensor': 1})

  @functools.partial(jax.shard_map, mesh=mesh, in_specs=PartitionSpec(), out_specs=PartitionSpec(), check_vma=False)
  def summed(x):
    def outer(x, _):
      x = jax.lax.scan(lambda x, _: (jax.lax.psum(jnp.tanh(x), 'fsdp'), None), x, length=3)[0]
      return jax.lax.all_gather(x, 'context').sum(0), None

    return jax.lax.scan(outer, x, length=5)[0]

  found = {each.kind: each for each in parsed(summed, jnp.ones((4, 128))).collectives()}
  assert {kind: each.times for kind, each in found.items()} == {'all-reduce': 15, 'all-gather': 5}
  assert {each.group for each in found.values()} == {2}
  assert found['all-reduce'].size == 4 * 128 * 4 and found['all-gather'].size == 2 * 4 * 128 * 4
  assert found['all-reduce'].moved == 15 * 2 * 2048 / 2 and found['all-gather'].moved == 5 * 4096 / 2


def test_a_scatter_counts_its_whole_argument_and_a_permute_what_it_sends():
  mesh = sharding.make_mesh({'data': 1, 'fsdp': 8, 'context': 1, 'tensor': 1})

  @functools.partial(jax.shard_map, mesh=mesh, in_specs=PartitionSpec(), out_specs=PartitionSpec('fsdp'), check_vma=False)
  def spread(x):
    ring = [(n, (n + 1) % 8) for n in range(8)]
    return jax.lax.ppermute(jax.lax.psum_scatter(x, 'fsdp', tiled=True), 'fsdp', ring)

  found = {each.kind: each for each in parsed(spread, jnp.ones((64, 128))).collectives()}
  assert found['reduce-scatter'].moved == 64 * 128 * 4 * 7 / 8
  assert found['collective-permute'].moved == 8 * 128 * 4


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


def test_sizes_are_padded_to_tiles_and_leave_out_what_is_not_in_hbm():
  assert hlo.size_of('bf16[3,100]{1,0:T(8,128)(2,1)}') == 8 * 128 * 2
  assert hlo.size_of('f32[27648,80]{0,1:T(8,128)}') == 27648 * 80 * 4
  assert hlo.size_of('(f32[8,128]{1,0:T(8,128)}, pred[]{:T(512)})') == 4096 + 1
  assert hlo.size_of('bf16[2048,8192]{0,1:T(8,128)(2,1)S(1)}') == 0


def test_of_two_branches_the_one_with_more_work_counts():
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
  assert (kernel.flops, kernel.bytes, kernel.times) == (70, 9, 1)


@pytest.mark.parametrize(
    ('words', 'links'),
    [
        ('"strategy":"UniDirectionNDRingStrategy","debug":"\\nUniDirectionNDRingStrategy{colors:6 phases:3', 6),
        ('"debug":"\\nStrategyND{colors:3 phases:3', 6),
        ('"debug":"\\nStrategyRing{colors:1 phases:1', 2),
        ('"emitter":"1DAllGatherNonMajorDim"', 2),
    ],
)
def test_links_are_those_of_the_algorithm_the_compiler_chose(words, links):
  assert hlo.links('all-gather', words) == links and hlo.links('collective-permute', words) == 1


def test_the_parts_add_up_to_the_step_and_hidden_transfers_do_not():
  config = command.experiment('pretrain:size=7b')
  found = estimate.estimate(MEASURE, config, topology.find('v5p-512'))
  assert found.seconds == pytest.approx({'matrix': 30, 'memory': 0.5, 'kernels': 2, 'links': 0.5, 'links_hidden': 1})
  assert found.step_seconds == pytest.approx(33) and found.dominant == 'matrix'
  assert found.tokens_per_chip_second == pytest.approx(4 * 2**20 / 33 / 256)
  text = report.render('pretrain 7b', config, topology.find('v5p-512'), MEASURE, found)
  assert 'FITS' in text and '10.00 GiB of 95.74 GiB' in text and 'matrix units dominate' in text
  slow = MEASURE | {'collectives': [MEASURE['collectives'][1] | {'moved': 40e11}]}
  assert estimate.estimate(slow, config, topology.find('v5p-512')).step_seconds == pytest.approx(40)


def test_what_the_backward_pass_keeps_is_told_with_the_gradients_of_the_first_keys():
  gib = lambda **changes: {name: size / 2**30 for name, size in estimate.held(changed(**changes)).items()}

  def changed(size='40b_loop', **train):
    config = command.experiment(f'midtrain_128k:size={size}')
    config.train.update(train)
    return config

  assert gib() == {'layer inputs': 12.5, 'attention outputs': 12.5, 'K1, V1': 2.5, 'dK1, dV1': 2.5}
  assert gib(remat='offload') == {'layer inputs (host)': 12.5, 'attention outputs': 12.5, 'K1, V1': 2.5, 'dK1, dV1': 2.5}
  assert gib(size='40b', remat='full') == {'layer inputs': 6.25} and gib(remat='dots') == {}
  config = changed()
  found = estimate.estimate(MEASURE, config, topology.find('v5p-512'))
  text = report.render('midtrain_128k', config, topology.find('v5p-512'), MEASURE, found)
  assert '2.50 GiB  dK1, dV1' in text


def test_what_the_compiler_refuses_does_not_fit():
  config, slice_ = command.experiment('pretrain:size=7b'), topology.find('v6e-256')
  refused = {'jax': '0', 'libtpu': '0', 'refused': 'RESOURCE_EXHAUSTED: no', 'needed_bytes': 2**36}
  found = estimate.estimate(refused, config, slice_)
  assert not found.fits
  text = report.render('pretrain 7b', config, slice_, refused, found)
  assert 'DOES NOT FIT' in text and '64.00 GiB of 31.25 GiB' in text and 'RESOURCE_EXHAUSTED' in text
  fitting = estimate.estimate(MEASURE, config, topology.find('v5p-512'))
  text = report.table({('7b', 'pretrain, anneal'): {'v5p-512': fitting, 'v6e-256': found}}, 'jax 0, libtpu 0')
  assert '| 7b | pretrain, anneal | 10.0 GiB, 33.0 s, 5 % | **does not fit**: 64.0 of 31.2 GiB |' in text


def test_stages_that_compile_the_same_are_compiled_once(tmp_path):
  slice_, other = topology.find('v5p-512'), topology.find('v5p-256')
  first, same = command.experiment('midtrain_128k:size=7b'), command.experiment('sft_thinking:size=7b')
  results = sweep.Results(tmp_path / 'measures.jsonl')
  results.add(first, slice_, {'peak_bytes': 1})
  assert sweep.Results(tmp_path / 'measures.jsonl').get(same, slice_) == {'peak_bytes': 1}
  assert results.get(same, other) is None
  same.train.accumulation = 4
  assert results.get(same, slice_) is None


def test_the_table_has_every_stage_of_every_size_once_and_stages_of_a_row_are_one_program():
  programs = aot._programs()
  listed = [(size, stage) for size, stages in programs for stage in stages]
  everything = {(size, stage) for size in aot.SIZES for stage in chain.stages(size)} - {('40b_loop', 'pretrain')}
  assert len(listed) == len(everything) and set(listed) == everything and len(programs) == 12
  for size, stages in programs:
    for cloud in meshes.CHIPS:
      configs = [command.experiment(f'{stage}:size={size},topology={cloud}') for stage in stages]
      assert len({sweep.key(config, topology.find(cloud)) for config in configs}) == 1


def test_the_table_of_the_readme_is_that_of_todays_configurations():
  results = sweep.Results(ROOT / 'experiments/aot/measures.jsonl')
  for size, (stage, *_) in aot._programs():
    for cloud in meshes.CHIPS:
      config, slice_ = command.experiment(f'{stage}:size={size},topology={cloud}'), topology.find(cloud)
      measure = results.get(config, slice_)
      assert measure is not None, f'{stage} {size} {cloud}: python -m launch.aot --all, then the README'
      assert estimate.estimate(measure, config, slice_).fits
  _, rows = (ROOT / 'experiments/aot/table.md').read_text().split('\n\n')
  assert rows in (ROOT / 'README.md').read_text()


def test_the_slice_of_a_command_is_that_of_its_experiment():
  settled = lambda *args: sorted(aot.agreed(['aot', *args])[1:])
  assert settled('--exp=anneal') == ['--exp=anneal', '--topology=v5p-512']
  assert settled('--exp=anneal:topology=v6e-256') == ['--exp=anneal:topology=v6e-256', '--topology=v6e-256']
  assert settled('--exp=anneal:size=7b', '--topology=v5p:4x4x8') == [
      '--exp=anneal:size=7b,topology=v5p-256', '--topology=v5p:4x4x8',
  ]  # fmt: skip
  assert settled('--exp=anneal', '--topology=v5p:4x4x4') == ['--exp=anneal', '--topology=v5p:4x4x4']


def test_slices_have_two_names():
  assert topology.find('v5p-512') == topology.find('v5p:8x8x4') == topology.Slice('v5p:8x8x4', 256)
  assert topology.find('v5litepod-16').chips == 16


def test_a_slice_that_does_not_exist_is_refused_with_those_that_do():
  with pytest.raises(UserError, match=r'"v5p-9" does not exist; there are v5p-8 \(v5p:2x2x1\), .*v6e-256') as error:
    topology.find('v5p-9')
  assert '\n' not in str(error.value)


def answer(*args, **env):
  return subprocess.run(
      [sys.executable, '-m', 'launch.aot', *args], capture_output=True, text=True, cwd=ROOT, env=os.environ | env
  )


@pytest.mark.parametrize(
    ('args', 'says'),
    [
        (['--exp=pretrain', '--topology=v5p:3x3x3'], 'topology: "v5p:3x3x3" does not exist; there are v5p-8'),
        (['--exp=pretrain', '--topology=v5p:4x4x4'], 'must multiply to 64 devices'),
        (['--exp=pretrain', '--exp.mesh.data=1', '--exp.mesh.fsdp=16', '--exp.mesh.tensor=16'],
         'must be a multiple of mesh axes tensor = 16'),
        (['--exp=midtrain_32k:size=7b', '--exp.data.context=32766'], 'config: data.context must be a multiple of 2 x mesh.context'),
        ([], '--exp is missing'),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_before_any_compile(args, says):
  pytest.importorskip('libtpu')
  done = answer(*args)
  assert done.returncode == 2 and says in done.stderr and done.stderr.count('\n') == 1, done.stderr


def test_a_compile_ends_with_the_command_that_asked_for_it():
  pytest.importorskip('libtpu')
  command_line = [sys.executable, '-m', 'launch.aot', '--exp=pretrain:size=7b']
  asked = subprocess.Popen(command_line, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
  children = pathlib.Path(f'/proc/{asked.pid}/task/{asked.pid}/children')
  if not children.exists():
    asked.kill()
    pytest.skip('this system does not list the children of a process')
  until = time.monotonic() + 60
  while not children.read_text().split():
    assert asked.poll() is None and time.monotonic() < until
    time.sleep(0.05)
  (child,) = children.read_text().split()
  asked.terminate()
  assert asked.wait(timeout=60) == 128 + signal.SIGTERM
  assert not os.path.exists(f'/proc/{child}')


def test_without_libtpu_it_says_how_to_install_it(monkeypatch):
  monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
  with pytest.raises(UserError, match=r'libtpu is not installed; .* pip install -e .\[tpu\]'):
    sweep.compile_alone(command.experiment('pretrain'), topology.find('v5p-512'))
