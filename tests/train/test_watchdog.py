"""How long a step may take, and what heartbeats say; tests/run has runs that hang."""

import json
import os
import pwd
import time
import types

import pytest
from ml_collections import ConfigDict

from iquest_jax.errors import UserError
from iquest_jax.run_folder import StageFolder
from iquest_jax.train import heartbeat, watchdog
from iquest_jax.train.preemption import Interrupt

SETTINGS = ConfigDict({'multiple': 10.0, 'floor_s': 60.0, 'extra_s': 1000.0})
NOW = 1.8e9


def test_the_limit_is_a_multiple_of_the_median_and_never_below_its_floor():
  assert watchdog.limit_s(SETTINGS, [7.0, 8.0, 9.0]) == 80.0
  assert watchdog.limit_s(SETTINGS, [8.0] * 9 + [3600.0]) == 80.0  # one slow step changes nothing
  assert watchdog.limit_s(SETTINGS, [0.1, 0.2]) == 60.0
  assert watchdog.limit_s(SETTINGS, []) == 1060.0  # before the first step is known


def still(monkeypatch, done):
  """A watchdog whose thread does not run, and its clock."""
  clock = types.SimpleNamespace(now=0.0)
  monkeypatch.setattr(watchdog, 'time', types.SimpleNamespace(monotonic=lambda: clock.now))
  monkeypatch.setattr(watchdog.threading.Thread, 'start', lambda self: None)
  return watchdog.Watchdog(ConfigDict({'stage': 'anneal', 'watchdog': SETTINGS}), done), clock


def limits(monkeypatch, steps):
  """The limit after each of `steps`: (seconds it took, whether it was extended)."""
  watching, clock = still(monkeypatch, 5)
  found = []
  for number, (seconds, extended) in enumerate([(0.0, False), *steps], 5):
    if extended:
      watching.extend()
      found.append(watching._limit)
    clock.now += seconds
    watching.between(number, None)
    found.append(watching._limit)
  return found


def test_compiling_saving_and_evaluating_have_their_own_allowance_and_teach_nothing(monkeypatch):
  steps = [(500.0, False), (10.0, False), (900.0, True), (12.0, False), (14.0, False)]
  # Resumed; the first step compiles; 10 s; a save adds its allowance once, however long it took; then 12 s and 14 s.
  assert limits(monkeypatch, steps) == [1060.0, 1060.0, 100.0, 1100.0, 100.0, 110.0, 120.0]


def test_several_slow_things_in_one_step_share_one_allowance(monkeypatch):
  watching, clock = still(monkeypatch, 0)
  for done in range(3):
    clock.now += 10.0
    watching.between(done, None)
  watching.extend()
  watching.extend()
  assert watching._limit == 1100.0


def beat(process, step, processes=3, ago=0.0, since=70.0):
  return {'process': process, 'processes': processes, 'host': f'host-{process}', 'step': step, 'seconds_since_step': since,
          'time': NOW - ago}  # fmt: skip


def test_hosts_within_one_step_are_together():
  assert heartbeat.describe([beat(0, 41), beat(1, 40), beat(2, 41)], NOW + 5) == [
      '3 of 3 processes heard, step 41, last 5 s ago'
  ]


def test_hosts_behind_silent_or_never_heard_are_named():
  lines = heartbeat.describe([beat(0, 41, 4), beat(1, 39, 4), beat(2, 41, 4, ago=3000.0)], NOW)
  assert lines[1:] == [
      'behind: process 1 (host-1), step 39, 70 s after its last one',
      'silent: process 2 (host-2), step 41, last heard 50 min ago',
      'never heard: process 3',
  ]


def test_a_host_is_behind_only_if_another_was_ahead_when_it_wrote():
  """Hosts write at moments of their own, and a step may be fast."""
  fast = [beat(0, 50, 2, since=0.1), beat(1, 41, 2, ago=9.0, since=0.1)]
  assert len(heartbeat.describe(fast, NOW)) == 1
  slower = [beat(0, 46, 2, since=1.0), beat(1, 41, 2, ago=14.0, since=2.5)]
  assert len(heartbeat.describe(slower, NOW)) == 1
  # Of the second, the step of one write and the time of the next.
  torn = [beat(0, 60, 2, since=30.0), beat(1, 41, 2, since=0.1)]
  assert len(heartbeat.describe(torn, NOW)) == 1
  stuck = [beat(0, 50, 2, since=12.0), beat(1, 41, 2, ago=9.0, since=30.0)]
  assert heartbeat.describe(stuck, NOW)[1:] == ['behind: process 1 (host-1), step 41, 30 s after its last one']


def test_what_a_crashed_run_left_blames_no_process_of_the_next(tmp_path):
  left = [beat(0, 100, 2), beat(1, 140, 2, ago=3600.0)]
  assert heartbeat.describe(left, NOW) == [
      '2 of 2 processes heard, step 100, last 0 s ago', 'silent: process 1 (host-1), step 140, last heard 60 min ago'
  ]  # fmt: skip


def test_a_heartbeat_of_an_owner_without_a_name_is_heard(tmp_path, monkeypatch):
  monkeypatch.setattr(pwd, 'getpwuid', lambda uid: (_ for _ in ()).throw(KeyError(uid)))
  with heartbeat.Heartbeat(StageFolder(tmp_path), done=3, every_s=60.0):
    deadline = time.monotonic() + 30
    while not (found := heartbeat.read(StageFolder(tmp_path))) and time.monotonic() < deadline:
      time.sleep(0.01)
    assert [beat['step'] for beat in found] == [3]


def test_the_clock_of_a_host_has_no_part_in_it(tmp_path, monkeypatch):
  """One that is an hour ahead and one whose clock is put back while it runs, beside one that is right."""
  beatings = []
  for process, (jump, step) in enumerate(((3600.0, 12), (-86400.0, 12), (0.0, 12))):
    monkeypatch.setattr(heartbeat.jax, 'process_index', lambda process=process: process)
    monkeypatch.setattr(heartbeat.jax, 'process_count', lambda: 3)
    monkeypatch.setattr(heartbeat.time, 'time', lambda jump=jump: NOW + jump)
    beatings.append(heartbeat.Heartbeat(StageFolder(tmp_path), step, every_s=60.0))
    deadline = time.monotonic() + 30
    while len(found := heartbeat.read(StageFolder(tmp_path))) <= process and time.monotonic() < deadline:
      time.sleep(0.01)
  monkeypatch.undo()
  assert abs(found[0]['time'] - time.time()) < 60
  now = max(beat['time'] for beat in found)
  assert heartbeat.describe(found, now) == ['3 of 3 processes heard, step 12, last 0 s ago']
  for beating in beatings:
    beating.__exit__(None, None, None)


def test_a_run_that_ended_long_ago_has_no_silent_host():
  assert heartbeat.describe([beat(0, 41, 2), beat(1, 41, 2)], NOW + 86400) == [
      '2 of 2 processes heard, step 41, last 1,440 min ago'
  ]


def test_files_of_processes_that_are_no_more_and_damaged_files_are_left_out(tmp_path):
  folder = StageFolder(tmp_path).heartbeats
  folder.mkdir()
  for found in (beat(0, 12, 2), beat(1, 12, 2), beat(2, 9, 3, ago=500.0)):
    path = folder / f'{found["process"]}.json'
    path.write_text(json.dumps(found))
    os.utime(path, (found['time'],) * 2)
  for name, broken in (('3', '{"process": 3'), ('4', '[]'), ('5', ''), ('6', '{"process": 6}')):
    (folder / f'{name}.json').write_text(broken)
  assert [found['process'] for found in heartbeat.read(StageFolder(tmp_path))] == [0, 1]


def test_a_heartbeat_is_written_while_the_main_thread_waits_and_removed_at_the_end(tmp_path):
  beating = heartbeat.Heartbeat(StageFolder(tmp_path), done=3, every_s=0.05)
  seen, deadline = [], time.monotonic() + 30
  while len(seen) < 2 and time.monotonic() < deadline:
    time.sleep(0.02)
    found = heartbeat.read(StageFolder(tmp_path))
    seen += [one for one in found if one['seconds_since_step'] >= 0.1 * (len(seen) + 1)]
  beating.between(4, None)
  while heartbeat.read(StageFolder(tmp_path))[0]['step'] < 4 and time.monotonic() < deadline:
    time.sleep(0.02)
  assert heartbeat.read(StageFolder(tmp_path))[0]['step'] == 4 and len(seen) >= 2
  beating.__exit__(None, None, None)
  assert heartbeat.read(StageFolder(tmp_path)) == []


@pytest.mark.parametrize(
    ('error', 'stays'), [(UserError('disk full'), False), (Interrupt(), False), (RuntimeError('connection closed'), True)]
)
def test_a_heartbeat_stays_where_a_run_crashed_since_another_process_hung_or_died(tmp_path, error, stays):
  with pytest.raises(type(error)), heartbeat.Heartbeat(StageFolder(tmp_path), done=3, every_s=0.05):
    while not heartbeat.read(StageFolder(tmp_path)):
      time.sleep(0.01)
    raise error
  assert bool(heartbeat.read(StageFolder(tmp_path))) == stays


def test_a_folder_that_refuses_heartbeats_is_logged_once_and_ends_no_run(tmp_path, monkeypatch):
  logged = []
  monkeypatch.setattr(heartbeat.logging, 'warning', lambda *line: logged.append(line))
  (tmp_path / 'heartbeats').write_text('a file where the folder should be')
  beating = heartbeat.Heartbeat(StageFolder(tmp_path), done=0, every_s=0.02)
  time.sleep(0.2)
  beating.between(1, None)
  beating.__exit__(None, None, None)
  assert len(logged) == 1
