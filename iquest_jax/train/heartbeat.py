"""Heartbeats: every process says in a small file of the run folder at which step it is, so that a host behind is found.

Clocks of hosts differ and may jump, so times are those of the files, which NFS and gs:// take from one clock.
"""

import json
import os
import socket
import threading
import time
from typing import Any

import jax
from absl import logging

from iquest_jax.errors import RunStopped, UserError
from iquest_jax.run_folder import StageFolder, size_and_time, write_whole

EVERY_S = 15.0  # between two heartbeats
# A process that has not written for so many intervals is silent: dead, frozen, or cut off from the run folder.
_SILENT = 4
# Hosts are up to this many steps apart without a reason: a step is dispatched before the one before it is completed.
_APART = 1
# A file may reach the storage so much later than another that was written at the same time.
_LATE_S = 2.0


class Heartbeat:
  """Writes the file of this process from a thread of its own; a folder that refuses is logged once and ends no run."""

  def __init__(self, folder: StageFolder, done: int, every_s: float = EVERY_S):
    self._path, self._every = folder.heartbeats / f'{jax.process_index()}.json', every_s
    self._step, self._failed = (done, time.monotonic()), False  # the last step, and when it was dispatched
    self._closed = threading.Event()
    self._thread = threading.Thread(target=self._beat, name='heartbeat', daemon=True)
    self._thread.start()

  def between(self, done: int, state: Any) -> None:
    """Takes note that `done` steps are dispatched; writes nothing itself."""
    del state
    self._step = done, time.monotonic()

  def __enter__(self) -> 'Heartbeat':
    return self

  def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
    """Removes the file, unless the run crashed, as all do of which one process hangs or dies: it says who was behind."""
    self._closed.set()
    self._thread.join(timeout=self._every)
    if not isinstance(error, Exception) or isinstance(error, UserError | RunStopped):
      self._try(lambda: self._path.unlink(missing_ok=True))

  def _beat(self) -> None:
    while True:
      self._try(self._write)
      if self._closed.wait(self._every):
        return

  def _write(self) -> None:
    self._path.parent.mkdir(parents=True, exist_ok=True)
    step, since = self._step
    record = {
        'process': jax.process_index(),
        'processes': jax.process_count(),
        'host': socket.gethostname(),
        'pid': os.getpid(),
        'step': step,
        'seconds_since_step': round(time.monotonic() - since, 1),
    }
    write_whole(self._path, json.dumps(record))

  def _try(self, act) -> None:
    try:
      act()
    except Exception as error:  # of whatever the folder is on
      if not self._failed:
        logging.warning('%s: the heartbeat was not written (%s); the run continues', self._path, error)
      self._failed = True


def read(folder: StageFolder) -> list[dict[str, Any]]:
  """The newest heartbeats by process, of the processes that the newest of them counts; a damaged file is left out.

  Returns:
    What `Heartbeat` wrote, and as `time` when it arrived, in seconds by the clock of the storage.
  """
  beats = []
  for path in folder.heartbeats.glob('*.json') if folder.heartbeats.exists() else ():
    try:
      beat = json.loads(path.read_text())
      beat = {name: beat[name] for name in ('process', 'processes', 'host', 'step', 'seconds_since_step')}
      beats.append(beat | {'time': size_and_time(path)[1]})
    except (OSError, ValueError, KeyError, TypeError):
      continue
  # A run on more processes may have left the files of those that there are no more.
  count = max(beats, key=lambda beat: beat['time'])['processes'] if beats else 0
  return sorted((beat for beat in beats if beat['process'] < count), key=lambda beat: beat['process'])


def describe(beats: list[dict[str, Any]], now: float, every_s: float = EVERY_S) -> list[str]:
  """What the heartbeats of a stage say, one line for all and one per host that is behind or silent; [] without any.

  Args:
    beats: from `read`.
    now: seconds, as time.time(); only for how long ago the last was heard.
  """
  if not beats:
    return []
  last = max(beat['time'] for beat in beats)
  # Compared with the newest heartbeat, not with this machine's clock: a run that ended long ago has no silent host.
  is_silent = lambda beat: last - beat['time'] > _SILENT * every_s
  heard = [beat for beat in beats if not is_silent(beat)]
  newest = max(beat['step'] for beat in heard)
  missing = beats[0]['processes'] - len(beats)
  lines = [f'{len(beats)} of {beats[0]["processes"]} processes heard, step {newest:,}, last {_ago(now - last)}']
  for beat in beats:
    where = f'process {beat["process"]} ({beat["host"]}), step {beat["step"]:,}'
    if is_silent(beat):
      lines.append(f'silent: {where}, last heard {_ago(now - beat["time"])}')
    elif any(_is_ahead(other, beat) for other in heard):
      lines.append(f'behind: {where}, {beat["seconds_since_step"]:.0f} s after its last one')
  if missing:
    absent = sorted(set(range(beats[0]['processes'])) - {beat['process'] for beat in beats})
    lines.append(f'never heard: process {", ".join(map(str, absent[:8]))}' + (' ...' if missing > 8 else ''))
  return lines


def _is_ahead(other: dict[str, Any], beat: dict[str, Any]) -> bool:
  """Whether another process had begun a later step when this one wrote that it had not."""
  began, stays = other['time'] - other['seconds_since_step'], beat['seconds_since_step'] > _LATE_S
  return other['step'] - beat['step'] > _APART and stays and began + _LATE_S < beat['time']


def _ago(seconds: float) -> str:
  return f'{max(0.0, seconds):.0f} s ago' if seconds < 600 else f'{seconds / 60:,.0f} min ago'
