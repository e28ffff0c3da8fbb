"""A run on a bucket keeps the promises of one on a disk: killed it resumes bit-equal, and what fails is one line."""

import errno
import pathlib
import time
import types

import aiohttp
import fsspec
import jax
import numpy as np
import pytest
from etils import epath
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from iquest_jax import bucket, journal
from iquest_jax.checkpoint import lineage
from iquest_jax.checkpoint.store import Checkpoints
from iquest_jax.data.rows import fetch, manifest
from iquest_jax.data.rows.read import OpenShards, Rows
from iquest_jax.errors import UserError
from iquest_jax.run_folder import RunFolder, StageFolder, write_whole
from iquest_jax.train import metrics

from tests.emulator import Emulator, Fault
from tests.run import helpers as run_helpers
from tests.run.helpers import kill_when, train
from tests.small_rows import plain_shards

RUN = 'gs://bucket/run'
STAGE = StageFolder(epath.Path(RUN) / 'anneal')


@pytest.fixture(scope='module')
def emulator():
  """The bucket that this process and commands see; few tries, so that what fails does so soon."""
  emulator = Emulator()
  with pytest.MonkeyPatch.context() as patch:
    for name, value in emulator.environment.items():
      patch.setenv(name, value)
    patch.setitem(fsspec.config.conf, 'gcs', {'token': 'anon'})  # the variable is read when fsspec is imported
    patch.setattr(bucket, 'TRIES', 2)
    bucket.connect.cache_clear()
    epath.backend.fsspec_backend._get_filesystem.cache_clear()
    bucket.connect()
    yield emulator
  emulator.close()


@pytest.fixture(autouse=True)
def served(emulator):
  """Serves everything, from an empty bucket."""
  emulator.fault, emulator.before, emulator.refused = None, lambda line: None, 0
  if (folder := epath.Path(RUN)).exists():
    folder.rmtree()


def upload(folder: pathlib.Path) -> None:
  """Copies a local folder to the bucket, as `gcloud storage rsync` does."""
  bucket.connect().put(str(folder), RUN, recursive=True)


def download(folder: pathlib.Path) -> pathlib.Path:
  """A copy of the run's folder on this disk, with its growing files joined."""
  bucket.connect().get(RUN, str(folder), recursive=True)
  for path in folder.glob('*/metrics.jsonl'):
    parts = journal.read(f'{RUN}/{path.parent.name}/metrics.jsonl')
    path.rename(path.with_name('parts'))
    path.write_bytes(parts)
  return folder


def test_a_stage_killed_in_the_middle_of_a_save_resumes_bit_equal_and_imports_no_tensorflow(shared, emulator, tmp_path):
  upload(shared.template)
  command = train('anneal', RUN, **{'data.cache_dir': str(tmp_path / 'cache')})
  reached = []
  emulator.before = lambda line: reached.append(line) if 'checkpoints/6/' in line and 'POST /upload' in line else None
  kill_when(shared.start(command, fresh=True), lambda: len(reached) > 8, seconds=280)
  emulator.before = lambda line: None
  assert Checkpoints(STAGE).steps() == [3] and (STAGE.checkpoints / '6').exists()
  assert [record['step'] for record in metrics.read(STAGE) if record['kind'] == 'train'][:3] == [1, 2, 3]

  imported = tmp_path / 'imported'
  # The command itself must turn it off: a user's environment does not.
  shared.run(['-m', 'tests.programs.imported', str(imported), *command], fresh=True, EPATH_USE_TF='true')
  assert 'gcsfs' in imported.read_text().split() and 'tensorflow' not in imported.read_text().split()
  local = download(tmp_path / 'run')
  run_helpers.assert_same_run(local / 'anneal', shared.straight / 'anneal')
  assert Checkpoints(STAGE).steps() == [9, 12]
  assert lineage.verify(RunFolder(RUN), ['pretrain', 'anneal']) == []


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


# ---------------------------------------------------------------- Files that grow


def test_a_file_that_grows_is_read_from_its_parts_and_joined_when_they_are_many(emulator, monkeypatch):
  monkeypatch.setattr(journal, '_MOST_PARTS', 5)
  path = epath.Path(RUN) / 'x.jsonl'
  lines = journal.Lines(path)
  wanted = b''
  for number in range(12):
    lines.append(f'{number}\n'.encode(), sync=number % 3 > 0)
    wanted += f'{number}\n'.encode()
    assert journal.read(path) == (wanted if number % 3 else wanted[: wanted.rfind(b'\n', 0, -1) + 1])
  assert len(list(path.iterdir())) < 5
  (path / '00000001-00000001.jsonl').write_bytes(b'1\n')  # as a kill while parts are removed would leave it
  assert journal.read(path) == wanted
  assert journal.read(path.with_name('y.jsonl')) == b''
  journal.remove(path)
  assert journal.read(path) == b'' and not path.exists()


def test_a_removal_that_is_refused_is_an_error_with_a_reason_where_gcsfs_would_send_batches(emulator, monkeypatch):
  monkeypatch.setattr(type(bucket.connect()), 'on_google', True)
  paths = [f'{RUN}/{name}' for name in 'ab']
  for path in paths:
    bucket.write(path, b'content')
  emulator.fault = Fault(403, '^DELETE')  # not of a batch, which is a POST
  with pytest.raises(PermissionError, match='permission denied'):
    bucket.remove(paths)
  emulator.fault = None
  bucket.remove(paths)
  assert not any(epath.Path(path).exists() for path in paths)
  bucket.remove(paths)


def test_two_writers_of_a_file_that_grows_are_told_apart(emulator):
  first, second = (journal.Lines(epath.Path(RUN) / 'x.jsonl') for _ in range(2))
  first.append(b'a\n')
  with pytest.raises(UserError, match='another process is writing it'):
    second.append(b'b\n')
  assert journal.read(f'{RUN}/x.jsonl') == b'a\n'


def test_a_stale_writer_neither_stops_the_one_that_took_over_nor_is_read(emulator, monkeypatch):
  monkeypatch.setattr(journal, '_MOST_PARTS', 5)
  path = epath.Path(RUN) / 'x.jsonl'
  stale = journal.Lines(path)
  stale.append(b'kept\n')
  stale.append(b'cut\n')
  lines, wanted = journal.Lines.begin(path, b'kept\n'), b'kept\n'
  for number in range(2):
    stale.append(b'stale\n')
    lines.append(b'%d\n' % number)
    wanted += b'%d\n' % number
    assert journal.read(path) == wanted
  with pytest.raises(UserError, match='another process is writing it'):
    for _ in range(5):
      stale.append(b'stale\n')
  for number in range(12):
    lines.append(b'%d\n' % number)
    wanted += b'%d\n' % number
  assert journal.read(path) == wanted and len(list(path.iterdir())) <= 5


def test_a_stale_writer_that_has_written_nothing_yet_does_not_stop_the_one_that_took_over(emulator):
  path = epath.Path(RUN) / 'x.jsonl'
  stale = journal.Lines.begin(path, b'')
  lines = journal.Lines.begin(path, b'')
  stale.append(b'stale\n')
  lines.append(b'new\n')
  assert journal.read(path) == b'new\n'


def test_whoever_takes_over_while_a_stale_writer_joins_its_parts_loses_nothing(emulator, monkeypatch):
  monkeypatch.setattr(journal, '_MOST_PARTS', 5)
  path, read, taken_over = epath.Path(RUN) / 'x.jsonl', journal.read, []

  def slow(path):
    content = read(path)
    taken_over.append(journal.Lines.begin(path, b'kept\n'))
    taken_over[0].append(b'new\n')
    return content

  stale = journal.Lines(path)
  for _ in range(4):
    stale.append(b'old\n')
  monkeypatch.setattr(journal, 'read', slow)
  stale.append(b'old\n')
  assert len(taken_over) == 1 and read(path) == b'kept\nnew\n'


def test_old_parts_that_cannot_be_removed_are_logged_and_left_out(emulator, monkeypatch, caplog):
  monkeypatch.setattr(journal, '_MOST_PARTS', 5)
  path = epath.Path(RUN) / 'x.jsonl'
  lines, wanted = journal.Lines(path), b''
  emulator.fault = Fault(403, 'DELETE')
  for number in range(12):
    lines.append(b'%d\n' % number)
    wanted += b'%d\n' % number
  assert journal.read(path) == wanted and f'{path}: old parts are not removed: permission denied' in caplog.text
  emulator.fault = None
  journal.Lines.begin(path, wanted).close()
  assert journal.read(path) == wanted and len(list(path.iterdir())) == 1


def test_a_record_that_comes_a_minute_after_a_flush_is_stored_with_those_that_wait(emulator, monkeypatch):
  now = [0.0]
  monkeypatch.setattr(journal, 'time', types.SimpleNamespace(monotonic=lambda: now[0]))
  writer = metrics.Writer(STAGE, 0, writes=True)
  stored = []
  for step, now[0] in enumerate((30.0, 59.0, 61.0, 100.0, 122.0), 1):
    writer.write('train', step, {'loss': 1.0})
    stored.append(len(metrics.read(STAGE)))
  assert stored == [0, 0, 3, 3, 5]


def test_records_and_events_are_stored_at_every_flush_and_cut_back_to_the_restored_step(emulator, tmp_path):
  writer = metrics.Writer(STAGE, 0, writes=True)
  for step in range(1, 7):
    writer.write('train', step, {'loss': float(step)})
    if step in (3, 5):
      writer.flush()
  assert [record['step'] for record in metrics.read(STAGE)] == [1, 2, 3, 4, 5]  # killed here, the sixth is lost
  writer = metrics.Writer(STAGE, 3, writes=True)
  writer.write('train', 4, {'loss': 40.0})
  writer.close()
  assert [record['loss'] for record in metrics.read(STAGE)] == [1.0, 2.0, 3.0, 40.0]
  bucket.connect().get(str(STAGE.events), str(tmp_path / 'events'), recursive=True)
  events = EventAccumulator(str(tmp_path / 'events')).Reload()
  assert [(event.step, event.value) for event in events.Scalars('train/loss')] == [(1, 1), (2, 2), (4, 40)]


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
