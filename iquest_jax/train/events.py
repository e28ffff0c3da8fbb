"""Scalars for TensorBoard: one event file per run on a disk, one per flush on gs://, where none can be appended to."""

import contextlib
import os
import socket
import struct
import time
from collections.abc import Mapping

from etils import epath
from tensorboardX import summary
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import masked_crc32c

from iquest_jax import bucket

_PREFIX = 'events.out.tfevents.'


class Events:
  """Writes scalars of steps; TensorBoard reads files in the order of their names, which begin with a time."""

  def __init__(self, folder: epath.Path, purge_step: int):
    """Hides what earlier runs wrote of `purge_step` and later ones."""
    # Not tensorboardX's writer, which appends from a thread, and uploads a file again from its start at every flush.
    self._parts, self._file, self._waiting = 0, None, []
    folder.mkdir(parents=True, exist_ok=True)
    self._path = os.fspath(folder / f'{_PREFIX}{_after_others(folder):017.6f}.{socket.gethostname()}')
    if not bucket.is_bucket(folder):
      self._file = open(self._path, 'ab', buffering=0)
      self._write(_header())
    self._add(Event(step=purge_step, session_log=SessionLog(status=SessionLog.START)))

  def add(self, scalars: Mapping[str, float], step: int) -> None:
    """Adds scalars by name. On a disk they survive a kill of this process; on gs:// they wait for a flush."""
    now = time.time()
    self._add(*(Event(wall_time=now, step=step, summary=summary.scalar(name, scalars[name])) for name in scalars))

  def flush(self) -> None:
    """Stores what was added, whatever happens to the machine."""
    if self._file:
      os.fsync(self._file.fileno())
    elif self._waiting:
      bucket.write(f'{self._path}.{self._parts:06d}', _header() + b''.join(self._waiting))
      self._parts, self._waiting = self._parts + 1, []

  def close(self) -> None:
    self.flush()
    if self._file:
      self._file.close()

  def _add(self, *events: Event) -> None:
    records = [_record(event) for event in events]
    if self._file:
      self._write(b''.join(records))
    else:
      self._waiting += records

  def _write(self, data: bytes) -> None:
    left = memoryview(data)
    while left:
      left = left[self._file.write(left) :]  # an unbuffered file may take a part


def _after_others(folder: epath.Path) -> float:
  """The time, or what follows the newest file where clocks were put back: read before that, this run's would be hidden."""
  stamps = [0.0]
  for path in folder.glob(f'{_PREFIX}*'):
    with contextlib.suppress(ValueError):
      stamps.append(float(path.name.removeprefix(_PREFIX)[:17]))
  return max(time.time(), max(stamps) + 1e-3)


def _header() -> bytes:
  return _record(Event(wall_time=time.time(), file_version='brain.Event:2'))


def _record(event: Event) -> bytes:
  """An event in the format of TFRecord: length and content, each followed by its checksum."""
  data = event.SerializeToString()
  length = struct.pack('<Q', len(data))
  return length + struct.pack('<I', masked_crc32c(length)) + data + struct.pack('<I', masked_crc32c(data))
