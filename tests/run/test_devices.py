"""The number of devices and processes changes neither the rows nor, beyond float32 rounding, the training."""

import json
import signal

import numpy as np
import pytest

from tests import processes
from tests.run import helpers as run_helpers
from tests.run.helpers import STEPS, killed_at, recorded, steps_of, train

# The mesh decides the order in which sums are taken. A loss is a mean of many tokens and differs in its last bit or two.
LOSS_TOLERANCE = 8e-7
# A gradient element differs by rounding, r = 4e-7 of its leaf's root mean square: several float32 units, 6e-8 each, for
# sums over 256 tokens and two layers. Adam divides by the element's own root mean square, x times that of the leaf, so an
# update differs by up to 2 r / x of the rate. x is small only while all gradients so far were small; after two updates
# it is below y with probability y^2 / 2. Two consequences, for a rate of 2e-3 and leaves whose largest element is 0.08:
# - In 999 of 1000 elements x > 0.045, so they differ by 2 r / 0.045 x 2e-3 / 0.08 = 4.4e-7 of the largest in their leaf
#   (measured: 3.8e-7). Twelve updates and the rounding of the parameters themselves are covered by a factor of 7.
MOST, PARAMETER_TOLERANCE = 0.999, 3e-6
# - The smallest x of N = 41,000 elements is below y with probability N y^2 / 2: any bound close to the usual maximum
#   (3e-4 of the rate) fails by chance now and then. y = 7e-6 happens once in a million, and then an update differs by
#   2 r / y = 0.11 of the rate.
LARGEST_DIFFERENCE = 0.11 * 2e-3


def rows_read(*files):
  """{(step, row): hash} of the rows that runs read; asserts that a row read twice has the same content."""
  read = {}
  for file in files:
    for line in file.read_text().splitlines():
      step, hashes = json.loads(line)
      for row, value in hashes.items():
        assert read.setdefault((step, int(row)), value) == value
  return read


@pytest.fixture(name='straight_rows', scope='session')
def _straight_rows(shared, tmp_path_factory):
  """The rows that one process with one device reads."""
  folder = tmp_path_factory.mktemp('straight')
  file = folder / 'rows.jsonl'
  shared.run(recorded(file, train('anneal', shared.copy(folder))))
  return rows_read(file)


def assert_same_losses(run_dir, other):
  left, right = run_helpers.losses(run_dir), run_helpers.losses(other)
  assert list(left) == list(right)  # each record once, and in order
  np.testing.assert_allclose(list(left.values()), list(right.values()), rtol=LOSS_TOLERANCE)


def assert_same_parameters(run_dir, other):
  left, right = run_helpers.state(run_dir, STEPS), run_helpers.state(other, STEPS)
  assert left.keys() == right.keys()
  relative = []
  for path, leaf in left.items():
    if path.startswith('params'):
      difference = np.abs(leaf - right[path])
      assert np.max(difference) <= LARGEST_DIFFERENCE, path
      relative.append(difference.ravel() / np.max(np.abs(right[path])))
  assert np.quantile(np.concatenate(relative), MOST) <= PARAMETER_TOLERANCE


def pair(shared, port, command):
  """Starts a command as the two processes of one run, with one device each."""
  several = {'JAX_COORDINATOR_ADDRESS': f'localhost:{port}', 'JAX_NUM_PROCESSES': '2'}
  return [shared.start(command(process), **several, JAX_PROCESS_ID=str(process)) for process in (0, 1)]


def test_a_run_resumes_on_four_devices_and_on_two_with_the_same_rows(shared, straight_rows, workdir, tmp_path):
  run_dir, command = workdir / 'anneal', train('anneal', workdir)
  seal = 'iquest_jax.checkpoint.seal:to_text'  # called once by a restore and once by every save
  parts = [tmp_path / f'rows_{devices}' for devices in (1, 4, 2)]
  shared.run(killed_at(seal, 3, recorded(parts[0], command)), devices=1, status=-signal.SIGKILL)
  assert steps_of(run_dir) == [3]
  shared.run(killed_at(seal, 3, recorded(parts[1], command)), devices=4, status=-signal.SIGKILL)
  assert steps_of(run_dir) == [3, 6]
  shared.run(recorded(parts[2], command), devices=2)
  assert rows_read(*parts) == straight_rows and len(straight_rows) == STEPS * 8
  assert [min(rows_read(part))[0] for part in parts] == [0, 3, 6]
  assert_same_losses(run_dir, shared.straight / 'anneal')
  assert_same_parameters(run_dir, shared.straight / 'anneal')


def test_two_processes_train_like_one_and_write_one_set_of_metrics(shared, straight_rows, workdir, tmp_path, unused_port):
  files = [tmp_path / 'rows_0', tmp_path / 'rows_1']
  for process in pair(shared, unused_port, lambda process: recorded(files[process], train('anneal', workdir))):
    processes.finish(process)
  assert rows_read(*files) == straight_rows
  assert not rows_read(files[0]).keys() & rows_read(files[1]).keys()  # each reads its half
  assert_same_losses(workdir / 'anneal', shared.straight / 'anneal')
  assert_same_parameters(workdir / 'anneal', shared.straight / 'anneal')
  lineage = json.loads((workdir / 'anneal/lineage.json').read_text())
  assert lineage['devices'] == {'kind': 'cpu', 'count': 2, 'processes': 2}


def test_one_process_resumes_what_two_killed_processes_saved(shared, workdir, unused_port):
  run_dir, command = workdir / 'anneal', train('anneal', workdir)
  # The third save has waited for the second to be committed. Only the first process commits, and the other would wait for
  # it, so both are killed.
  deadly = lambda process: killed_at('iquest_jax.checkpoint.store:_Save', 3, command, 3.0)
  for process in pair(shared, unused_port, deadly):
    processes.finish(process, -signal.SIGKILL)
  assert steps_of(run_dir) == [3, 6]
  shared.run(command)
  assert_same_losses(run_dir, shared.straight / 'anneal')
  assert_same_parameters(run_dir, shared.straight / 'anneal')
