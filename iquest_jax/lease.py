"""The lease of a stage's folder: one run at a time writes to it.

lease.json names the run that writes (host, process, when it began) and counts its heartbeats. Clocks decide nothing,
since those of two hosts differ and may jump: whoever finds a lease watches, for at most LIMIT_S of its own monotonic
clock, whether it changes. If it does, its owner lives; if not, the owner is dead and the lease is taken over. A dead
process of the same host is known to be dead, and one that lives there to be alive, without waiting.

Two that take over at the same time, and every start on gs://, where nothing can be locked, write, wait SETTLE_S and read
back: the last to write keeps it. The owner reads before each heartbeat and before each save, so one that was taken for
dead, as after a long pause of its machine, notices and stops.
"""

import contextlib
import fcntl
import json
import os
import pathlib
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

from absl import logging
from etils import epath

from iquest_jax import bucket
from iquest_jax.errors import RunStopped, UserError
from iquest_jax.run_folder import StageFolder, size_and_time, write_whole

BEAT_S = 5.0
# A lease that does not change for so long belongs to nobody. NFS may show a host a file up to a minute late.
LIMIT_S = 120.0
SETTLE_S = 2.0  # between writing and reading back


class Lease:
  """The lease of this process; see `held`."""

  def __init__(self, path: epath.Path):
    self._path, self._lost = path, ''
    self._record = {**_this_process(), 'token': uuid.uuid4().hex, 'began': time.strftime('%Y-%m-%d %H:%M:%S'), 'beat': 0}
    self._stop = threading.Event()
    self._beating = threading.Thread(target=self._beat, name='lease', daemon=True)

  def check(self) -> None:
    """Raises RunStopped if another run has taken the folder over."""
    with contextlib.suppress(OSError):  # a folder that is away is reported by the save
      self._look()
    if self._lost:
      raise RunStopped(f'{self._path}: {self._lost}; this run saves nothing more, since both would write the same files')

  def acquire(self) -> None:
    """Takes the lease as soon as it is free; raises UserError if its owner lives."""
    while True:
      self._path.parent.mkdir(parents=True, exist_ok=True)
      found = _read(self._path)
      known = found is None or _is_dead(found)
      if not known:
        self._wait_for_end(found)
      try:
        with _locked(self._path) as locked:
          if _read(self._path) != found:  # somebody was faster
            continue
          self._write()
      except FileNotFoundError:  # a run that wrote nothing has just ended and removed the folder
        continue
      if not (known and locked):
        time.sleep(SETTLE_S)
      if self._is_ours(_read(self._path)):
        self._beating.start()
        return

  def release(self) -> None:
    """Ends the heartbeats and removes the lease, if it is still this run's."""
    self._stop.set()
    if self._beating.is_alive():
      self._beating.join()
    with contextlib.suppress(OSError), _locked(self._path):
      if self._is_ours(_read(self._path)):
        self._path.unlink()
        if not bucket.is_bucket(self._path):
          os.rmdir(self._path.parent)  # where a run that was refused has written nothing

  def _wait_for_end(self, found: dict[str, Any]) -> None:
    """Returns when a lease has not changed for LIMIT_S, or is gone; raises UserError once it changes, or if it lives."""
    began, said = time.monotonic(), False
    if _is_alive(found):
      raise self._refusal(found, _age(self._path))
    while (waited := time.monotonic() - began) < LIMIT_S:
      time.sleep(min(BEAT_S / 2, LIMIT_S / 4))
      now = _read(self._path)
      if now is None:
        return
      if now != found:
        raise self._refusal(now, 0.0)
      if waited > 2 * BEAT_S and not said:
        said = True
        logging.info(
            '%s: left by %s; this run takes over if its heartbeat does not change within %.0f s', self._path, _owner(found),
            LIMIT_S,
        )  # fmt: skip
    logging.info('%s: %s is taken for dead after %.0f s without a heartbeat', self._path, _owner(found), LIMIT_S)

  def _refusal(self, found: dict[str, Any], age: float) -> UserError:
    return UserError(
        f'{self._path.parent}: is being written by {_owner(found)}, whose last heartbeat is {age:.0f} s old; wait for it '
        'or end it, or use a new --workdir'
    )

  def _beat(self) -> None:
    warned = False
    while not self._stop.wait(BEAT_S):
      try:
        with _locked(self._path):
          self._look()
          if self._lost:
            return
          self._record['beat'] += 1
          self._write()
        warned = False
      except OSError as error:  # what is full or away now may come back; a save reports it if not
        if not warned:
          logging.warning('%s: no heartbeat: %s', self._path, error.strerror or error)
        warned = True

  def _look(self) -> None:
    found = _read(self._path)
    if found is not None and not self._is_ours(found):  # one that somebody removed is written again
      self._lost = f'was taken over by {_owner(found)}'

  def _write(self) -> None:
    # Without locks several may write at the same time, each to a file of its own.
    write_whole(self._path, json.dumps(self._record), partial=f'{self._record["token"]}.partial')

  def _is_ours(self, found: dict[str, Any] | None) -> bool:
    return found is not None and found.get('token') == self._record['token']


@contextlib.contextmanager
def held(folder: StageFolder) -> Iterator[Lease]:
  """Holds the lease of a stage's folder; only the first process of a run asks for it.

  Raises:
    UserError: another run holds it. One line names it and the age of its last heartbeat.
  """
  lease = Lease(folder.lease)
  try:
    lease.acquire()
    yield lease
  finally:
    lease.release()


def _read(path: epath.Path) -> dict[str, Any] | None:
  """The lease; None where none is left. One that cannot be read belongs to an unknown owner."""
  try:
    text = path.read_text()
  except FileNotFoundError:
    return None
  try:
    found = json.loads(text)
    return found if isinstance(found, dict) else {'text': text}
  except ValueError:
    return {'text': text}


@contextlib.contextmanager
def _locked(path: epath.Path) -> Iterator[bool]:
  """Between processes of this host, nobody else looks and writes meanwhile; yields whether the lock was granted.

  Raises:
    FileNotFoundError: the folder was removed while this waited for its lock.
  """
  if bucket.is_bucket(path):
    yield False
    return
  folder = os.open(path.parent, os.O_RDONLY)
  try:
    try:
      fcntl.flock(folder, fcntl.LOCK_EX)
      locked = True
    except OSError:  # some mounted folders have no locks
      locked = False
    if os.fstat(folder).st_ino != os.stat(path.parent).st_ino:  # another folder has taken its place
      raise FileNotFoundError(path.parent)
    yield locked
  finally:
    os.close(folder)


def _this_process() -> dict[str, Any]:
  return {'host': socket.gethostname(), 'machine': _machine(), 'pid': os.getpid(), 'started': _started(os.getpid())}


def _machine() -> str:
  """What tells apart two machines, two starts of one, and two containers: process numbers mean the same within it."""
  parts = [socket.gethostname()]
  with contextlib.suppress(OSError):
    parts.append(pathlib.Path('/proc/sys/kernel/random/boot_id').read_text().strip())
    parts.append(os.readlink('/proc/self/ns/pid'))
  return ' '.join(parts)


def _started(pid: int) -> int:
  """When a process began, in ticks since its machine did; 0 if it has ended, or where there is no /proc."""
  try:
    state, *fields = pathlib.Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()
  except (OSError, ValueError):
    return 0
  return 0 if state in 'ZX' else int(fields[18])  # a zombie has ended


def _is_dead(found: dict[str, Any]) -> bool:
  """Whether the owner is known to have ended."""
  return _is_known(found) and _started(found['pid']) != found['started']


def _is_alive(found: dict[str, Any]) -> bool:
  """Whether the owner is known to live."""
  return _is_known(found) and _started(found['pid']) == found['started']


def _is_known(found: dict[str, Any]) -> bool:
  """Whether the owner is a process whose number means something here."""
  return found.get('machine') == _machine() and bool(found.get('started')) and isinstance(found.get('pid'), int)


def _owner(found: dict[str, Any]) -> str:
  if 'pid' not in found:
    return 'an unknown run'
  return f'process {found["pid"]} on {found.get("host")}, begun {found.get("began")}'


def _age(path: epath.Path) -> float:
  """Seconds since a lease was written, by the clock of this host."""
  try:
    return max(time.time() - size_and_time(path)[1], 0.0)
  except OSError:
    return 0.0
