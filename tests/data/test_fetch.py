"""Shards of a bucket come to this disk ahead of need, and are taken only with the bytes that were prepared."""

import concurrent.futures
import errno
import os
import pathlib
import shutil
import threading
import time

import pytest

from iquest_jax import bucket
from iquest_jax.data.rows.fetch import Cache
from iquest_jax.errors import UserError

from tests.small_rows import plain_shards


class Origin:
  """A bucket in a folder: downloads begin at once, and end when they may.

  Attributes:
    asked: names of the files, in order.
    refused: names of files that are refused.
  """

  def __init__(self):
    self.asked, self.refused, self.may_end = [], set(), threading.Event()
    self.may_end.set()

  def get_file(self, origin, path):
    self.asked.append(name := pathlib.Path(origin).name)
    assert self.may_end.wait(60)
    if name in self.refused:
      raise OSError(errno.EACCES, 'permission denied', origin)
    shutil.copy(origin, path)


@pytest.fixture(name='origin')
def _origin(monkeypatch) -> Origin:
  origin = Origin()
  monkeypatch.setattr(bucket, 'connect', lambda: origin)
  return origin


@pytest.fixture(name='shards')
def _shards(tmp_path):
  """(the rows' manifest, {path of a shard below their folder: its content})."""
  manifest, contents = plain_shards(12)
  for name, content in contents.items():
    path = tmp_path / 'rows' / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
  return manifest, contents


def wait_until(holds) -> None:
  end = time.monotonic() + 60
  while not holds():
    assert time.monotonic() < end
    time.sleep(0.01)


def opened(tmp_path, manifest) -> Cache:
  return Cache(tmp_path / 'rows', str(tmp_path / 'cache'), manifest, ['code'])


def test_readers_that_wait_for_different_shards_all_get_theirs(origin, shards, tmp_path):
  manifest, contents = shards
  cache = opened(tmp_path, manifest)
  wanted = list(contents)[-4:]
  origin.may_end.clear()
  with concurrent.futures.ThreadPoolExecutor(len(wanted)) as readers:
    waiting = []
    for name in wanted:
      waiting.append(readers.submit(cache.local, name))
      wait_until(lambda: name in cache._copies)
    origin.may_end.set()
    found = [pathlib.Path(each.result(60)).read_bytes() for each in waiting]
  assert found == [contents[name] for name in wanted]


def test_all_shards_come_while_one_is_read(origin, shards, tmp_path):
  manifest, contents = shards
  cache, first = opened(tmp_path, manifest), next(iter(contents))

  def all_are_there():
    cache.local(first)
    return len(origin.asked) == len(contents)

  wait_until(all_are_there)
  assert len(set(origin.asked)) == len(contents)


def test_a_shard_that_could_not_be_copied_ahead_of_need_is_copied_when_it_is_needed(origin, shards, tmp_path):
  manifest, contents = shards
  first, second, *_ = contents
  origin.refused = {pathlib.Path(second).name}
  cache = opened(tmp_path, manifest)
  cache.local(first)
  wait_until(lambda: cache._copies[second].done())
  with pytest.raises(UserError, match='is not copied to .*: permission denied; fix this, then rerun the same command$'):
    cache.local(second)
  origin.refused = set()
  assert pathlib.Path(cache.local(second)).read_bytes() == contents[second]


def test_a_shard_with_a_changed_byte_is_copied_again_by_the_next_process_and_a_sound_one_is_not(origin, shards, tmp_path):
  manifest, contents = shards
  name = next(iter(contents))
  path = pathlib.Path(opened(tmp_path, manifest).local(name))
  for changed in (b'X' + contents[name][1:], contents[name][:-1]):
    path.write_bytes(changed)
    assert pathlib.Path(opened(tmp_path, manifest).local(name)).read_bytes() == contents[name]
  times = origin.asked.count(path.name)
  opened(tmp_path, manifest).local(name)
  assert times == origin.asked.count(path.name) == 3


def test_partial_files_of_killed_processes_are_removed_and_of_others_not_whatever_the_clock_says(origin, shards, tmp_path):
  manifest, contents = shards
  name = next(iter(contents))
  shard = tmp_path / 'cache' / name
  origin.may_end.clear()
  first = opened(tmp_path, manifest)._begin(name)  # and nothing ahead of it
  wait_until(lambda: origin.asked)
  (running,) = shard.parent.iterdir()
  killed = shard.with_name(f'.{shard.name}.1-1')
  killed.touch()
  os.utime(running, (0, 0))  # as after a jump of the clock
  second = opened(tmp_path, manifest)._begin(name)
  wait_until(lambda: len(origin.asked) == 2)
  assert running.exists() and not killed.exists() and len(list(shard.parent.iterdir())) == 2
  origin.may_end.set()
  for copied in (first, second):
    assert pathlib.Path(copied.result(60)).read_bytes() == contents[name]
  assert list(shard.parent.iterdir()) == [shard]


def test_the_process_ends_although_a_shard_is_on_its_way(origin, shards, tmp_path):
  manifest, contents = shards
  before = set(threading.enumerate())
  origin.may_end.clear()
  cache = opened(tmp_path, manifest)
  cache._begin(next(iter(contents)))
  wait_until(lambda: origin.asked)
  assert all(thread.daemon for thread in set(threading.enumerate()) - before)
  origin.may_end.set()
