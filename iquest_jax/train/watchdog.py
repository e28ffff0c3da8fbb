"""Ends a run that hangs: without a step for too long, the stacks of all threads go to the log and the process exits.

Collectives wait forever for a host that is stuck, so every host has a watchdog, and all of them report. The stacks of the
host that is stuck differ from the others'. A watchdog cannot end a call that hangs while it holds Python's lock.
"""

import collections
import faulthandler
import socket
import statistics
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
from absl import logging
from ml_collections import ConfigDict

from iquest_jax import ending
from iquest_jax.errors import Stalled

# The limit is learned from so many of the last steps.
_MEMORY = 50
_TICK_S = 0.25


def limit_s(settings: ConfigDict, seconds: Sequence[float]) -> float:
  """Seconds that the next step may take.

  Args:
    settings: section `watchdog` of a configuration.
    seconds: of the last ordinary steps; none yet after a start, when the step is compiled.
  """
  if not seconds:
    return settings.floor_s + settings.extra_s
  return max(settings.floor_s, settings.multiple * statistics.median(seconds))


class Watchdog:
  """Watches the main thread from a thread of its own, from its creation until `close`.

  Attributes:
    completed: gives the last step that the devices have completed, where steps are dispatched ahead.
  """

  def __init__(self, config: ConfigDict, done: int):
    """Starts to watch, after `done` steps."""
    self._stage, self._settings = config.stage, config.watchdog
    self._seconds = collections.deque(maxlen=_MEMORY)
    self.completed: Callable[[], int] | None = None
    self._lock, self._closed = threading.Lock(), threading.Event()
    self._done, self._ordinary, self._limit = done, False, limit_s(self._settings, ())
    self._began, self._waited, self._reported = time.monotonic(), 0.0, False
    threading.Thread(target=self._watch, name='watchdog', daemon=True).start()

  def between(self, done: int, state: Any) -> None:
    """Takes note that `done` steps are dispatched, and gives the next one its limit."""
    del state
    now = time.monotonic()
    with self._lock:
      if self._ordinary:
        self._seconds.append(now - self._began)
      if self._reported:
        logging.warning('%s: step %d came after all, %.0f s after the one before', self._stage, done, now - self._began)
      self._ordinary = self._done < done  # before and in the first step, programs are compiled
      self._limit = limit_s(self._settings, self._seconds)
      self._done, self._began, self._waited, self._reported = done, now, 0.0, False

  def extend(self) -> None:
    """Gives the current step more time, for saving, evaluating, or whatever else takes longer than a step."""
    with self._lock:
      if self._ordinary:
        self._limit += self._settings.extra_s
      self._ordinary = False

  def close(self) -> None:
    self._closed.set()

  def _watch(self) -> None:
    before = time.monotonic()
    while not self._closed.wait(_TICK_S):
      now = time.monotonic()
      with self._lock:
        # While this process is stopped or its machine paused, no time passes for the limit.
        self._waited += min(now - before, 4 * _TICK_S)
        if self._waited > self._limit and not self._reported:
          self._reported = True
          self._report()
        if self._waited > self._limit + _grace_s(self._settings):
          self._exit()
      before = now

  def _report(self) -> None:
    faulthandler.dump_traceback(file=sys.stderr, all_threads=True)
    completed = f'completed {self.completed()}, ' if self.completed else ''
    logging.error(
        '%s: no step for %.0f s on process %d (%s): dispatched step %d, %sthe limit is %.0f s; above are the stacks of all '
        'threads; exits in %.0f s',
        self._stage, self._waited, jax.process_index(), socket.gethostname(), self._done, completed, self._limit,
        _grace_s(self._settings),
    )  # fmt: skip

  def _exit(self) -> None:
    # All hosts end with this status: it says that a restart helps.
    ending.leave(
        Stalled.status,
        f'{self._stage}: no step for {self._waited:.0f} s after step {self._done}; start it again, and it resumes from its '
        'newest checkpoint',
    )


def _grace_s(settings: ConfigDict) -> float:
  """Seconds from the report to the end, in which the watchdogs of the other hosts, who began to wait later, report too.

  Once one process has ended, the others end ending.GRACE_S later.
  """
  return min(60.0, settings.floor_s / 2)
