"""A stage of reinforcement learning that hangs or whose hardware computes wrongly ends, and says where."""

import shutil

import pytest

from iquest_jax.errors import SilentError, Stalled

from tests import processes
from tests.rl import small_stage
from tests.rl.small_stage import STAGE, records, train
from tests.run import helpers as run_helpers
from tests.run.test_health import flipped
from tests.run.test_watchdog import PATIENT, hanging


def test_a_roll_out_that_hangs_ends_the_run_with_stacks_and_it_resumes_bit_equal(straight, workdir, commands):
  command = train(workdir)
  begun = train(workdir, **PATIENT, **{'checkpoint.every': 3})  # no save gives the hanging step more time
  done = processes.finish(commands.start(hanging('iquest_jax.rl.rollout:Rollouts.sample', 3, begun)), Stalled.status)
  assert 'rl/loop.py' in done.stderr and 'hanging.py' in done.stderr  # where the main thread was
  assert 'dispatched step 2, ' in done.stderr
  assert done.stderr.splitlines()[-1].startswith(f'error: {STAGE}: no step for ')
  commands.run(command)
  run_helpers.assert_same_state(workdir / STAGE, straight / STAGE, 3)


@pytest.mark.parametrize('objective', ['grpo', pytest.param('dpo', marks=pytest.mark.long)])
def test_a_flipped_bit_stops_the_run_before_it_is_saved(straight, workdir, commands, objective):
  shutil.copytree(straight / STAGE / 'rollouts', workdir / STAGE / 'rollouts')
  how = {'mesh.data': 2, 'mesh.fsdp': 1}
  if objective == 'dpo':
    how |= small_stage.write_pairs(workdir)
  done = commands.run(flipped(1, 1, train(workdir, **how)), devices=2, status=SilentError.status)
  says = done.stderr.splitlines()[-1]
  assert says.startswith(f'error: {STAGE}: silent error after step 2: params/head: device 0 ') and 'device 1 ' in says
  assert run_helpers.steps_of(workdir / STAGE) == []


def test_a_bit_that_is_wrong_at_the_start_stops_the_run_before_anything_is_sampled(workdir, commands):
  how = {'mesh.data': 2, 'mesh.fsdp': 1}
  done = commands.run(flipped(0, 1, train(workdir, **how)), devices=2, status=SilentError.status)
  assert 'silent error after step 0: params/head: ' in done.stderr.splitlines()[-1]
  assert records(workdir) == [] and not (workdir / STAGE / 'rollouts').exists()


def test_the_steps_that_a_command_names_are_traced(straight):
  assert list(run_helpers.traced(straight / STAGE).values()) == [[2]]
