"""A run on hardware that computes wrongly stops everywhere, saves nothing, and says what to cordon."""

import json
import socket

import pytest

from iquest_jax.run_folder import StageFolder
from iquest_jax.train import metrics

from tests import processes
from tests.run import helpers as run_helpers
from tests.run.helpers import STEPS, steps_of, train

HOST = socket.gethostname()
MESH = {'mesh.data': 4, 'mesh.fsdp': 1}


def flipped(at, device, command):
  return ['-m', 'tests.programs.flipped', str(at), str(device), *command]


def finding(run_dir):
  (path,) = (run_dir / 'silent_errors').iterdir()
  return json.loads(path.read_text())


def test_two_processes_stop_together_and_name_device_process_and_host(shared, workdir, unused_port):
  several = {'JAX_COORDINATOR_ADDRESS': f'localhost:{unused_port}', 'JAX_NUM_PROCESSES': '2'}
  command = flipped(0, 3, train('anneal', workdir, **MESH))
  pair = [shared.start(command, devices=2, **several, JAX_PROCESS_ID=str(process)) for process in (0, 1)]
  done = [processes.finish(process, status=76) for process in pair]
  device = finding(workdir / 'anneal')['devices'][0]['id']
  says = (
      f'error: anneal: silent error after step 0: params/head on device {device} (process 1, host {HOST}) contradicts the '
      f'other devices; nothing was saved since; cordon {HOST}, then rerun the same command on other hosts'
  )
  assert [each.stderr.splitlines()[-1] for each in done] == [says, says]
  assert finding(workdir / 'anneal')['devices'] == [{'id': device, 'process': 1, 'host': HOST}]
  assert steps_of(workdir / 'anneal') == []
  assert metrics.read(StageFolder(workdir / 'anneal')) == []  # it was not even evaluated


@pytest.mark.long
def test_after_a_finding_the_run_resumes_from_the_last_save_and_ends_bit_equal(shared, workdir, tmp_path):
  run_dir, straight = workdir / 'anneal', shared.copy(tmp_path / 'straight')
  how = MESH | {'health.replicas_every': 5}
  shared.run(train('anneal', straight, **how), devices=4)
  done = shared.run(flipped(5, 1, train('anneal', workdir, **how)), devices=4, status=76)
  assert 'silent error after step 5: params/head on device 1 ' in done.stderr.splitlines()[-1]
  assert steps_of(run_dir) == [3]  # and not 6
  shared.run(train('anneal', workdir, **how), devices=4)
  left, right = run_helpers.state(run_dir, STEPS), run_helpers.state(straight / 'anneal', STEPS)
  assert all((leaf == right[path]).all() for path, leaf in left.items()) and left.keys() == right.keys()


@pytest.mark.long
def test_nothing_is_saved_without_a_comparison_first(shared, workdir):
  # It is wrong from step 4 on, and no comparison is due before the save at step 6.
  done = shared.run(flipped(4, 1, train('anneal', workdir, **MESH)), devices=4, status=76)
  assert 'silent error after step 6: params/head on device 1 ' in done.stderr.splitlines()[-1]
  assert steps_of(workdir / 'anneal') == [3]
