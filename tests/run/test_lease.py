"""One run at a time writes to a stage: a second start refuses while the first lives, and takes over once it is dead."""

import json
import os
import pathlib
import re
import subprocess
import threading
import time

import pytest
from etils import epath

from iquest_jax import lease
from iquest_jax.errors import RunStopped, UserError
from iquest_jax.run_folder import StageFolder

from tests import processes
from tests.run.helpers import holders, train


@pytest.fixture(autouse=True)
def _short(monkeypatch):
  """Heartbeats and limits of a test."""
  for name, seconds in {'BEAT_S': 0.02, 'LIMIT_S': 0.4, 'SETTLE_S': 0.05}.items():
    monkeypatch.setattr(lease, name, seconds)


@pytest.fixture(name='folder')
def _folder(tmp_path):
  return StageFolder(epath.Path(tmp_path / 'anneal'))


def written(folder, **changes):
  """Leaves the lease of a run of another host."""
  record = {'host': 'far-1', 'machine': 'far', 'pid': 7, 'started': 7, 'token': 'theirs', 'began': '2020-01-01', 'beat': 0}
  record |= changes
  folder.path.mkdir(parents=True, exist_ok=True)
  lease.write_whole(folder.lease, json.dumps(record))
  return record


def taken_over_after(folder):
  """Seconds until a lease is held."""
  began = time.monotonic()
  with lease.held(folder):
    assert json.loads(folder.lease.read_text())['pid'] == os.getpid()
    return time.monotonic() - began


def test_a_second_start_is_refused_at_once_and_told_who_writes(folder):
  with lease.held(folder):
    began = time.monotonic()
    with pytest.raises(UserError) as refused, lease.held(folder):
      pass
    assert time.monotonic() - began < lease.LIMIT_S / 2
    assert re.search(rf'process {os.getpid()} on .* whose last heartbeat is \d+ s old', str(refused.value))
  assert not folder.lease.exists()


def test_a_command_refuses_a_stage_that_is_being_written_and_changes_nothing(shared, workdir):
  stage = StageFolder(epath.Path(workdir / 'anneal'))
  with lease.held(stage):
    line = processes.refusal(shared.run(train('anneal', workdir), status=2))
  assert str(workdir / 'anneal') in line and f'process {os.getpid()} on ' in line
  assert not stage.path.exists()


@pytest.mark.parametrize('state', ['reaped', 'zombie', 'another process has its number'])
def test_the_lease_of_a_dead_process_of_this_host_is_taken_over_at_once(folder, monkeypatch, state):
  monkeypatch.setattr(lease, 'LIMIT_S', 1000.0)
  if state == 'another process has its number':
    pid, started = os.getpid(), lease._started(os.getpid()) - 1
  else:
    process = subprocess.Popen(['sleep', '1000'])
    pid, started = process.pid, lease._started(process.pid)
    process.kill()
    if state == 'reaped':
      process.wait()
    while state == 'zombie' and ') Z ' not in pathlib.Path(f'/proc/{pid}/stat').read_text():
      time.sleep(0.01)
  written(folder, machine=lease._machine(), pid=pid, started=started)
  assert taken_over_after(folder) < 10


@pytest.mark.parametrize('clock', [-1e6, 0, 1e6])
def test_a_dead_host_is_waited_for_whatever_the_clocks_say(folder, clock):
  written(folder)
  os.utime(folder.lease, (time.time() + clock,) * 2)
  assert lease.LIMIT_S <= taken_over_after(folder) < 20 * lease.LIMIT_S


@pytest.mark.parametrize('clock', [-1e6, 1e6])
def test_a_live_host_is_never_replaced_whatever_the_clocks_say(folder, clock):
  written(folder)
  stop = threading.Event()

  def beat():
    for number in range(1, 1000):
      if stop.wait(0.02):
        return
      written(folder, beat=number)
      os.utime(folder.lease, (time.time() + clock,) * 2)

  beating = threading.Thread(target=beat)
  beating.start()
  with pytest.raises(UserError, match='process 7 on far-1, begun 2020-01-01'), lease.held(folder):
    pass
  stop.set()
  beating.join()
  assert json.loads(folder.lease.read_text())['token'] == 'theirs'


@pytest.mark.parametrize('left', ['nothing', 'a dead host', 'rubbish'])
@pytest.mark.parametrize('locks', [True, False])
def test_of_starts_at_the_same_time_one_gets_the_lease(folder, monkeypatch, left, locks):
  if not locks:  # as on gs://
    monkeypatch.setattr(lease.fcntl, 'flock', lambda *_: (_ for _ in ()).throw(OSError('no locks')))
  monkeypatch.setattr(lease, 'SETTLE_S', 0.3)
  if left == 'a dead host':
    written(folder)
  elif left == 'rubbish':
    folder.path.mkdir()
    folder.lease.write_text('{"pid')
  assert holders(folder, 4) == 1


def test_a_run_that_was_taken_for_dead_saves_nothing_more_and_leaves_the_lease_alone(folder):
  with lease.held(folder) as held:
    held.check()
    written(folder)
    with pytest.raises(RunStopped, match='was taken over by process 7 on far-1'):
      held.check()
    time.sleep(5 * lease.BEAT_S)
    assert json.loads(folder.lease.read_text())['token'] == 'theirs'
  assert json.loads(folder.lease.read_text())['token'] == 'theirs'


def test_a_lease_that_somebody_removed_is_written_again(folder):
  with lease.held(folder) as held:
    folder.lease.unlink()
    held.check()
    end = time.monotonic() + 10
    while not folder.lease.exists():
      assert time.monotonic() < end
      time.sleep(0.01)


def test_a_failed_heartbeat_is_tried_again(folder, monkeypatch):
  beats, write = [], lease.write_whole

  def full(path, content, **how):
    beats.append(json.loads(content)['beat'])
    if beats[-1] in (1, 2):
      raise OSError(28, 'No space left on device')
    write(path, content, **how)

  monkeypatch.setattr(lease, 'write_whole', full)
  with lease.held(folder):
    end = time.monotonic() + 10
    while len(beats) < 6 and time.monotonic() < end:
      time.sleep(0.01)
  assert beats[:6] == [0, 1, 2, 3, 4, 5]
