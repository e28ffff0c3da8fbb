"""A run on a bucket keeps the promises of one on a disk: killed it resumes bit-equal, and what fails is one line."""

import errno
import json
import pathlib
import re
import shutil
import time

import aiohttp
import jax
import numpy as np
import pytest
from etils import epath

from iquest_jax import bucket, lease
from iquest_jax.checkpoint import lineage
from iquest_jax.checkpoint.store import Checkpoints
from iquest_jax.data.rows import fetch, manifest
from iquest_jax.data.rows.read import OpenShards, Rows
from iquest_jax.errors import UserError
from iquest_jax.run_folder import RunFolder, StageFolder, write_whole
from iquest_jax.train import heartbeat, metrics

from tests.emulator import Fault, download, upload
from tests.processes import refusal
from tests.run import helpers as run_helpers
from tests.run.helpers import kill_when, train
from tests.small_rows import plain_shards

RUN = 'gs://bucket/run'
STAGE = StageFolder(epath.Path(RUN) / 'anneal')


def lost(emulator, shared, command, status) -> str:
  """Runs a command and loses the bucket in the middle of the save of step 6; returns the line it ends with."""

  def lose(line):
    if 'checkpoints/6/' in line and 'POST /upload' in line:
      emulator.fault = Fault(status)

  emulator.before = lose
  done = shared.run(command, status=2)
  emulator.fault, emulator.before = None, lambda line: None
  assert Checkpoints(STAGE).steps() == [3]
  done.stderr = re.sub('.*google_auth_provider.*\n', '', done.stderr)  # TensorStore says which credentials it uses
  return refusal(done)


def test_a_stage_killed_in_a_save_and_whose_bucket_is_lost_in_it_resumes_bit_equal_without_tensorflow(
    shared, emulator, tmp_path
):
  upload(shared.template, RUN)
  command = train('anneal', RUN, **{'data.cache_dir': str(tmp_path / 'cache'), 'checkpoint.milestones': (3,)})
  reached = []
  emulator.before = lambda line: reached.append(line) if 'checkpoints/6/' in line and 'POST /upload' in line else None
  kill_when(shared.start(command), lambda: len(reached) > 8, seconds=280)
  emulator.before = lambda line: None
  assert Checkpoints(STAGE).steps() == [3] and (STAGE.checkpoints / '6').exists()
  assert [record['step'] for record in metrics.read(STAGE) if record['kind'] == 'train'][:3] == [1, 2, 3]

  for status, reason in ((403, 'permission denied'), (404, 'the bucket does not exist')):
    line = lost(emulator, shared, command, status)
    assert re.match(rf'{RUN}/anneal/\S+: .*{reason}.*; fix this, then rerun the same command$', line), line

  # The command itself must turn TensorFlow off: a user's environment does not.
  done = shared.run(run_helpers.importing(command), fresh=True, EPATH_USE_TF='true')
  assert 'gcsfs' in run_helpers.imported(done) and not run_helpers.HEAVY & run_helpers.imported(done)
  assert 'resumes, step 3 of 12' in done.stderr
  local = download(RUN, tmp_path / 'run')
  run_helpers.assert_same_run(local / 'anneal', shared.straight / 'anneal')
  assert Checkpoints(STAGE).steps() == [3, 9, 12]  # a milestone and the newest two
  assert lineage.verify(RunFolder(RUN), ['pretrain', 'anneal']) == []


@pytest.mark.long  # what is refused so is tried again for half a minute
@pytest.mark.parametrize(
    ('status', 'reason'),
    [(429, 'quota or rate limit exceeded|rateLimitExceeded'), (503, 'the bucket cannot be reached after')],
)
def test_a_bucket_that_stays_away_in_the_middle_of_a_run_is_one_line(shared, emulator, tmp_path, status, reason):
  upload(shared.template, RUN)
  command = train('anneal', RUN, **{'data.cache_dir': str(tmp_path / 'cache')})
  line = lost(emulator, shared, command, status)
  assert re.match(rf'{RUN}/anneal/\S+: .*({reason}).*; fix this, then rerun the same command$', line), line
  shared.run(command)
  run_helpers.assert_same_run(download(RUN, tmp_path / 'run') / 'anneal', shared.straight / 'anneal')


@pytest.mark.long
def test_an_unattended_run_sets_a_damaged_checkpoint_aside_and_ends_bit_equal(shared, emulator, tmp_path):
  stopped = shutil.copytree(shared.straight, tmp_path / 'stopped')
  shutil.rmtree(stopped / 'anneal/checkpoints/12')
  (stopped / 'anneal/lineage.json').unlink()
  upload(stopped, RUN)
  damaged = STAGE.checkpoints / '9/params/manifest.ocdbt'
  damaged.write_bytes(damaged.read_bytes()[:-1] + b'?')
  command = train('anneal', RUN, **{'data.cache_dir': str(tmp_path / 'cache'), 'checkpoint.keep': 100})
  done = shared.run([*command, '--resume=newest_whole'])
  assert 'is now 9.damaged; falling back to step 6' in done.stderr
  assert Checkpoints(STAGE).steps() == [3, 6, 9, 12]
  run_helpers.assert_same_run(download(RUN, tmp_path / 'run') / 'anneal', shared.straight / 'anneal')


# ---------------------------------------------------------------- What tells runs and hosts apart


@pytest.mark.parametrize('left', ['nothing', 'a dead host'])
def test_of_two_starts_on_a_bucket_one_gets_the_lease(emulator, monkeypatch, left):
  for name, seconds in {'BEAT_S': 0.1, 'LIMIT_S': 1.0, 'SETTLE_S': 0.5}.items():
    monkeypatch.setattr(lease, name, seconds)
  if left == 'a dead host':
    STAGE.lease.write_text(json.dumps({'host': 'far-1', 'machine': 'far', 'pid': 7, 'started': 7, 'token': 'x', 'beat': 0}))
  assert run_helpers.holders(STAGE, 2) == 1
  assert not STAGE.lease.exists()


def test_heartbeats_on_a_bucket_have_its_clock(emulator):
  with heartbeat.Heartbeat(STAGE, done=3, every_s=0.1):
    end = time.monotonic() + 30
    while not (beats := heartbeat.read(STAGE)) and time.monotonic() < end:
      time.sleep(0.05)
    assert [beat['step'] for beat in beats] == [3] and abs(beats[0]['time'] - time.time()) < 60
  assert heartbeat.read(STAGE) == []


# ---------------------------------------------------------------- Checkpoints


def tree(step: int) -> dict[str, np.ndarray]:
  return {f'w{i}': np.full((8, 8), step * 10 + i, np.float32) for i in range(2)}


def saved(*steps: int) -> Checkpoints:
  checkpoints = Checkpoints(STAGE)
  for step in steps:
    checkpoints.save(step, tree(step), {'step': np.int32(step)}, {'size': 'tiny'})
  checkpoints.wait()
  return checkpoints


@pytest.mark.parametrize(
    ('status', 'reason', 'tries'),
    [(403, 'permission denied', 1), (404, 'bucket does not exist', 1), (429, r'after 2 tries \(rateLimitExceeded\)', 2)],
)
def test_a_bucket_that_refuses_a_save_is_one_line_after_few_tries_and_loses_nothing(emulator, status, reason, tries):
  checkpoints = saved(1)
  emulator.fault = Fault(status, 'POST /upload.*checkpoints')
  with pytest.raises(UserError, match=f'2: this checkpoint was not saved: .*{reason}; earlier ones are intact') as caught:
    checkpoints.save(2, tree(2), {'step': np.int32(2)}, {'size': 'tiny'})
    checkpoints.wait()
  assert '\n' not in str(caught.value) and emulator.refused <= 8 * tries
  emulator.fault = Fault(status, 'POST /upload')
  with pytest.raises(OSError) as write:
    write_whole(STAGE.checkpoints / 'x', 'x')
  assert write.value.errno in (errno.EACCES, errno.ENXIO, errno.EDQUOT) and write.value.filename == f'{STAGE.checkpoints}/x'
  emulator.fault = None
  checkpoints = Checkpoints(STAGE)
  checkpoints.clear_leftovers()
  assert checkpoints.steps() == [1] and [entry.name for entry in checkpoints.folder.iterdir()] == ['1']
  checkpoints.verify(1)
  checkpoints.verify_leaves(1)


@pytest.mark.parametrize(('status', 'reason'), [(403, 'permission denied'), (404, 'not exist'), (503, 'be reached after')])
def test_a_bucket_that_cannot_be_used_is_one_line_at_the_start(emulator, status, reason):
  emulator.fault = Fault(status)
  with pytest.raises(UserError, match=f'^gs://bucket: .*{reason}.*; fix this, or name another bucket$'):
    bucket.check(RUN)
  assert emulator.refused <= bucket.TRIES


def test_a_request_without_an_answer_is_given_up_and_tried_again(emulator, monkeypatch):
  limits = bucket.connect().requests_timeout
  assert limits.sock_connect and limits.sock_read  # gcsfs has none
  silent = [5.0]
  emulator.before = lambda line: time.sleep(silent.pop() if silent else 0)
  monkeypatch.setattr(bucket.connect(), 'requests_timeout', aiohttp.ClientTimeout(sock_read=1.5))
  bucket.check(RUN)
  assert not silent
  emulator.before = lambda line: time.sleep(5.0)
  with pytest.raises(UserError, match=r'^gs://bucket: the bucket cannot be reached after 2 tries \(.*Timeout.*\); fix'):
    bucket.check(RUN)


def test_an_error_of_the_program_is_not_taken_for_one_of_the_bucket(emulator):
  with pytest.raises(IndexError):
    bucket.connect().call('GET', 'b/{}/{}', 'bucket')


def test_the_seal_is_the_commit_and_what_has_none_is_removed_at_the_next_start(emulator):
  checkpoints = saved(1, 2, 3)
  assert checkpoints.steps() == [2, 3]
  (checkpoints.folder / '3/integrity/files.json').unlink()  # as a kill just before the commit would leave it
  assert checkpoints.steps() == [2]
  checkpoints.clear_leftovers()
  assert [entry.name for entry in checkpoints.folder.iterdir()] == ['2']


def test_a_checkpoint_is_set_aside_with_all_its_objects(emulator):
  checkpoints = saved(1, 2)
  kept = bucket.sizes(checkpoints.folder / '2')
  assert checkpoints.set_aside(2).name == '2.damaged' and checkpoints.steps() == [1]
  moved = {name.replace('/checkpoints/2/', '/checkpoints/2.damaged/'): size for name, size in kept.items()}
  assert bucket.sizes(checkpoints.folder / '2.damaged') == moved and not bucket.sizes(checkpoints.folder / '2')
  checkpoints = saved(2)
  emulator.fault = Fault(404, 'rewriteTo')  # lost on the way
  with pytest.raises(OSError):
    checkpoints.set_aside(2)
  emulator.fault = None
  checkpoints.verify(2)
  assert checkpoints.set_aside(2).name == '2.damaged-2' and checkpoints.steps() == [1]


def test_a_damaged_object_is_named(emulator):
  checkpoints = saved(1)
  (data, *_) = (checkpoints.folder / '1/params').glob('d/*')
  content = bytearray(data.read_bytes())
  content[len(content) // 2] ^= 1
  data.write_bytes(bytes(content))
  with pytest.raises(UserError, match=f'checkpoints/1: params/d/{data.name} has changed since it was saved'):
    checkpoints.verify(1)


def test_an_old_checkpoint_that_cannot_be_removed_is_logged_and_the_new_one_stands(tmp_path, monkeypatch, caplog):
  """NFS keeps a removed file under another name while it is open, and its folder is then not empty."""
  checkpoints = Checkpoints(StageFolder(epath.Path(tmp_path)), keep=1)
  rmtree = type(checkpoints.folder).rmtree

  def refuse(path, *arguments, **named):
    if path.name.startswith('1'):
      raise OSError(errno.ENOTEMPTY, 'Directory not empty')
    rmtree(path, *arguments, **named)

  monkeypatch.setattr(type(checkpoints.folder), 'rmtree', refuse)
  for step in (1, 2, 3):
    checkpoints.save(step, tree(step), None, {'size': 'tiny'})
    checkpoints.wait()
  assert checkpoints.steps() == [3] and 'an old checkpoint is not removed: Directory not empty' in caplog.text
  monkeypatch.undo()
  checkpoints.clear_leftovers()
  assert [entry.name for entry in checkpoints.folder.iterdir()] == ['3']


# ---------------------------------------------------------------- Rows


def test_rows_are_copied_a_few_shards_ahead_and_a_changed_one_is_refused(emulator, tmp_path, shared):
  rows = shared.template / 'rows/anneal'
  bucket.connect().put(str(rows), f'{RUN}/rows', recursive=True)
  described, where = manifest.read(rows), f'{RUN}/rows'
  sources = sorted(described['sources'])
  cached = lambda: [path for path in (tmp_path / 'cache').rglob('*') if path.is_file()]
  opened = OpenShards(where, fetch.Cache(where, str(tmp_path / 'cache'), described, sources))
  assert not cached()
  for source in sources:
    here, there = Rows(rows, source, 'train', ''), Rows(where, source, 'train', '', described, opened)
    for row in range(0, len(here), 7):
      jax.tree.map(np.testing.assert_array_equal, there[row], here[row])
  shard = next(path for path in cached() if '-train.' in path.name)
  name = str(shard.relative_to(tmp_path / 'cache'))
  shard.unlink()
  content = bytearray((epath.Path(where) / name).read_bytes())
  content[-1] ^= 1
  (epath.Path(where) / name).write_bytes(bytes(content))
  again = fetch.Cache(where, str(tmp_path / 'cache'), described, sources)
  with pytest.raises(UserError, match=f'rows: {where}/{name} must have SHA-256 .*; copy the rows there again'):
    again.local(name)
  assert not shard.exists()
  for wrong in ('', 'gs://bucket/cache'):
    with pytest.raises(UserError, match='data.cache_dir: must be a folder on the disk of each host.*set --exp.data'):
      fetch.Cache(where, wrong, described, sources)


@pytest.mark.parametrize(
    ('status', 'reason', 'tries'),
    [
        (403, 'permission denied', 1),
        (404, 'it is missing', 1),
        (503, r'the bucket cannot be reached after 2 tries \(503\)', 2),
    ],
)
def test_a_bucket_that_refuses_a_shard_is_one_line_after_few_tries(emulator, tmp_path, status, reason, tries):
  described, contents = plain_shards(1)
  ((name, content),) = contents.items()
  (epath.Path(RUN) / name).parent.mkdir(parents=True, exist_ok=True)
  (epath.Path(RUN) / name).write_bytes(content)
  cache = fetch.Cache(RUN, str(tmp_path / 'cache'), described, ['code'])
  emulator.fault = Fault(status, 'alt=media')
  with pytest.raises(UserError, match=f'^rows: {RUN}/{name} is not copied to .*: {reason}; fix this, then rerun'):
    cache.local(name)
  assert emulator.refused == tries
  emulator.fault = None
  assert pathlib.Path(cache.local(name)).read_bytes() == content
