"""Scalars for TensorBoard: one event file per run on a disk, one per flush on gs://, where none can be appended to."""

import io
import os
import time
from collections.abc import Mapping

from etils import epath
from tensorboardX import record_writer, summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog

from iquest_jax import bucket


class Events:
  """Writes scalars of steps; TensorBoard reads the files of a folder in the order of their names, which is that of time."""

  def __init__(self, folder: epath.Path, purge_step: int):
    """Hides what earlier runs wrote of `purge_step` and later ones."""
    self._folder, self._parts, self._file = folder, 0, None
    self._waiting = [Event(step=purge_step, session_log=SessionLog(status=SessionLog.START))]
    if not bucket.is_bucket(folder):
      folder.mkdir(parents=True, exist_ok=True)
      self._file = EventsWriter(os.fspath(folder / 'events'))

  def add(self, scalars: Mapping[str, float], step: int) -> None:
    """Adds scalars by name. On a disk they survive a kill of this process; on gs:// they wait for a flush."""
    now = time.time()
    self._waiting += [Event(wall_time=now, step=step, summary=summary.scalar(name, scalars[name])) for name in scalars]
    if self._file:
      self._write(self._file)

  def flush(self) -> None:
    """Writes what waits."""
    if self._waiting and not self._file:
      record_writer.register_writer_factory('gs', _Objects)
      file = EventsWriter(os.fspath(self._folder / 'events'), f'.{self._parts:06d}')
      self._parts += 1
      self._write(file)
      file.close()

  def _write(self, file: EventsWriter) -> None:
    for event in self._waiting:
      file.write_event(event)
    file.flush()
    self._waiting = []

  def close(self) -> None:
    self.flush()
    if self._file:
      self._file.close()


class _Objects(io.BytesIO):
  """tensorboardX's way to write to gs://: an object, written whole when it is closed."""

  def __init__(self, path: str):
    super().__init__()
    self._path = path

  @classmethod
  def open(cls, path: str) -> '_Objects':
    return cls(path)

  def close(self) -> None:
    if not self.closed:
      bucket.write(self._path, self.getvalue())
    super().close()
