"""The one thread that decodes: takes texts from a queue into free slots and delivers them piece by piece.

An engine is not safe for threads, so nothing else may touch it while the thread runs.
"""

import dataclasses
import itertools
import queue
import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from iquest_jax.infer.engine import Engine, Request
from iquest_jax.infer.sampler import Sampling
from iquest_jax.infer.text import Text
from iquest_jax.text.tokenizer import Tokenizer

FAILED = 'failed'


class Piece(NamedTuple):
  """What one drawn token adds to a text.

  Attributes:
    text: what no later token can change.
    token: the drawn token.
    logp: its log-probability under the model at temperature 1.
    end: '' while the text continues; then 'stop', 'length', or FAILED if the engine failed.
  """

  text: str
  token: int = -1
  logp: float = 0.0
  end: str = ''


@dataclasses.dataclass(eq=False)
class Job:
  """A text to draw.

  Attributes:
    prompt: int32 [n], n >= 1.
    length: most tokens to draw; with the prompt they must fit a slot.
    noise: with the seed of the sampling it decides the random numbers; see `Request`.
    deliver: takes the pieces; called by the decoding thread, so it must be quick and must not raise.
    cancelled: set this to end the text early; its slot is free within a step.
  """

  prompt: np.ndarray
  length: int
  sampling: Sampling
  noise: int
  stop_words: Sequence[str]
  deliver: Callable[[Piece], None]
  cancelled: bool = False


class Decoder:
  """Decodes jobs in the order in which they arrive, as many at a time as the engine has slots.

  Attributes:
    failure: what ended the thread, if it did not end by `close`. The engine's cache is lost then.
    on_failure: called when that happens.
  """

  def __init__(self, engine: Engine, tokenizer: Tokenizer):
    """Starts the thread."""
    self.failure: Exception | None = None
    self.on_failure: Callable[[], None] = lambda: None
    self._engine, self._tokenizer = engine, tokenizer
    self._arrived: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
    self._texts: dict[int, tuple[Job, Text]] = {}
    self._ids, self._closing, self._lock = itertools.cycle(range(2**31)), False, threading.Lock()
    self._thread = threading.Thread(target=self._work, name='decoder', daemon=True)
    self._thread.start()

  def submit(self, job: Job) -> None:
    """Queues a job; any thread may call it."""
    with self._lock:
      if not self.failure:
        self._arrived.put(job)
        return
    job.deliver(Piece('', end=FAILED))

  def close(self) -> None:
    """Ends the thread after the step that it is in, and with it every text."""
    self._closing = True
    self._arrived.put(None)
    self._thread.join()

  def __iter__(self):
    return self

  def __next__(self) -> Request:
    """The next request for the engine, which asks while slots are free; waits for one only if nothing is decoded.

    StopIteration means none for now.
    """
    while True:
      try:
        job = self._arrived.get(block=not self._texts)
      except queue.Empty:
        raise StopIteration from None
      if job is None:
        raise StopIteration
      if not job.cancelled:
        id = next(self._ids)
        self._texts[id] = job, Text(self._tokenizer, job.stop_words)
        return Request(id, job.prompt, job.length, job.sampling, self._tokenizer.ends, noise=job.noise)

  def _work(self) -> None:
    try:
      for token in self._engine.run(self):
        if self._closing:
          break
        self._deliver(token)
    except Exception as error:  # whatever it is, clients and the server must learn of it
      self._fail(error)

  def _deliver(self, token) -> None:
    if token.request not in self._texts:
      return  # released in the step that drew it
    job, text = self._texts[token.request]
    piece = text.add(token)
    if text.end or job.cancelled:
      del self._texts[token.request]
      if not token.end:
        self._engine.release(token.request)
    if not job.cancelled:
      job.deliver(Piece(piece, token.token, token.logp, text.end))

  def _fail(self, error: Exception) -> None:
    with self._lock:
      self.failure = error
    jobs = [job for job, _ in self._texts.values()]
    while not self._arrived.empty():
      jobs.append(self._arrived.get())
    for job in filter(None, jobs):
      job.deliver(Piece('', end=FAILED))
    self.on_failure()
