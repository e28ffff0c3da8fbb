"""The command line of launch.aot: slices, bad input, and the compile process."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
from absl.testing import flagsaver

from iquest_jax.aot import program, sweep, topology
from iquest_jax.errors import UserError
from launch import aot, command

ROOT = pathlib.Path(__file__).parents[2]


def test_the_slice_of_the_flag_reaches_the_experiment():
  for named, exp in [
      ('v6e-256', 'anneal:size=7b,topology=v6e-256'),
      ('v5p:4x4x8', 'anneal:size=7b,topology=v5p-256'),
      ('v5p-512x2', 'anneal:size=7b,topology=v5p-512x2'),
      ('v5p:4x4x4', 'anneal:size=7b'),  # no mesh of its own
  ]:
    with flagsaver.as_parsed(topology=named):
      assert aot.with_slice('anneal:size=7b') == exp
  with flagsaver.as_parsed(topology='v5p-256'):
    assert aot.with_slice('anneal') == 'anneal:topology=v5p-256'


def test_slices_have_two_names():
  assert topology.find('v5p-512') == topology.find('v5p:8x8x4') == topology.Slice('v5p:8x8x4', 256)
  assert topology.find('v5litepod-16').chips == 16
  two = topology.find('v5p-512x2')
  assert two == topology.Slice('v5p:8x8x4', 512, slices=2) and two.name == two.cloud_name == 'v5p-512x2'
  assert (two.hosts, two.of_host().name, topology.find('v6e-256').of_host().chips) == (128, 'v5p:2x2x1', 4)


def test_an_unknown_slice_is_refused_with_a_list_of_the_known_ones():
  with pytest.raises(UserError, match=r'"v5p-9" does not exist; choose one of v5p-8 \(v5p:2x2x1\), .*v6e-256') as error:
    topology.find('v5p-9')
  assert '\n' not in str(error.value)


def run_aot(*args):
  return subprocess.run([sys.executable, '-m', 'launch.aot', *args], capture_output=True, text=True, cwd=ROOT)


@pytest.mark.tpu
@pytest.mark.parametrize(
    ('args', 'says'),
    [
        (['--exp=pretrain', '--topology=v5p:3x3x3'], 'topology "v5p:3x3x3" does not exist; choose one of v5p-8'),
        (['--exp=pretrain:topology=v6e-256'], 'must not name a slice here; use the flag, as in --topology=v5p-512'),
        # The flag picks the mesh, too: on v5p-512 it is data 4.
        (['--exp=pretrain:size=7b', '--topology', 'v6e-256', '--exp.mesh.fsdp=64'], 'data 1 x fsdp 64'),
        (['--exp=pretrain', '--exp.mesh.data=1', '--exp.mesh.fsdp=16', '--exp.mesh.tensor=16'],
         'mesh axes tensor = 16'),
        (['--exp=midtrain_32k:size=7b', '--exp.data.context=32766'], 'config: data.context'),
        (['--exp=sft_thinking:size=40b_loop', '--topology=v5e-8', '--program=decode'], 'got none; choose a larger slice'),
        (['--exp=midtrain_128k:size=40b_loop', '--topology=v5p-512x2', '--exp.mesh.data=1', '--exp.mesh.fsdp=32'],
         'mesh: data must be a multiple of the 2 slices'),
        (['--exp=rl_instruct:size=40b', '--exp.rl.objective=dpo'], 'aot: rl.objective must be grpo'),
        (['--exp=rl_thinking:size=40b', '--answer_tokens=100000'], '--answer_tokens: must be in [1, rl.max_tokens'),
        ([], '--exp is missing'),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_before_any_compile(args, says):
  done = run_aot(*args)
  assert done.returncode == 2 and says in done.stderr and done.stderr.count('\n') == 1, done.stderr


@pytest.mark.tpu
def test_terminating_the_command_ends_its_compile():
  command_line = [sys.executable, '-m', 'launch.aot', '--exp=pretrain:size=7b']
  parent = subprocess.Popen(command_line, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
  children = pathlib.Path(f'/proc/{parent.pid}/task/{parent.pid}/children')
  if not children.exists():
    parent.kill()
    pytest.skip('this system does not list the children of a process')
  deadline = time.monotonic() + 60
  compiles = lambda pid: program.__name__ in pathlib.Path(f'/proc/{pid}/cmdline').read_text()
  while not any(map(compiles, children.read_text().split())):
    assert parent.poll() is None and time.monotonic() < deadline
    time.sleep(0.05)
  (child,) = children.read_text().split()
  # The child runs before subprocess.Popen returns, and may outlive a signal that arrives in between.
  time.sleep(0.5)
  parent.terminate()
  assert parent.wait(timeout=60) == 128 + signal.SIGTERM
  assert not os.path.exists(f'/proc/{child}')


def test_without_libtpu_the_error_says_how_to_install_it(monkeypatch):
  monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
  with pytest.raises(UserError, match=r'libtpu is not installed; .* pip install -e .\[tpu\]'):
    sweep.compile_alone(command.experiment('pretrain'), topology.find('v5p-512'))
