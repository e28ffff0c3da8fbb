"""A save stores what `save` was called with, atomically, on any number of devices."""

import errno
import os
import pathlib
import pwd
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from absl import logging
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from iquest_jax.checkpoint import fingerprint, seal
from iquest_jax.checkpoint.store import Checkpoints
from iquest_jax.errors import RunStopped, UserError
from iquest_jax.run_folder import StageFolder

_ROOT = pathlib.Path(__file__).resolve().parents[2]


def _state(seed=0, devices=8, rows=16):
  """(params, optimizer) as in training, sharded over `devices`."""
  mesh = Mesh(np.array(jax.devices()[:devices]), ('fsdp',))
  random = np.random.default_rng(seed)
  params = {
      'layers': {'w': random.standard_normal((rows, 24), np.float32), 'scale': random.standard_normal(8, np.float32)},
      'head': random.standard_normal((8, 3), np.float32).astype(jnp.bfloat16),
  }
  params = jax.tree.map(lambda leaf: jax.device_put(leaf, NamedSharding(mesh, P('fsdp'))), params)
  optimizer = {'adam': optax.adamw(1e-3).init(params), 'step': jnp.int32(seed), 'skipped': jnp.int32(0)}
  return params, optimizer


def _abstract(tree):
  return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), tree)


def _assert_same(left, right):
  assert jax.tree.structure(left) == jax.tree.structure(right)
  jax.tree.map(np.testing.assert_array_equal, left, right)


def _saved(run_dir, steps=(1,)):
  checkpoints = Checkpoints(StageFolder(run_dir))
  for step in steps:
    checkpoints.save(step, *_state(step), {'size': 'tiny'})
  checkpoints.wait()
  return checkpoints


@pytest.mark.parametrize('before,after', [(8, 2), (1, 4), (4, 1)])
def test_a_checkpoint_restores_bit_equal_on_another_number_of_devices(tmp_path, before, after):
  state = _state(devices=before)
  checkpoints = Checkpoints(StageFolder(tmp_path))
  checkpoints.save(3, *state, {'size': 'tiny'})
  target = _abstract(_state(seed=1, devices=after))
  checkpoints.wait()
  restored = checkpoints.restore(*target)
  _assert_same(restored, state)
  assert all(jax.tree.leaves(jax.tree.map(lambda got, want: got.sharding == want.sharding, restored, target)))


def test_a_save_keeps_its_values_although_their_memory_is_reused_at_once(tmp_path):
  update = jax.jit(lambda params: jax.tree.map(lambda leaf: leaf * 2 + 1, params), donate_argnums=0)
  params, optimizer = _state(rows=4096)
  wanted = jax.tree.map(np.array, params)
  checkpoints = Checkpoints(StageFolder(tmp_path))
  checkpoints.save(1, params, optimizer, {})
  for _ in range(20):
    params = update(params)
  checkpoints.wait()
  assert all(not np.array_equal(now, was) for now, was in zip(jax.tree.leaves(params), jax.tree.leaves(wanted)))
  _assert_same(checkpoints.restore_params(_abstract(params)), wanted)


def test_saving_returns_before_the_checkpoint_is_committed(tmp_path, monkeypatch):
  hashing = seal.file_hashes
  slow_hashing = lambda *args: time.sleep(1) or hashing(*args)
  monkeypatch.setattr(seal, 'file_hashes', slow_hashing)
  checkpoints = Checkpoints(StageFolder(tmp_path))
  checkpoints.save(1, *_state(), {})
  assert checkpoints.steps() == []
  checkpoints.wait()
  assert checkpoints.steps() == [1]


def test_the_newest_checkpoints_are_kept_and_older_ones_removed(tmp_path):
  checkpoints = _saved(tmp_path, steps=(1, 5, 9, 10))
  assert checkpoints.steps() == [9, 10] and checkpoints.latest_step() == 10
  assert sorted(entry.name for entry in checkpoints.folder.iterdir()) == ['10', '9']


def test_a_checkpoint_is_saved_and_restored_where_the_owner_of_files_has_no_name(tmp_path, monkeypatch):
  monkeypatch.setattr(pwd, 'getpwuid', lambda uid: (_ for _ in ()).throw(KeyError(uid)))
  checkpoints = Checkpoints(StageFolder(tmp_path))
  checkpoints.save(1, {'w': np.ones(4, np.float32)}, None, {'size': 'tiny'})
  checkpoints.wait()
  checkpoints.verify(1)
  checkpoints.verify_leaves(1)


def test_milestones_are_kept_beside_the_newest(tmp_path):
  checkpoints = Checkpoints(StageFolder(tmp_path), keep=2, milestones=(4, 8, 6))
  for step in (2, 4, 6, 8, 10, 12):
    checkpoints.save(step, *_state(step), {})
  checkpoints.wait()
  assert checkpoints.steps() == [4, 6, 8, 10, 12]


def test_a_save_says_what_it_cost(tmp_path, monkeypatch):
  said = []
  monkeypatch.setattr(logging, 'info', lambda text, *values: said.append(text % values))
  slow = lambda function, seconds: lambda *args: time.sleep(seconds) or function(*args)
  monkeypatch.setattr(seal, 'file_hashes', slow(seal.file_hashes, 0.2))
  _saved(tmp_path / 'anneal')
  line = next(line for line in said if 'checkpoint 1 saved' in line)
  found = re.fullmatch(
      r'anneal: checkpoint 1 saved: ([\de.-]+) GB in ([\d.]+) s, [\de.-]+ GB/s: copied to the host in ([\d.]+) s, '
      r'written in ([\d.]+) s, hashed in ([\d.]+) s by 1 process',
      line,
  )
  size, total, copied, written, hashed = map(float, found.groups())
  folder = tmp_path / 'anneal/checkpoints/1'
  sealed = [folder / name for name in seal.from_text((folder / 'integrity/files.json').read_text())]
  assert size * 1e9 == pytest.approx(sum(file.stat().st_size for file in sealed), rel=0.01)
  assert hashed >= 0.4 and total >= copied + written + hashed - 0.2


def test_the_seal_is_written_last_and_lists_every_other_file(tmp_path):
  checkpoints = _saved(tmp_path)
  folder = checkpoints.folder / '1'
  listed = seal.from_text((folder / 'integrity/files.json').read_text())
  assert sorted(listed) == [name for name in seal.files(folder) if name != 'integrity/files.json']
  assert {'params/_METADATA', 'params/manifest.ocdbt', 'optimizer/_METADATA', 'lineage/lineage.json'} < listed.keys()
  assert (folder / 'integrity/files.json').stat().mtime >= max((folder / name).stat().mtime for name in listed)


def test_a_save_that_cannot_be_sealed_is_not_a_checkpoint(tmp_path, monkeypatch):
  checkpoints = _saved(tmp_path)

  def refuse(_):
    raise OSError(errno.ENOSPC, 'No space left on device')

  monkeypatch.setattr(seal, 'to_text', refuse)
  checkpoints.save(2, *_state(2), {})
  with pytest.raises(UserError, match='checkpoints/2: this checkpoint was not saved: No space left on device'):
    checkpoints.wait()
  assert [entry.name for entry in checkpoints.folder.iterdir()] == ['1']


def test_a_run_whose_folder_was_taken_over_while_it_saved_commits_nothing(tmp_path):
  checkpoints = _saved(tmp_path)

  def taken_over():
    assert (checkpoints.folder / '2.orbax-checkpoint-tmp/params/_METADATA').exists()  # all but the seal is written
    raise RunStopped('was taken over')

  checkpoints.check = taken_over
  checkpoints.save(2, *_state(2), {})
  with pytest.raises(RunStopped, match='^was taken over$'):
    checkpoints.wait()
  assert checkpoints.steps() == [1]


def test_a_checkpoint_is_saved_although_an_older_one_cannot_be_removed(tmp_path, monkeypatch):
  checkpoints, said = _saved(tmp_path, steps=(1, 2)), []

  def refuse(step):
    raise ValueError('of the bucket')

  monkeypatch.setattr(checkpoints, '_remove', refuse)
  monkeypatch.setattr(logging, 'warning', lambda text, *values: said.append(text % values))
  checkpoints.save(3, *_state(3), {})
  checkpoints.wait()
  assert checkpoints.steps() == [1, 2, 3]
  assert f'{checkpoints.folder}: an old checkpoint is not removed: of the bucket' in said


def test_the_stored_lineage_has_the_fingerprint_of_the_saved_parameters(tmp_path):
  lineage = _saved(tmp_path).lineage()
  assert lineage == {'size': 'tiny', 'end_fingerprint': fingerprint.combine(fingerprint.fingerprints(_state(1)[0]))}


def test_in_place_commits_of_object_stores_keep_the_same_promises(tmp_path, monkeypatch):
  in_place = ocp.path.atomicity.CommitFileTemporaryPath
  monkeypatch.setattr(ocp.path.atomicity_defaults, 'get_default_temporary_path_class', lambda *_, **__: in_place)
  checkpoints = _saved(tmp_path, steps=(1, 2, 3))
  assert checkpoints.steps() == [2, 3]
  _assert_same(checkpoints.restore(*_abstract(_state(3))), _state(3))
  (checkpoints.folder / '3/integrity/files.json').unlink()  # as a kill just before the commit would leave it
  assert checkpoints.steps() == [2]
  checkpoints.clear_leftovers()
  assert [entry.name for entry in checkpoints.folder.iterdir()] == ['2']


def test_a_kill_at_any_moment_of_a_save_leaves_only_complete_checkpoints(tmp_path):
  moments = np.random.default_rng(0).uniform(0.0, 0.25, 3)
  for moment in moments:
    command = [sys.executable, '-m', 'tests.programs.save_forever', str(tmp_path)]
    saver = subprocess.Popen(command, cwd=_ROOT, stdout=subprocess.PIPE, text=True)
    first = int(saver.stdout.readline())
    for _ in range(2):  # two saves later an earlier one has been committed
      saver.stdout.readline()
    time.sleep(moment)
    saver.send_signal(signal.SIGKILL)
    saver.wait()
    saver.stdout.close()
    checkpoints = Checkpoints(StageFolder(tmp_path))
    assert checkpoints.latest_step() > first
    for step in checkpoints.steps():
      checkpoints.verify_leaves(step)
      wanted = {f'w{i}': np.full((64, 64), step * 10 + i, np.float32) for i in range(6)}
      abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), wanted)
      _assert_same(checkpoints.restore(abstract, {'step': jax.ShapeDtypeStruct((), jnp.int32)}, step)[0], wanted)
    assert len(checkpoints.steps()) <= 3  # two kept, and one that the kill saved from removal
    checkpoints.clear_leftovers()
    assert all(entry.name.isdecimal() for entry in checkpoints.folder.iterdir())


def test_leftovers_of_a_killed_save_are_ignored_and_removed_at_the_start(tmp_path):
  checkpoints = _saved(tmp_path)
  shutil.copytree(checkpoints.folder / '1', checkpoints.folder / '2.orbax-checkpoint-tmp')
  (checkpoints.folder / 'notes').mkdir()  # not ours
  assert checkpoints.steps() == [1]
  checkpoints.clear_leftovers()
  assert sorted(entry.name for entry in checkpoints.folder.iterdir()) == ['1', 'notes']


def _assert_fails_in_one_line(checkpoints, step, reason):
  with pytest.raises(UserError) as caught:
    checkpoints.save(step, *_state(step, rows=4096), {})
    checkpoints.wait()
  message = str(caught.value)
  assert f'/checkpoints/{step}: ' in message and reason in message and '\n' not in message
  return message


def test_a_file_size_limit_is_one_line_and_the_earlier_checkpoint_stays(tmp_path):
  checkpoints = _saved(tmp_path)
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
  try:
    message = _assert_fails_in_one_line(checkpoints, 2, 'File too large')
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
  assert 'step 1 and earlier ones are intact' in message
  _assert_same(checkpoints.restore(*_abstract(_state(1))), _state(1))
  assert [entry.name for entry in checkpoints.folder.iterdir()] == ['1']
  checkpoints.save(2, *_state(2, rows=4096), {})
  checkpoints.wait()
  assert checkpoints.steps() == [1, 2]


def test_a_failed_save_writes_one_line_to_stderr_and_nothing_else(tmp_path):
  command = [sys.executable, '-m', 'tests.programs.save_too_much', str(tmp_path)]
  saver = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=False)
  assert saver.returncode == 2
  assert len(saver.stderr.splitlines()) == 1 and 'no earlier one exists' in saver.stderr


@pytest.fixture
def small_disk(tmp_path):
  """A file system of two megabytes, which only root may mount."""
  disk = tmp_path / 'disk'
  disk.mkdir()
  mount = ['mount', '-t', 'tmpfs', '-o', 'size=2m', 'tmpfs', str(disk)]
  if os.getuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
    pytest.skip('mounting a small disk requires root')
  yield disk
  subprocess.run(['umount', str(disk)], check=True)


# Orbax abandons the writers of a failed save; commands silence what Python prints then (quiet.py).
_FAILED_SAVE = pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')


@_FAILED_SAVE
def test_a_full_disk_is_one_line_and_the_earlier_checkpoint_stays(small_disk):
  checkpoints = _saved(small_disk / 'pretrain')
  filler = small_disk / 'filler'
  filler.write_bytes(bytes(shutil.disk_usage(small_disk).free - 200_000))  # half of what the parameters alone need
  _assert_fails_in_one_line(checkpoints, 2, 'No space left on device')
  checkpoints = Checkpoints(StageFolder(small_disk / 'pretrain'))
  assert checkpoints.steps() == [1]
  _assert_same(checkpoints.restore(*_abstract(_state(1))), _state(1))
  filler.unlink()
  checkpoints.save(2, *_state(2), {})
  checkpoints.wait()
  assert checkpoints.steps() == [1, 2]


@_FAILED_SAVE
def test_a_read_only_workdir_is_one_line(small_disk):
  checkpoints = _saved(small_disk / 'pretrain')
  subprocess.run(['mount', '-o', 'remount,ro', str(small_disk)], check=True)
  _assert_fails_in_one_line(checkpoints, 2, 'Read-only file system')
  checkpoints = Checkpoints(StageFolder(small_disk / 'pretrain'))
  assert checkpoints.steps() == [1]
  _assert_same(checkpoints.restore(*_abstract(_state(1))), _state(1))


def test_a_workdir_that_is_a_file_is_one_line(tmp_path):
  (tmp_path / 'pretrain').write_text('not a folder')
  _assert_fails_in_one_line(Checkpoints(StageFolder(tmp_path / 'pretrain')), 1, 'Not a directory')
  assert (tmp_path / 'pretrain').read_text() == 'not a folder'


def test_keeping_no_checkpoint_is_refused(tmp_path):
  with pytest.raises(UserError, match='checkpoint.keep must be at least 1, got 0'):
    Checkpoints(StageFolder(tmp_path), keep=0)


def test_an_existing_step_is_not_overwritten(tmp_path):
  checkpoints = _saved(tmp_path)
  with pytest.raises(UserError, match='checkpoints/1: exists already'):
    checkpoints.save(1, *_state(2), {})
  _assert_same(checkpoints.restore(*_abstract(_state(1))), _state(1))


@pytest.fixture
def unused_port():
  with socket.socket() as listener:
    listener.bind(('localhost', 0))
    return listener.getsockname()[1]


def test_two_processes_save_one_checkpoint_and_one_process_restores_it(tmp_path, unused_port):
  command = [sys.executable, '-m', 'tests.programs.save_together']
  flags = {'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': '--xla_force_host_platform_device_count=2'}
  both = [subprocess.Popen([*command, str(process), str(unused_port), str(tmp_path)], cwd=_ROOT, text=True,
                           env=os.environ | flags, stdout=subprocess.PIPE) for process in (0, 1)]
  outputs = [process.communicate(timeout=120)[0] for process in both]
  assert [process.returncode for process in both] == [0, 0]
  assert all('checkpoints/2: params/manifest.ocdbt has changed' in output for output in outputs)
  assert all('set aside: 2.damaged [3]' in output for output in outputs)
  checkpoints = Checkpoints(StageFolder(tmp_path))
  assert sorted(entry.name for entry in checkpoints.folder.iterdir()) == ['2.damaged', '3']
  checkpoints.clear_leftovers()
  assert sorted(entry.name for entry in checkpoints.folder.iterdir()) == ['2.damaged', '3']
  restored = checkpoints.restore_params({'w': jax.ShapeDtypeStruct((16, 24), jnp.float32)})
  np.testing.assert_array_equal(restored['w'], np.arange(16 * 24, dtype=np.float32).reshape(16, 24))
  # Each hashes what it wrote; the first hashes what is left.
  first, second = (set(output.partition('hashed ')[2].splitlines()[0].split()) for output in outputs)
  assert second and all('/ocdbt.process_1/' in name for name in second)
  assert not any('/ocdbt.process_1/' in name for name in first)
  sealed = seal.from_text((checkpoints.folder / '3/integrity/files.json').read_text())
  names = [name for name in seal.files(checkpoints.folder / '3') if name != 'integrity/files.json']
  assert sealed == seal.file_hashes(checkpoints.folder / '3', names)
