"""The event loop in which an endpoint works, so that coroutines, threads and plain functions share its connections."""

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any


class Home:
  """The loop of the first coroutine that asks, or one in a thread of its own; what others ask runs there.

  Another loop takes over when this one has ended, which cancels what others asked, or in a process that was forked since.
  """

  def __init__(self, enter: Callable[[], None]):
    """`enter` is called for each loop that takes over, before anything runs in it: locks and connections belong to one."""
    self._enter, self._lock = enter, threading.Lock()
    self._loop: asyncio.AbstractEventLoop | None = None
    self._thread: threading.Thread | None = None
    self._process = os.getpid()

  async def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
    """The result of a coroutine that runs at home. To go to another loop and back costs more than to prepare a request."""
    running = asyncio.get_running_loop()
    with self._lock:
      if not self._alive():
        self._move(running, None)
      home = self._loop
    if home is running:
      return await coroutine
    return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(coroutine, home))

  def start(self, coroutine: Coroutine[Any, Any, Any]) -> Future:
    """Runs a coroutine at home for a caller without a loop."""
    with self._lock:
      if not self._alive():
        loop = asyncio.new_event_loop()
        self._move(loop, threading.Thread(target=loop.run_forever, name='endpoint', daemon=True))
        self._thread.start()
      return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

  def close(self, last: Callable[[], Coroutine[Any, Any, Any]]) -> None:
    """Runs `last` at home, unless that has ended; in a thread of its own, all else is cancelled and the thread ended."""
    with self._lock:
      alive, loop, thread = self._alive(), self._loop, self._thread
      self._loop = self._thread = None
    if alive and thread:
      asyncio.run_coroutine_threadsafe(_end(last), loop).result()
      loop.call_soon_threadsafe(loop.stop)
      thread.join()
      loop.close()
    elif alive:
      asyncio.run_coroutine_threadsafe(last(), loop)

  def _alive(self) -> bool:
    return self._loop is not None and self._process == os.getpid() and bool(self._thread or self._loop.is_running())

  def _move(self, loop: asyncio.AbstractEventLoop, thread: threading.Thread | None) -> None:
    self._loop, self._thread, self._process = loop, thread, os.getpid()
    self._enter()


async def _end(last: Callable[[], Coroutine[Any, Any, Any]]) -> None:
  others = asyncio.all_tasks() - {asyncio.current_task()}
  for task in others:
    task.cancel()
  await asyncio.gather(*others, return_exceptions=True)
  await last()
