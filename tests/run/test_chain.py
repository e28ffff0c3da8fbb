"""A chain of stages killed anywhere, also between two stages, ends as if nothing had happened, to the bit."""

import pathlib
import shutil
import time

import numpy as np
import pytest

from experiments import chain as stages
from iquest_jax.checkpoint.store import Checkpoints
from iquest_jax.run_folder import StageFolder

from tests.run import helpers as run_helpers
from tests.run.helpers import killed_at, steps_of

STAGES, STEPS = ('pretrain', 'loop_adapt', 'anneal'), 3
# The command itself, for a model of two thin layers and the first three stages.
SMALL_CHAIN = f"""
import dataclasses, sys
from experiments import chain as stages
from iquest_jax.model import sizes
sizes.SIZES['tiny_loop'] = dataclasses.replace(sizes.SIZES['tiny_loop'], **{run_helpers.MODEL!r})
for stage in stages.PARENTS.keys() - {set(STAGES)!r}:
  del stages.PARENTS[stage]
from launch import chain, command
chain._PROMPTS = chain._PROMPTS[:0]
sys.argv = sys.argv[1:]
command.run(chain.main, operands=True)
"""


@pytest.fixture(name='shared', scope='session')
def _shared(tmp_path_factory):
  return run_helpers.shared_folder(tmp_path_factory)


def chain(name: str, workdir: pathlib.Path) -> list[str]:
  return ['-c', SMALL_CHAIN, 'launch.chain', name, '--size=tiny_loop', f'--workdir={workdir}', f'--steps={STEPS}']


def with_rows(workdir: pathlib.Path) -> pathlib.Path:
  run_helpers.write_tokenizer(workdir)
  for stage in STAGES:
    run_helpers.write_rows(workdir, stage, 128, ('code', 'code_high_quality', 'facts', 'web_text'))
  return workdir


@pytest.fixture(name='straight', scope='module')
def _straight(shared, tmp_path_factory):
  """A chain that nothing interrupted, and what it said."""
  workdir = with_rows(tmp_path_factory.mktemp('straight'))
  return workdir, shared.run(chain('run', workdir))


def assert_same_chain(workdir, other):
  for stage in STAGES:
    run_helpers.assert_same_run(workdir / stage, other / stage, STEPS)


def test_a_chain_trains_every_stage_from_its_parent_and_shows_it(shared, straight):
  workdir, done = straight
  for stage, line in zip(STAGES, done.stdout.splitlines()[1:], strict=True):
    assert stage in line and Checkpoints(StageFolder(workdir / stage)).lineage()['end_fingerprint'] in line
  for parent, stage in zip(STAGES, STAGES[1:]):
    ended, began = Checkpoints(StageFolder(workdir / parent)).lineage(), Checkpoints(StageFolder(workdir / stage)).lineage()
    assert began['parent'] == {'stage': parent, 'step': STEPS, 'fingerprint': ended['end_fingerprint']}
  assert shared.run(chain('verify', workdir)).stdout.startswith('verified: 3 stages')


@pytest.mark.parametrize('stage', [1, pytest.param(2, marks=pytest.mark.long)])
def test_a_chain_killed_between_two_stages_ends_bit_equal(shared, straight, tmp_path, stage):
  workdir = with_rows(tmp_path)
  command = chain('run', workdir)
  shared.run(killed_at('iquest_jax.train.loop:run', stage + 1, command), status=-9)
  assert [steps_of(workdir / name) for name in STAGES] == [[STEPS]] * stage + [[]] * (3 - stage)
  shown = shared.run(chain('show', workdir)).stdout.splitlines()
  assert shown[-1] == f'to do: anneal, step 0 of {STEPS}' and len(shown) == 1 + 3
  # And again in the middle of the next stage, after its parent is restored.
  shared.run(killed_at('iquest_jax.train.metrics:Reporter.note', 2, command), status=-9)
  done = shared.run(command)
  assert all(f'{name} is finished: step {STEPS}' in done.stderr for name in STAGES[:stage])
  assert_same_chain(workdir, straight[0])
  assert shared.run(chain('verify', workdir)).returncode == 0


def test_a_finished_chain_run_again_only_shows_itself(shared, straight):
  workdir, done = straight
  before = run_helpers.files(workdir)
  assert shared.run(chain('run', workdir)).stdout == done.stdout
  assert run_helpers.files(workdir) == before


def test_a_changed_byte_anywhere_in_a_chain_is_named_by_verify(shared, straight, tmp_path):
  workdir = shutil.copytree(straight[0], tmp_path / 'run')
  changed = workdir / f'loop_adapt/checkpoints/{STEPS}/optimizer/manifest.ocdbt'
  content = bytearray(changed.read_bytes())
  content[-1] ^= 1
  changed.write_bytes(content)
  done = shared.run(chain('verify', workdir), status=1)
  assert 'optimizer/manifest.ocdbt has changed' in done.stdout and 'problems in' in done.stderr.splitlines()[-1]


def test_every_stage_trains_two_steps_at_tiny_on_real_input_and_the_chain_ends_with_samples(shared, tmp_path):
  process = shared.start(['-m', 'launch.chain', 'run', '--size=tiny_loop', f'--workdir={tmp_path}', '--steps=2'])
  out, err = process.communicate()
  # Two steps may not be enough for every held-out loss to fall, which is said last and with status 1.
  assert process.returncode == 0 or 'held-out loss did not fall' in err.splitlines()[-1], err[-2000:]
  for stage in stages.stages('tiny_loop'):
    assert steps_of(tmp_path / stage) == [2]
    found = run_helpers.losses(tmp_path / stage)
    assert np.isfinite([found['train', 2], found['eval', 0], found['eval', 2]]).all()
  assert out.count(' goes on after ') == 3
  assert 'sft_instruct: train.steps is 2, and data.mixture changes at step ' in err  # two phases are not reached


@pytest.mark.long
def test_the_whole_tiny_chain_killed_at_random_moments_ends_bit_equal(shared, tmp_path):
  """The command as people run it, rows and all, until every stage is done; killed every few seconds."""
  command = lambda name: ['-m', 'launch.chain', 'run', '--size=tiny', f'--workdir={tmp_path / name}', '--steps=4']
  stages = ('pretrain', 'anneal', 'midtrain_32k', 'midtrain_128k', 'sft_instruct', 'sft_thinking')
  run_helpers.finish(shared.start(command('straight')))
  random = np.random.default_rng(0)
  for _ in range(12):
    process = shared.start(command('killed'))
    moment = time.monotonic() + random.uniform(1.0, 20.0)
    while process.poll() is None and time.monotonic() < moment:
      time.sleep(0.01)
    process.kill()
    process.communicate()
  run_helpers.finish(shared.start(command('killed')))
  for stage in stages:
    run_helpers.assert_same_run(tmp_path / 'killed' / stage, tmp_path / 'straight' / stage, 4)
