"""An event loop in a thread of its own, so that coroutines, threads and plain functions share one set of connections."""

import asyncio
import concurrent.futures
import os
import threading
from collections.abc import Callable, Coroutine
from typing import Any


class Background:
  """Starts its thread when it is first needed."""

  def __init__(self):
    self._lock, self._thread, self._process = threading.Lock(), None, os.getpid()
    self._loop: asyncio.AbstractEventLoop | None = None

  def start(self, coroutine: Coroutine[Any, Any, Any]) -> concurrent.futures.Future:
    """Runs a coroutine in the loop."""
    with self._lock:
      if self._process != os.getpid():
        raise RuntimeError('an endpoint is used in the process that made it')  # a thread does not survive a fork
      if self._thread is None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name='endpoint', daemon=True)
        self._thread.start()
    return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

  def stop(self, last: Callable[[], Coroutine[Any, Any, Any]]) -> None:
    """Cancels what still runs, runs `last` in the loop, and ends the thread."""
    with self._lock:
      thread, loop, self._thread = self._thread, self._loop, None
    if thread and loop:
      asyncio.run_coroutine_threadsafe(_finish(last), loop).result()
      loop.call_soon_threadsafe(loop.stop)
      thread.join()
      loop.close()


async def _finish(last: Callable[[], Coroutine[Any, Any, Any]]) -> None:
  others = asyncio.all_tasks() - {asyncio.current_task()}
  for task in others:
    task.cancel()
  await asyncio.gather(*others, return_exceptions=True)
  await last()
