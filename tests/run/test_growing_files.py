"""Files that grow, where objects cannot be appended to: parts, joined when they are many, and of one writer alone."""

import types

import pytest
from etils import epath
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from iquest_jax import bucket, journal
from iquest_jax.errors import UserError
from iquest_jax.report.files import Files
from iquest_jax.run_folder import StageFolder
from iquest_jax.train import metrics

from tests.emulator import Fault

RUN = 'gs://bucket/run'
STAGE = StageFolder(epath.Path(RUN) / 'anneal')


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


def test_a_file_that_grew_on_a_disk_goes_on_in_a_bucket_and_is_read_where_it_is_copied_back(emulator, tmp_path):
  here, there = tmp_path / 'x.jsonl', epath.Path(RUN) / 'x.jsonl'
  for content in (b'1\n2\n', b'1\n2\n3'):  # the second with a line that a kill cut off
    here.write_bytes(content)
    if there.exists():
      journal.remove(there)
    bucket.connect().put_file(str(here), str(there))
    assert journal.read(there) == b'1\n2\n'
    lines = journal.Lines(there)
    assert journal.read(there) == b'1\n2\n' and list(bucket.sizes(there.parent)) == [f'{there}/00000000-00000000.jsonl']
    lines.append(b'4\n')
    assert journal.read(there) == b'1\n2\n4\n'
    journal.Lines(there).append(b'5\n')
    assert journal.read(there) == b'1\n2\n4\n5\n'
  back = tmp_path / 'back.jsonl'
  bucket.connect().get(str(there), str(back), recursive=True)
  assert back.is_dir() and journal.read(back) == b'1\n2\n4\n5\n'
  assert list(Files(tmp_path).lines(back)) == [1, 2, 4, 5]
  for write in (journal.Lines, lambda path: journal.Lines.begin(path, b'6\n')):
    with pytest.raises(UserError, match='is a folder of parts, copied from gs://; continue this run there'):
      write(back)
  journal.remove(back)
  assert not back.exists() and not list(tmp_path.glob('*.partial'))


def test_a_kill_between_the_first_part_and_the_removal_of_what_it_replaces_doubles_nothing(emulator, monkeypatch):
  path = epath.Path(RUN) / 'x.jsonl'
  path.write_bytes(b'1\n')
  with monkeypatch.context() as patch:
    patch.setattr(bucket, 'remove', lambda paths: None)
    journal.Lines(path)
  assert journal.read(path) == b'1\n' and len(bucket.sizes(path.parent)) == 2
  journal.Lines(path).append(b'2\n')
  assert journal.read(path) == b'1\n2\n' and f'{path}' not in bucket.sizes(path.parent)


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
