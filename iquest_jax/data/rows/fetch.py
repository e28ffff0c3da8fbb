"""Rows on gs://, copied shard by shard onto the disk of this host as they are read, each compared with its hash.

  <cache_dir>/<source>/<split>-<hash>/<shard>       as in the folder of the rows; the hash keeps versions apart

A mixture draws from all shards in any order, so a cache fills up with all rows of its stage and needs room for them. It
outlives the run: a shard that is there is not copied again if it has the right hash, for which every process reads it once.
"""

import concurrent.futures
import contextlib
import fcntl
import itertools
import os
import pathlib
import threading
from collections.abc import Iterable, Iterator

from absl import logging

from iquest_jax import bucket
from iquest_jax.data.rows.manifest import Manifest, segments_of, shard_name, stamp
from iquest_jax.errors import UserError

# Shards on their way that nobody waits for.
_AHEAD = 4


class Cache:
  """Shards on this host's disk. Thread-safe."""

  def __init__(self, rows_dir: str | os.PathLike, cache_dir: str, manifest: Manifest, sources: Iterable[str]):
    """Copies nothing yet; once a first shard is asked for, those of `sources` follow in the order of the manifest.

    Raises:
      UserError: no cache is named, or it is not on a disk.
    """
    if not cache_dir or bucket.is_bucket(cache_dir):
      raise UserError(
          f'data.cache_dir: must be a folder on the disk of each host, got "{cache_dir}": rows on {rows_dir} are copied '
          'there; set --exp.data.cache_dir, or mount the bucket and set --exp.data.rows_dir to the mounted folder'
      )
    self._rows_dir, self._folder = os.fspath(rows_dir), pathlib.Path(os.path.abspath(cache_dir))
    self._shards = {
        f'{segment["folder"]}/{shard_name(source, split, number, len(segment["shards"]))}': shard
        for source in sources
        for split in ('train', 'held_out')
        for segment in segments_of(manifest, source, split)
        for number, shard in enumerate(segment['shards'])
    }
    self._lock, self._rest = threading.Lock(), iter(self._shards)
    self._copies: dict[str, concurrent.futures.Future] = {}
    self._going: list[concurrent.futures.Future] = []  # those not done, so that a row need not look at all

  def local(self, name: str) -> str:
    """The path of a shard on this disk, given its path below the rows' folder; waits for it.

    Raises:
      UserError: the bucket or the disk refuses, or the shard is not as it was prepared.
    """
    with self._lock:
      copy = self._begin(name)
      self._going = [one for one in self._going if not one.done()]
      others = sum(one is not copy for one in self._going)
      for other in itertools.islice(self._rest, max(0, _AHEAD - others)):  # others may wait for more than _AHEAD
        self._begin(other)
    return copy.result()

  def _begin(self, name: str) -> concurrent.futures.Future:
    copy = self._copies.get(name)
    # What failed before anybody needed it may succeed now.
    if copy is None or (copy.done() and copy.exception()):
      copy = self._copies[name] = concurrent.futures.Future()
      self._going.append(copy)
      # A thread that does not keep the process alive: one that ends must not wait for what is on its way.
      threading.Thread(target=self._run, args=(name, copy), daemon=True).start()
    return copy

  def _run(self, name: str, copy: concurrent.futures.Future) -> None:
    try:
      copy.set_result(self._copy(name))
    except BaseException as error:  # of the thread that waits for it
      copy.set_exception(error)

  def _copy(self, name: str) -> str:
    path, shard, origin = self._folder / name, self._shards[name], f'{self._rows_dir}/{name}'
    # Processes of one host may share the folder.
    partial = path.with_name(f'.{path.name}.{os.getpid()}-{threading.get_ident()}')
    try:
      if path.exists():
        if path.stat().st_size == shard['bytes'] and stamp(path)['sha256'] == shard['sha256']:
          return os.fspath(path)
        logging.warning('rows: %s is not as it was prepared, and is copied again', path)
      path.parent.mkdir(parents=True, exist_ok=True)
      with _owned(partial, f'.{path.name}.*'):
        bucket.connect().get_file(origin, os.fspath(partial))
        if (found := stamp(partial)['sha256']) != shard['sha256']:
          raise UserError(
              f'rows: {origin} must have SHA-256 {shard["sha256"][:12]}, got {found[:12]}; copy the rows there again from '
              'the folder where they were prepared'
          )
        with open(partial, 'rb') as file:
          os.fsync(file.fileno())  # a crash of the machine leaves no name without its content
        os.replace(partial, path)
    except OSError as error:
      reason = error.strerror or 'it is missing'  # of what is missing in a bucket there are no words
      fix = 'fix this, then rerun the same command'
      raise UserError(f'rows: {origin} is not copied to {self._folder}: {reason}; {fix}') from error
    finally:
      partial.unlink(missing_ok=True)
    return os.fspath(path)


@contextlib.contextmanager
def _owned(partial: pathlib.Path, alike: str) -> Iterator[None]:
  """Locks a partial file while this process fills it, and first removes those of `alike` whose processes were killed.

  A lock ends with its process, in another container as well, and needs no clock. Where a disk refuses locks, all are left.
  """
  with contextlib.ExitStack() as closing:
    with _opened(partial.parent, os.O_RDONLY) as folder:
      with contextlib.suppress(OSError):
        fcntl.flock(folder, fcntl.LOCK_EX)  # so that nobody removes a file between its creation and its lock
      for left in partial.parent.glob(alike):
        with contextlib.suppress(OSError), _opened(left, os.O_RDONLY) as file:
          fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
          left.unlink()
      own = closing.enter_context(_opened(partial, os.O_WRONLY | os.O_CREAT))
      with contextlib.suppress(OSError):
        fcntl.flock(own, fcntl.LOCK_EX)
    yield


@contextlib.contextmanager
def _opened(path: pathlib.Path, how: int) -> Iterator[int]:
  """The descriptor of a file or folder; closing it ends its locks."""
  descriptor = os.open(path, how, 0o644)
  try:
    yield descriptor
  finally:
    os.close(descriptor)
