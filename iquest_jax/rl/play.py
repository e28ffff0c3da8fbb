"""Plays episodes on an engine: slots are refilled at once, and whatever waits (tools, grading) waits in threads.

What is sampled depends on the requests alone, never on threads, slots or the order of finishing.
"""

import collections
import contextlib
import dataclasses
import queue
import threading
import time
from collections.abc import Callable
from typing import Any

from iquest_jax.infer.engine import Engine, Request, Token
from iquest_jax.rl.episode import Episode, Extend
from iquest_jax.rl.types import Prompt, Trajectory
from iquest_jax.train import preemption

_SLICE_S = 1.0  # of a wait; between two, it looks whether the run was asked to end


@dataclasses.dataclass(frozen=True, eq=False)  # a prompt cannot be hashed
class Roll:
  """A roll-out to make: sample `sample` of the prompt with number `index` of its step."""

  index: int
  sample: int
  prompt: Prompt


@dataclasses.dataclass
class Spent:
  """What playing took. Sums of several may be added field by field.

  Attributes:
    seconds: wall time.
    thread_seconds: of grading and tools in threads, which run at the same time as each other and as decoding.
    idle_seconds: wall time in which nothing was decoded because everything waited for threads.
    steps, busy: decoding steps while roll-outs still waited for a slot, and the slots that were decoded in them.
    tail_steps, tail_busy: the same after the last one had started.
    slots: of the engine.
  """

  seconds: float = 0.0
  thread_seconds: float = 0.0
  idle_seconds: float = 0.0
  steps: int = 0
  busy: int = 0
  tail_steps: int = 0
  tail_busy: int = 0
  slots: int = 1

  def add(self, other: 'Spent') -> None:
    for field in dataclasses.fields(self):
      if field.name != 'slots':
        setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))
    self.slots = other.slots

  def shares(self) -> dict[str, float]:
    """Shares of the slots that were decoded per step before and after the last roll-out had started; the tail's steps."""
    share = lambda busy, steps: busy / (steps * self.slots) if steps else 1.0
    return {
        'slots_busy': share(self.busy, self.steps),
        'tail_slots_busy': share(self.tail_busy, self.tail_steps),
        'tail_steps': self.tail_steps / max(self.steps + self.tail_steps, 1),
    }


class Workers:
  """Threads that do not keep the process alive: one that never comes back is left behind."""

  def __init__(self, count: int):
    self._jobs: queue.SimpleQueue = queue.SimpleQueue()
    self._count = count
    for _ in range(count):
      threading.Thread(target=self._work, daemon=True).start()

  def submit(self, job: Callable[[], None]) -> None:
    self._jobs.put(job)

  def close(self) -> None:
    """Ends the threads after their jobs; waits for none."""
    for _ in range(self._count):
      self._jobs.put(None)

  def _work(self) -> None:
    while job := self._jobs.get():
      job()


class Player:
  """Plays on one engine. Nothing but jobs of its threads runs at the same time."""

  def __init__(self, engine: Engine, threads: int, patience_s: float):
    """Starts the threads.

    Args:
      threads: tools and gradings at the same time.
      patience_s: a roll-out is given up if nothing is decoded and no thread comes back for so long.
    """
    self.engine, self._threads, self._patience_s = engine, threads, patience_s
    self._workers = Workers(threads)

  def close(self) -> None:
    self._workers.close()

  def play(
      self,
      rolls: collections.deque[Roll],
      begin: Callable[[Roll], tuple[Episode, Request]],
      finish: Callable[[Roll, Trajectory], Any],
      take: Callable[[Any], None],
      give_up: Callable[[list[Roll]], None],
  ) -> Spent:
    """Plays roll-outs in order until none is left and every thread is back, or the run is asked to end.

    Args:
      rolls: is emptied; `take` and `give_up` may append.
      begin: the episode of a roll-out, and its request with an id that no other has.
      finish: what is done with a trajectory, in a thread.
      take: is given what `finish` returned.
      give_up: is given the roll-outs that were begun and will not be finished.

    Raises:
      Exception: whatever an episode, or `finish`, raised.
    """
    return _Play(self, rolls, begin, finish, take, give_up).run()

  def _replace_workers(self) -> None:
    self._workers.close()
    self._workers = Workers(self._threads)


class _Play:
  """One call of Player.play."""

  def __init__(self, player: Player, rolls, begin, finish, take, give_up):
    self._player, self._engine = player, player.engine
    self._rolls, self._begin, self._finish, self._take, self._give_up = rolls, begin, finish, take, give_up
    self._episodes: dict[int, tuple[Roll, Episode]] = {}  # in a slot, by id of the request
    self._answering: set[int] = set()  # those of them whose environment is at work
    self._open: dict[Roll, None] = {}  # begun and not taken, in order
    self._results: queue.SimpleQueue = queue.SimpleQueue()
    self._spent = Spent(slots=player.engine.free)

  def run(self) -> Spent:
    began = time.monotonic()
    try:
      while (self._rolls or self._open) and not preemption.asked():
        while self._rolls and self._engine.free:
          self._start(self._rolls.popleft())
        live = len(self._episodes) - len(self._answering)
        if live:
          self._count(live)
          for token in self._engine.step():
            self._drawn(token)
          while not self._results.empty():
            self._result(self._results.get())
        elif self._open:
          self._wait()
    finally:
      for id in self._episodes:  # after an error: the engine remains usable
        self._engine.release(id)
    self._spent.seconds = time.monotonic() - began
    return self._spent

  def _start(self, roll: Roll) -> None:
    episode, request = self._begin(roll)
    self._open[roll] = None
    self._episodes[request.id] = roll, episode
    self._drawn(self._engine.start(request))

  def _count(self, live: int) -> None:
    if self._rolls:
      self._spent.steps, self._spent.busy = self._spent.steps + 1, self._spent.busy + live
    else:
      self._spent.tail_steps, self._spent.tail_busy = self._spent.tail_steps + 1, self._spent.tail_busy + live

  def _drawn(self, token: Token) -> None:
    _, episode = self._episodes[token.request]
    if token.end and episode.may_continue:
      # The slot is held while the environment answers.
      self._answering.add(token.request)
      self._in_thread(lambda: episode.observe(token), lambda action: self._answered(token.request, action))
    else:
      self._act(token.request, episode.observe(token))

  def _answered(self, id: int, action: Extend | Trajectory) -> None:
    if id in self._answering:  # and was not given up
      self._answering.remove(id)
      self._act(id, action)

  def _act(self, id: int, action: Extend | Trajectory | None) -> None:
    if isinstance(action, Extend):
      self._drawn(self._engine.extend(id, action.tokens, action.length))
    elif action is not None:
      self._engine.release(id)
      roll, _ = self._episodes.pop(id)
      self._in_thread(lambda: self._finish(roll, action), lambda value: self._finished(roll, value))

  def _finished(self, roll: Roll, value: Any) -> None:
    if roll in self._open:
      del self._open[roll]
      self._take(value)

  def _in_thread(self, job: Callable[[], Any], then: Callable[[Any], None]) -> None:
    results = self._results

    def run():
      began = time.monotonic()
      try:
        value, error = job(), None
      except BaseException as raised:  # it is raised again where the result is taken
        value, error = None, raised
      results.put((then, value, error, time.monotonic() - began))

    self._player._workers.submit(run)

  def _result(self, result) -> None:
    then, value, error, seconds = result
    self._spent.thread_seconds += seconds
    if error is not None:
      raise error
    then(value)

  def _wait(self) -> None:
    """For a thread, or until asked to end; if none comes back, what is open is given up."""
    began, result = time.monotonic(), None
    while result is None and not preemption.asked():
      left = began + self._player._patience_s - time.monotonic()
      if left <= 0:
        break
      with contextlib.suppress(queue.Empty):
        result = self._results.get(timeout=min(left, _SLICE_S))
    if result is not None:
      self._result(result)
    elif not preemption.asked():
      stuck, self._open = list(self._open), {}
      for id in list(self._episodes):
        self._engine.release(id)
        del self._episodes[id]
      self._answering.clear()
      self._player._replace_workers()
      self._give_up(stuck)
    self._spent.idle_seconds += time.monotonic() - began
