"""A disk that fails stops a run with one line and status 2; earlier files are intact, and once fixed the run resumes."""

import os
import subprocess

import pytest

from tests.processes import refusal
from tests.run import helpers as run_helpers
from tests.run.helpers import killed_at, steps_of, train


@pytest.fixture(name='disk')
def _disk(tmp_path):
  """A file system of eight megabytes, which only root may mount."""
  disk = tmp_path / 'disk'
  disk.mkdir()
  mount = ['mount', '-t', 'tmpfs', '-o', 'size=8m', 'tmpfs', str(disk)]
  if os.getuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
    pytest.skip('mounting a small disk requires root')
  yield disk
  subprocess.run(['umount', str(disk)], check=True)


def current(before, folder):
  """The current content of the files in `before`."""
  now = run_helpers.files(folder)
  return {path: now.get(path) for path in before}


def begun(shared, workdir):
  """Trains until a kill in the eighth step, which leaves the checkpoints of steps 3 and 6."""
  shared.run(killed_at('iquest_jax.train.metrics:Reporter.note', 8, train('anneal', workdir), 1.5), status=-9)
  assert steps_of(workdir / 'anneal') == [3, 6]


def kept(workdir):
  """All files but anneal's metrics, which are cut back to the checkpoint it resumes from, and those of a run that lives."""
  everything, changing = run_helpers.files(workdir), ('metrics.jsonl', 'lease.json', 'heartbeats/0.json')
  return {path: value for path, value in everything.items() if path not in [f'anneal/{name}' for name in changing]}


@pytest.mark.parametrize('room', [4_000, 150_000])
def test_a_full_disk_stops_the_run_which_resumes_once_there_is_room(shared, disk, room):
  """With room for nothing at all, and with too little for a checkpoint."""
  workdir = shared.copy(disk)
  command = train('anneal', workdir)
  begun(shared, workdir)
  before = kept(workdir)
  free = os.statvfs(disk)
  (disk / 'filler').write_bytes(bytes(free.f_bavail * free.f_frsize - room))
  line = refusal(shared.run(command, status=2))
  assert 'No space left on device' in line
  assert current(before, workdir) == before
  (disk / 'filler').unlink()
  shared.run(command)
  run_helpers.assert_same_run(workdir / 'anneal', shared.straight / 'anneal')


def test_a_limit_on_file_size_stops_the_run(shared, workdir):
  command = train('anneal', workdir)
  before = run_helpers.files(workdir)
  line = refusal(shared.run(['-m', 'tests.programs.limited', '40000', *command], status=2))
  not_saved = f'{workdir}/anneal/checkpoints/3: this checkpoint was not saved'
  assert line.startswith(f'{not_saved}: File too large; no earlier one exists; ')
  assert current(before, workdir) == before and steps_of(workdir / 'anneal') == []


@pytest.mark.parametrize('when', ['before the stage', 'in the middle of the stage'])
def test_a_workdir_that_is_read_only_is_refused(shared, disk, when):
  workdir = shared.copy(disk)
  if when == 'in the middle of the stage':
    begun(shared, workdir)
  before = run_helpers.files(workdir)
  subprocess.run(['mount', '-o', 'remount,ro', str(disk)], check=True)
  line = refusal(shared.run(train('anneal', workdir), status=2))
  assert 'Read-only file system' in line and str(workdir / 'anneal') in line
  assert run_helpers.files(workdir) == before
  subprocess.run(['mount', '-o', 'remount,rw', str(disk)], check=True)
  shared.run(train('anneal', workdir))
  run_helpers.assert_same_run(workdir / 'anneal', shared.straight / 'anneal')


def test_a_workdir_below_a_file_is_refused(shared, tmp_path):
  (tmp_path / 'file').write_text('not a folder')
  line = refusal(shared.run(train('pretrain', tmp_path / 'file/run'), status=2))
  assert str(tmp_path / 'file') in line
  line = refusal(shared.run(['-m', 'launch.prepare', '--exp=pretrain:tiny', f'--workdir={tmp_path}/file/run'], status=2))
  assert str(tmp_path / 'file') in line and (tmp_path / 'file').read_text() == 'not a folder'


def test_a_stage_whose_folder_is_a_file_is_refused(shared, workdir):
  (workdir / 'anneal').write_text('not a folder')
  assert str(workdir / 'anneal') in refusal(shared.run(train('anneal', workdir), status=2))
  assert (workdir / 'anneal').read_text() == 'not a folder'
