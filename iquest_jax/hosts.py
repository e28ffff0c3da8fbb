"""What the processes of a run tell each other, through jax's coordination service.

Nothing here needs a device, and a process that waits holds no lock of the interpreter (as wait_at_barrier of jax 0.10
does): its other threads keep running, and signals are handled. jax.distributed notices within 100 s that a process has
died, so limits can be long.
"""

import contextlib
import itertools
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax._src import distributed  # the coordination service, which has no public name

from iquest_jax.errors import RunStopped, UserError

# One process may take this long, as to prepare rows, while the others wait for it.
LIMIT_S = 24 * 60 * 60.0
VISIBLE_S = 120.0  # after which every host must see a file; NFS shows one up to a minute late
_SLICE_S = 1.0  # of a wait; between two, signals are handled

# All processes make the same calls in the same order, so the number of a call names it.
_calls = itertools.count()
_told: list[str] = []  # names that the first process will remove


def gather(what: str, value: Any, limit_s: float = LIMIT_S) -> list[Any]:
  """JSON data of every process, in their order, on all of them; every process calls it.

  Args:
    what: it is about; all must ask for the same, or one has taken another way than the rest.

  Raises:
    RunStopped: a process has not called it after so many seconds, or calls it about something else.
  """
  if jax.process_count() == 1:
    return [value]
  name, process = f'gather/{next(_calls)}', jax.process_index()
  if process:
    put(f'{name}/{process}', [what, value])
    told = _wait(name, limit_s)
  else:
    told = [[what, value], *(take(f'{name}/{other}', limit_s) for other in range(1, jax.process_count()))]
    while _told:  # whoever came here has read what it was told before
      client().key_value_delete(_told.pop())
    put(name, told)
    _told.append(name)
  for other, (place, _) in enumerate(told):
    if place != told[0][0]:
      raise RunStopped(
          f'process {other} is at another place ({place}) than the first process ({told[0][0]}); report this with the logs '
          'of both'
      )
  return [value for _, value in told]


def from_first(what: str, value: Any) -> Any:
  """JSON data of the first process, on all of them; every process calls it, and waits for all."""
  return gather(what, value if jax.process_index() == 0 else None)[0]


def barrier(name: str, limit_s: float = LIMIT_S) -> None:
  """Returns when every process has called it.

  Raises:
    RunStopped: one has not after so many seconds, or is elsewhere.
  """
  gather(name, None, limit_s)


def agree(what: str, value: Any) -> None:
  """Raises RunStopped on every process unless all have the same value, naming the first that has not."""
  values = gather(what, value)
  for process, other in enumerate(values):
    if other != values[0]:
      raise RunStopped(
          f'{what}: process {process} has {other}, the first process has {values[0]}; make them see the same files, then '
          'rerun the same command'
      )


def refuse_together(what: str, act: Callable[[], Any]) -> Any:
  """What `act` returns here; if it raises UserError on any process, all processes raise that of the first of them."""
  if jax.process_count() == 1:
    return act()
  result, refused = None, ''
  try:
    result = act()
  except UserError as error:
    refused = str(error)
  if refused := next(filter(None, gather(what, refused)), ''):
    raise UserError(refused)
  return result


@contextlib.contextmanager
def after_first(name: str, limit_s: float = LIMIT_S) -> Iterator[bool]:
  """The first process runs the body, then the others; yields whether this is the first.

  Raises:
    RunStopped: the first has not ended after so many seconds. If it fails, all processes end; see ending.py.
  """
  first = jax.process_index() == 0
  if first:
    yield True
  barrier(name, limit_s)
  if not first:
    yield False


def put(name: str, value: Any) -> None:
  """Leaves JSON data under a name for another process; any thread may call it."""
  client().key_value_set(name, json.dumps(value))


def take(name: str, limit_s: float) -> Any:
  """What another process has `put` under a name, and removes it; any thread may call it.

  Raises:
    RunStopped: it is not there after so many seconds.
  """
  value = _wait(name, limit_s)
  client().key_value_delete(name)
  return value


def _wait(name: str, limit_s: float) -> Any:
  """What is under a name; waits for it."""
  end = time.monotonic() + limit_s
  while True:
    left = min(end - time.monotonic(), _SLICE_S)
    try:
      return json.loads(client().blocking_key_value_get(name, max(round(left * 1000), 1)))
    except jax.errors.JaxRuntimeError as error:
      if 'DEADLINE_EXCEEDED' not in str(error):
        raise
    if time.monotonic() >= end:
      raise RunStopped(
          f'process {jax.process_index()} waited {limit_s:,.0f} s for another process ({name}); see the logs of the others'
      )


def client() -> Any:
  """The coordination service as this process reaches it; None in a run of one process."""
  found = distributed.global_state
  return found.client if found.client is not None and found.num_processes > 1 else None
