"""Preemption: a command that receives SIGTERM ends with status 75 and loses nothing that was finished.

Schedulers send SIGTERM before they take a machine away (Slurm, Kubernetes, preemptible VMs), and SIGKILL after their
grace period. A training loop saves after the step in progress, on all hosts together; so the grace period must cover one
step and one save. Whatever else a command does has its finished parts on disk already, so it is interrupted where it is.

This module keeps its state in the process, because a process has one handler of a signal. Only the main thread may
install it.
"""

import contextlib
import ctypes
import os
import signal
import threading
import time
from collections.abc import Iterator

from iquest_jax import ending
from iquest_jax.errors import Preempted

# An interrupted command that has not ended after this many seconds, as inside a library, is ended.
LIMIT_S = 30.0
LINE = 'interrupted by SIGTERM; what is finished is kept, rerun the same command'


class Interrupt(BaseException):
  """The command was asked to end; no error, so that nobody takes it for a failure of what it interrupts."""


class _Process:
  """What this process knows.

  Attributes:
    pid: its id.
    of_python: address of Python's handler of signals, once installed.
    asked: whether it was asked to end.
    deferred: whether a loop asks for that.
    calls: of `agreed`.
  """

  pid, of_python, asked, deferred, calls = 0, 0, False, False, 0


def install() -> None:
  """Handles SIGTERM from now on; to be repeated once jax.distributed has installed its own handler, which then runs too."""
  address = _c_handler()
  # jax.distributed has its own in C, which tells the other hosts. Python would only replace it.
  of_library = address not in (signal.SIG_DFL, signal.SIG_IGN, _Process.of_python)
  before = ctypes.CFUNCTYPE(None, ctypes.c_int)(address) if of_library else None

  def handle(number, frame):
    del frame
    if os.getpid() != _Process.pid:  # a forked child, which is not this command
      signal.signal(number, signal.SIG_DFL)
      os.kill(os.getpid(), number)
      return
    again, _Process.asked = _Process.asked, True
    if before:
      before(number)
    if not again and not _Process.deferred:
      threading.Thread(target=_end_at_last, daemon=True).start()
      raise Interrupt

  _Process.pid = os.getpid()
  signal.signal(signal.SIGTERM, handle)
  _Process.of_python = _c_handler()


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
  """Runs a command; raises Preempted where SIGTERM interrupts it."""
  try:
    yield
  except Interrupt:
    raise Preempted(LINE) from None


@contextlib.contextmanager
def deferred() -> Iterator[None]:
  """A loop that asks, with `agreed`, between its steps: SIGTERM does not interrupt it."""
  before, _Process.deferred = _Process.deferred, True
  try:
    yield
  finally:
    _Process.deferred = before
  if _Process.asked and not before:  # since the loop asked last
    raise Interrupt


@contextlib.contextmanager
def at_once() -> Iterator[None]:
  """Something long within `deferred` that may be interrupted, because all before it is saved."""
  before, _Process.deferred = _Process.deferred, False
  try:
    if _Process.asked:
      raise Interrupt
    yield
  finally:
    _Process.deferred = before


def asked() -> bool:
  """Whether this or any other process of the run was asked to end; of others it learns a second later."""
  return _Process.asked


def ask() -> None:
  """Another process was asked to end."""
  _Process.asked = True


def agreed() -> bool:
  """Whether the run has to end now: true at the same call on all processes, which all call it equally often."""
  import jax

  if jax.process_count() == 1:
    return _Process.asked
  from jax.experimental import multihost_utils

  _Process.calls += 1
  return multihost_utils.reached_preemption_sync_point(_Process.calls)


def interrupt_together() -> None:
  """Raises Interrupt on all processes if one was asked to end; all call it, and wait here for each other."""
  from iquest_jax import hosts

  if any(hosts.gather('asked to end', _Process.asked)):
    raise Interrupt


def _end_at_last() -> None:
  time.sleep(LIMIT_S)
  ending.leave(Preempted.status, LINE)


def _c_handler() -> int:
  """Address of the C function that handles SIGTERM: Python's for handlers in Python, or that of a library."""
  get = ctypes.pythonapi.PyOS_getsig
  get.argtypes, get.restype = [ctypes.c_int], ctypes.c_void_p
  return get(signal.SIGTERM) or 0
