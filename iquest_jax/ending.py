"""The processes of a run end together: once one has ended with an error, all end with its line and its status.

Otherwise the others would wait for it in a collective operation, and be aborted minutes later without a reason.
"""

import atexit
import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NoReturn

from iquest_jax.errors import RunStopped

# What is left to the other processes to end by themselves, as with the same error or after their last save.
GRACE_S = 20.0
_NOTICES = 'notices/'
_EVERY_S = 1.0
_leaving = threading.Event()  # this process ends by itself, and may wait for the others


def watch(is_asked: Callable[[], bool], ask: Callable[[], None]) -> None:
  """Starts to watch the other processes of the run; call this once, after they have joined it.

  Args:
    is_asked: whether this process was asked to end; the others are told.
    ask: is called, in another thread, once another process was.
  """
  client, stop = _client(), threading.Event()

  def run():
    told = False
    while not stop.wait(_EVERY_S):
      if is_asked() and not told:
        told = _put(client, 'asked', True)
      try:
        notices = {name.removeprefix(_NOTICES): value for name, value in client.key_value_dir_get(_NOTICES)}
      except Exception:  # the first process has ended, and jax.distributed ends this one
        return
      if 'asked' in notices and not is_asked():
        ask()
      if 'ended' in notices and not (stop.wait(GRACE_S) or _leaving.is_set()):
        process, status, line = json.loads(notices['ended'])
        leave(status, f'process {process} has ended: {line}')

  thread = threading.Thread(target=run, name='ending', daemon=True)
  thread.start()

  @atexit.register  # before the client of jax.distributed, which registered earlier, shuts down
  def end():
    stop.set()
    thread.join()


def together() -> None:
  """Returns once every process of the run has come here: none has failed."""
  if not is_alone():
    from iquest_jax import hosts

    hosts.barrier('end')


def is_alone() -> bool:
  """Whether this process is a run of its own."""
  return _client() is None


def leave(status: int, line: str) -> NoReturn:
  """Prints `error: line` and exits with the status, which ends all processes of the run; any thread may call it.

  If another process has ended before, this one prints its line too and takes over its status.
  """
  _leaving.set()
  client, in_main = _client(), threading.current_thread() is threading.main_thread()
  if not (client is None and in_main):
    late = threading.Timer(4 * GRACE_S, os._exit, [status])  # where what follows hangs, as the rest of the process may do
    late.daemon = True
    with contextlib.suppress(RuntimeError):  # an interpreter that is ending starts no threads
      late.start()
  print(f'error: {line}', file=sys.stderr, flush=True)
  if client is None and in_main:
    sys.exit(status)
  if client is not None:
    status = _tell(client, status, line)
  sys.stdout.flush()
  os._exit(status)  # sys.exit would end a thread alone, and wait for the others of the run for minutes


def _tell(client: Any, status: int, line: str) -> int:
  """Tells the other processes; the first one waits for them. Returns the status of whichever ended before the rest."""
  import jax

  process, count = jax.process_index(), jax.process_count()
  if not _put(client, 'ended', [process, status, line]):
    try:
      _, status, first = json.loads(client.key_value_try_get(f'{_NOTICES}ended'))
      if first not in line:
        print(f'error: {first}', file=sys.stderr, flush=True)
    except Exception:  # the first process has ended
      pass
  _put(client, f'left/{process}', True)
  if process == 0:  # the coordination service ends with this process, and without it the others abort
    end = time.monotonic() + 2 * GRACE_S
    while len(_left(client)) < count and time.monotonic() < end:
      time.sleep(0.1)
    time.sleep(0.5)  # between their last word and their end
  return status


def abort(error: RunStopped) -> NoReturn:
  """Prints the error and ends this process at once, from any thread, where it has not joined the others yet."""
  print(f'error: {error}', file=sys.stderr, flush=True)
  os._exit(error.status)


def _left(client: Any) -> list:
  return client.key_value_dir_get(f'{_NOTICES}left/')


def _put(client: Any, name: str, value: Any) -> bool:
  """Whether this process is the first to say so."""
  try:
    client.key_value_set(_NOTICES + name, json.dumps(value))
    return True
  except Exception:
    return False


def _client() -> Any:
  """None in a run of one process."""
  if 'jax' not in sys.modules:  # a command that never needed it ends at once
    return None
  from iquest_jax import hosts

  return hosts.client()
