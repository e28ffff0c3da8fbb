"""Warm sandboxes, kept running between verdicts. Safe to use from several threads.

A job costs two forks in a sandbox that is already running, where starting one takes about 0.2 s. Nothing of a job is
left for the next (see `inside/server.py`), and a sandbox that failed in any way is replaced.
"""

import contextlib
import queue
import threading
from collections.abc import Iterator, Sequence

from iquest_jax.errors import UserError
from iquest_jax.sandbox import languages
from iquest_jax.sandbox.runner import Runner, choose

# By role. A program whose results depend on the order of a set gives other results under another hash seed.
_HASH_SEEDS = {'candidate': 0, 'grader': 0, 'reseeded': 1}


class Pool:
  """Up to `size` sandboxes for each role: candidates, graders and reseeded ones; each is started when first needed.

  Args:
    size: jobs of either kind that run at the same time; the number of cores is a good choice.
    backend, packages: as for Runner. The toolchains of all languages are readable.

  Raises:
    UserError: no isolation is available.
  """

  def __init__(self, size: int = 2, backend: str = '', packages: Sequence[str] = ()):
    self.backend = choose(backend)
    self._arguments = (self.backend, languages.folders(), packages)
    self._lock, self._all = threading.Lock(), set()
    self._idle = {role: queue.LifoQueue() for role in _HASH_SEEDS}
    for idle in self._idle.values():
      for _ in range(size):
        idle.put(None)

  @contextlib.contextmanager
  def runner(self, role: str = 'candidate') -> Iterator[Runner]:
    """Lends a sandbox, waiting for one if all are busy; after any exception but UserError it is not used again.

    Args:
      role: 'candidate', 'grader', or 'reseeded', which is a candidate's under another hash seed. Hold a grader's only
        while holding a candidate's, never the reverse: the order is what keeps threads from waiting for each other.
    """
    runner, kept = self._idle[role].get(), None
    try:
      runner = runner or self._start(_HASH_SEEDS[role])
      yield runner
      kept = runner
    except UserError:  # The request was wrong, not the sandbox.
      kept = runner
      raise
    finally:
      if kept is None and runner is not None:
        with self._lock:
          self._all.discard(runner)
        runner.close()
      self._idle[role].put(kept)

  def _start(self, hash_seed: int) -> Runner:
    runner = Runner(*self._arguments, hash_seed)
    with self._lock:
      self._all.add(runner)
    return runner

  @property
  def reseeded(self) -> 'Reseeded':
    """This pool with its candidates under another hash seed."""
    return Reseeded(self)

  def close(self) -> None:
    """Ends all sandboxes; jobs still running in other threads fail."""
    with self._lock:
      runners, self._all = self._all, set()
    for runner in runners:
      runner.close()

  def __enter__(self) -> 'Pool':
    return self

  def __exit__(self, *_) -> None:
    self.close()


class Reseeded:
  """A pool whose candidates run under another hash seed; verdicts take it in place of the pool itself."""

  def __init__(self, pool: Pool):
    self.backend, self._pool = pool.backend, pool

  def runner(self, role: str = 'candidate') -> contextlib.AbstractContextManager[Runner]:
    """See Pool.runner."""
    return self._pool.runner('reseeded' if role == 'candidate' else role)
