"""A chain of stages killed anywhere, even between two stages, ends bit-identical to one that was never interrupted.

The last of them is one of reinforcement learning. tests/prove/drill.py kills more of them, more often.
"""

import shutil
import time

import numpy as np
import pytest

from experiments import chain as stages
from iquest_jax.checkpoint.store import Checkpoints
from iquest_jax.run_folder import StageFolder

from tests import processes
from tests.programs.small_chain import STAGES
from tests.rl import small_stage
from tests.run import chains
from tests.run import helpers as run_helpers
from tests.run.chains import assert_same_chain, chain
from tests.run.helpers import killed_at, steps_of
from tests.run.test_devices import pair


@pytest.fixture(scope='module')
def straight(shared, tmp_path_factory):
  """A chain that nothing interrupted, and what it printed."""
  workdir = chains.write(tmp_path_factory.mktemp('straight'))
  return workdir, shared.run(chain('run', workdir))


def test_a_chain_trains_every_stage_from_its_parent_and_shows_it(shared, straight):
  workdir, done = straight
  for stage, line in zip(STAGES, done.stdout.splitlines()[1 : 1 + len(STAGES)], strict=True):
    assert stage in line and Checkpoints(StageFolder(workdir / stage)).lineage()['end_fingerprint'] in line
  for parent, stage in zip(STAGES, STAGES[1:]):
    ended, began = Checkpoints(StageFolder(workdir / parent)).lineage(), Checkpoints(StageFolder(workdir / stage)).lineage()
    assert began['parent'] == {'stage': parent, 'step': chains.STEPS, 'fingerprint': ended['end_fingerprint']}
  assert shared.run(chain('verify', workdir)).stdout.startswith('verified 4 stages: ')


@pytest.mark.parametrize('stage', [1, pytest.param(2, marks=pytest.mark.long)])
def test_a_chain_killed_between_two_stages_ends_bit_equal(shared, straight, tmp_path, stage):
  workdir = chains.write(tmp_path)
  command = chain('run', workdir)
  shared.run(killed_at('iquest_jax.train.loop:run', stage + 1, command), status=-9)
  assert [steps_of(workdir / name) for name in STAGES] == [chains.SAVED] * stage + [[]] * (4 - stage)
  shown = shared.run(chain('show', workdir)).stdout.splitlines()
  to_do = [line for line in shown if line.startswith('to do: ')]
  assert len(to_do) == 4 - stage and to_do[-1] == f'to do: rl_instruct, step 0 of {chains.STEPS}'
  # And again in the middle of the next stage, after its parent is restored.
  shared.run(killed_at('iquest_jax.train.metrics:Reporter.note', 2, command), status=-9)
  done = shared.run(command)
  assert all(f'{name} is finished: step {chains.STEPS}' in done.stderr for name in STAGES[:stage])
  assert_same_chain(workdir, straight[0])
  assert shared.run(chain('verify', workdir)).returncode == 0


def test_a_chain_killed_before_and_in_a_roll_out_ends_bit_equal(shared, straight, tmp_path):
  """The stages before are copied, finished; the second kill is in the roll-out of step 3, after step 2 was saved."""
  workdir = shutil.copytree(straight[0], tmp_path / 'run', ignore=shutil.ignore_patterns('rl_instruct'))
  command = chain('run', workdir)
  shared.run(killed_at('iquest_jax.rl.loop:run', 1, command), status=-9)
  assert [steps_of(workdir / name) for name in STAGES] == [chains.SAVED] * 3 + [[]]
  last, time_to_save = len(small_stage.stored(straight[0])), 1.0
  shared.run(killed_at('iquest_jax.rl.store:Store.append', last, command, time_to_save), status=-9)
  done = shared.run(command)
  assert 'rl_instruct: resumes, step 2 of 3' in done.stderr
  assert_same_chain(workdir, straight[0])


def test_a_finished_chain_run_again_only_shows_itself(shared, straight):
  workdir, done = straight
  before = run_helpers.files(workdir)
  assert shared.run(chain('run', workdir)).stdout == done.stdout
  assert run_helpers.files(workdir) == before


def test_verify_names_the_file_with_a_changed_byte(shared, straight, tmp_path):
  workdir = shutil.copytree(straight[0], tmp_path / 'run')
  changed = workdir / f'loop_adapt/checkpoints/{chains.STEPS}/optimizer/manifest.ocdbt'
  content = bytearray(changed.read_bytes())
  content[-1] ^= 1
  changed.write_bytes(content)
  done = shared.run(chain('verify', workdir), status=1)
  assert 'optimizer/manifest.ocdbt has changed' in done.stdout
  assert 'problems found: ' in processes.refusal(done)


@pytest.mark.parametrize('size', ['tiny', pytest.param('tiny_loop', marks=pytest.mark.long)])
def test_the_tiny_chain_trains_every_stage_on_real_input_and_samples(shared, tmp_path, size):
  command = ['-m', 'tests.programs.trial_chain', 'run', f'--size={size}', f'--workdir={tmp_path}', '--steps=1']
  process = shared.start(command)
  out, err = process.communicate()
  assert process.returncode == 0, err[-2000:]
  for stage in stages.stages_on_rows(size):
    assert steps_of(tmp_path / stage) == [1]
    losses = run_helpers.losses(tmp_path / stage)
    assert np.isfinite([losses['train', 1], losses['eval', 0], losses['eval', 1]]).all()
  assert out.count(' continues ') == 3
  assert out.count(' bits_per_byte ') == len(stages.stages_on_rows(size))  # the table at the end
  assert out.count(' small_programs ') == 2 or 'small_programs is left out: ' in err
  assert 'sft_instruct: train.steps is 1, but data.mixture changes at step ' in err  # two phases are not reached


@pytest.mark.long
def test_the_tiny_chain_runs_to_its_end_on_two_processes(shared, tmp_path, unused_port):
  """The first prepares the rows, while the other waits for minutes; both sample, and the first prints."""
  command = ['-m', 'tests.programs.trial_chain', 'run', '--size=tiny_loop', f'--workdir={tmp_path}', '--steps=1']
  done = []
  for process in pair(shared, unused_port, lambda _: command):
    out, err = process.communicate()
    assert process.returncode == 0, err[-2000:]
    done.append(out)
  for stage in stages.stages_on_rows('tiny_loop'):
    assert steps_of(tmp_path / stage) == [1]
  assert [out.count(' continues ') for out in done] == [3, 0]


@pytest.mark.long
def test_the_tiny_chain_killed_at_random_moments_ends_bit_equal(shared, tmp_path):
  """The command as users run it, including preparation, killed every few seconds until every stage is done."""
  command = lambda name: ['-m', 'launch.chain', 'run', '--size=tiny', f'--workdir={tmp_path / name}', '--steps=4']
  processes.finish(shared.start(command('straight')))
  random = np.random.default_rng(0)
  for _ in range(12):
    process = shared.start(command('killed'))
    moment = time.monotonic() + random.uniform(1.0, 20.0)
    while process.poll() is None and time.monotonic() < moment:
      time.sleep(0.01)
    process.kill()
    process.communicate()
  processes.finish(shared.start(command('killed')))
  for stage in stages.stages('tiny'):
    run_helpers.assert_same_run(tmp_path / 'killed' / stage, tmp_path / 'straight' / stage, 4)
