"""Runs the tasks of a step on datatrove's executors: processes of this machine, Slurm, Ray.

A task is a function of a module and its arguments. Its result is one JSON file that appears last and atomically, so it
marks the task as complete: a step that was killed runs only the tasks that have no result. Work is divided into tasks by
the input alone, so the number of workers changes nothing but the time.
"""

import ctypes
import dataclasses
import fcntl
import functools
import hashlib
import json
import os
import pathlib
import pickle
import shutil
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from typing import Any

from iquest_jax.errors import RunStopped, UserError, check_name
from iquest_jax.run_folder import write_whole

KINDS = ('local', 'slurm', 'ray')
_POLL_SECONDS = 0.2
_PR_SET_PDEATHSIG = 1
# A Slurm job may wait in the queue; its tasks report by their results alone.
_SLURM_POLL_SECONDS = 5.0
_LOGS, _LOCK = 'logs', 'tasks.lock'


@dataclasses.dataclass(frozen=True)
class Done:
  """How far a step is: tasks, bytes of their inputs, and documents, where its results count them."""

  tasks: int
  total_tasks: int
  bytes: int
  total_bytes: int
  documents: int


Progress = Callable[[str, Done], None]


@dataclasses.dataclass(frozen=True)
class Task:
  """`function(*arguments)` returns what is written to `result` as JSON; its other files must be complete by then.

  Attributes:
    bytes: of its input, for progress.
  """

  function: Callable[..., dict[str, Any]]
  arguments: tuple
  result: pathlib.Path
  bytes: int = 0


@dataclasses.dataclass(frozen=True)
class Executor:
  """Where tasks run.

  Attributes:
    kind: one of KINDS.
    workers: tasks at a time.
    partition, time_limit: of Slurm jobs.
  """

  kind: str = 'local'
  workers: int = 1
  partition: str = 'cpu'
  time_limit: str = '20:00:00'

  def __post_init__(self):
    check_name('--executor:', self.kind, KINDS)
    if self.workers < 1:
      raise UserError(f'--workers must be at least 1, got {self.workers}')

  def run(self, step: str, tasks: Sequence[Task], folder: pathlib.Path, progress: Progress) -> list[dict[str, Any]]:
    """Runs the tasks that have no result; returns the results of all, in order.

    Args:
      step: its name, for progress and errors.
      folder: for the logs of the executor; every worker must see it.
      progress: called with the step and how far it is.

    Raises:
      UserError: a task raised one, or the disk is full: the first of them in the order of tasks. Other tasks finish first.
      RunStopped: a task ended without a result, as one that is killed for memory does.
    """
    if missing := [task for task in tasks if not task.result.exists()]:
      _wait_for_orphans(folder)
    missing = [task for task in missing if not task.result.exists()]
    for task in missing:
      task.result.parent.mkdir(parents=True, exist_ok=True)
      _error_file(task).unlink(missing_ok=True)
      _process_file(task).unlink(missing_ok=True)
    if missing:
      with _Watch(step, tasks, progress):
        try:
          self._execute(step, missing, folder)
        except _WorkerKilled:
          step = f'{step}: a worker was killed, perhaps for lack of memory'
    for task in missing:
      if (error := _error_file(task)).exists():
        raise UserError(error.read_text())
    if lost := [task for task in missing if not task.result.exists()]:
      way_out = 'rerun the same command to resume, perhaps with fewer --workers'
      raise RunStopped(f'prepare: {step}: {len(lost)} of {len(tasks)} tasks have no result; {way_out}')
    return [json.loads(task.result.read_text()) for task in tasks]

  def _execute(self, step: str, tasks: Sequence[Task], folder: pathlib.Path) -> None:
    name = step.replace(' ', '-')
    (folder / _LOGS).mkdir(exist_ok=True)
    # One per set of tasks, since datatrove remembers which ranks of a folder are complete.
    logs = tempfile.mkdtemp(prefix=f'{name}-', dir=folder / _LOGS)
    # A file each: the executor copies its pipeline for every task.
    for rank, task in enumerate(tasks):
      pathlib.Path(logs, f'{rank}.task').write_bytes(pickle.dumps(task))
    block = _Block(pathlib.Path(logs), folder / _LOCK)
    common = dict(pipeline=[block], tasks=len(tasks), logging_dir=logs)
    quiet()
    if self.kind == 'local':
      import multiprocess
      from datatrove.executor.local import LocalPipelineExecutor
      from multiprocess import forkserver

      _end_children_with_us()
      # The server that workers are forked from imports these once, not each worker of each step.
      multiprocess.set_forkserver_preload([task.function.__module__ for task in tasks[:1]])
      # Ctrl-C reaches all processes of a terminal: workers, which inherit this, leave it to us.
      handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
      forkserver.ensure_running()
      signal.signal(signal.SIGINT, handler)
      executor = LocalPipelineExecutor(**common, workers=min(self.workers, len(tasks)))
    elif self.kind == 'slurm':
      if shutil.which('sbatch') is None:
        raise UserError('--executor: slurm needs sbatch, which is not on PATH; start the command where Slurm is installed')
      from datatrove.executor.slurm import SlurmPipelineExecutor

      executor = SlurmPipelineExecutor(
          **common, workers=self.workers, time=self.time_limit, partition=self.partition, job_name=f'prepare-{name}',
          qos='', env_command=f'export PATH={os.environ["PATH"]}',
      )  # fmt: skip
    else:
      from datatrove.executor.ray import RayPipelineExecutor

      executor = RayPipelineExecutor(**common, workers=self.workers)
    executor.run()
    if self.kind == 'slurm':
      _wait(executor.job_id, tasks)


def key_of(*parts: Any) -> str:
  """A short hash (hex) of what JSON can hold: names results by what they depend on."""
  return hashlib.sha256(json.dumps(parts, sort_keys=True).encode('utf-8', 'surrogatepass')).hexdigest()[:24]


def cores() -> int:
  """Cores that this process may use."""
  return len(os.sched_getaffinity(0))


def quiet() -> None:
  """Silences datatrove's own log, which repeats what results say."""
  from loguru import logger

  logger.disable('datatrove')


@functools.cache
def _end_children_with_us() -> None:
  """Has the kernel end processes that are forked from here when this one is killed: datatrove's manager outlives it."""
  if sys.platform == 'linux':
    prctl = ctypes.CDLL(None).prctl
    os.register_at_fork(after_in_child=lambda: prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL)))


class _Block:
  """The one step of datatrove's pipeline: the task of a rank. Its process is noted, and holds a lock, while it runs."""

  def __init__(self, tasks: pathlib.Path, lock: pathlib.Path):
    self._tasks, self._lock = tasks, lock

  def __setstate__(self, state):
    self.__dict__.update(state)
    quiet()

  def __call__(self, data, rank: int, world_size: int) -> None:
    del data, world_size
    task = pickle.loads((self._tasks / f'{rank}.task').read_bytes())
    with open(self._lock, 'a') as lock:
      fcntl.flock(lock, fcntl.LOCK_SH)
      if not task.result.exists():
        self._run(task)

  def _run(self, task: Task) -> None:
    # Workers are the parallelism; threads of the tokenizer would only compete, and warn of forks.
    os.environ['TOKENIZERS_PARALLELISM'] = 'false'
    _process_file(task).write_text(f'{socket.gethostname()} {os.getpid()}')
    try:
      write_whole(task.result, json.dumps(task.function(*task.arguments), sort_keys=True))
    except UserError as error:
      write_whole(_error_file(task), str(error))
    except OSError as error:
      path = error.filename or task.result
      write_whole(_error_file(task), f'prepare: {path}: {error.strerror or error}; nothing finished is lost')
    finally:
      _process_file(task).unlink()


def _wait_for_orphans(folder: pathlib.Path) -> None:
  """Waits for tasks whose preparation was killed: they still write the files that ours would write."""
  folder.mkdir(parents=True, exist_ok=True)
  with open(folder / _LOCK, 'a') as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)


class _WorkerKilled(Exception):
  """A worker was killed."""


def _raise_worker_killed(*_) -> None:
  raise _WorkerKilled


class _Watch:
  """Reports how many tasks have a result, from a thread, while they run.

  A pool of processes waits forever for a worker that was killed, as for memory; the watch then raises _WorkerKilled in the
  main thread.
  """

  def __init__(self, step: str, tasks: Sequence[Task], progress: Progress):
    self._step, self._tasks, self._progress = step, tasks, progress
    self._open, self._bytes, self._documents = list(tasks), 0, 0
    self._ended, self._handler = threading.Event(), None
    self._thread = threading.Thread(target=self._run, daemon=True)

  def _report(self) -> None:
    for task in [task for task in self._open if task.result.exists()]:
      self._open.remove(task)
      self._bytes += task.bytes
      self._documents += json.loads(task.result.read_text()).get('documents', 0)
    count, size = len(self._tasks), sum(task.bytes for task in self._tasks)
    self._progress(self._step, Done(count - len(self._open), count, self._bytes, size, self._documents))

  def _run(self) -> None:
    # Looking for results takes time too where there are many.
    while not self._ended.wait(max(_POLL_SECONDS, len(self._open) / 20_000)):
      self._report()
      if any(_is_killed(task) for task in self._open) and not self._ended.is_set():
        signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)
        return

  def __enter__(self):
    # Not SIGINT, which a shell ignores for what it starts in the background.
    self._handler = signal.signal(signal.SIGUSR1, _raise_worker_killed)
    self._report()
    self._thread.start()

  def __exit__(self, *_):
    self._ended.set()
    self._thread.join()
    signal.signal(signal.SIGUSR1, self._handler)
    self._report()


def _process_file(task: Task) -> pathlib.Path:
  return task.result.with_name(task.result.name + '.process')


def _is_killed(task: Task) -> bool:
  """Whether the process of a task, if it runs on this machine, is gone."""
  try:
    host, process = _process_file(task).read_text().split()
    if host == socket.gethostname():
      os.kill(int(process), 0)
  except (OSError, ValueError) as error:  # not started, or ended just now
    return isinstance(error, ProcessLookupError)
  return False


def _error_file(task: Task) -> pathlib.Path:
  return task.result.with_name(task.result.name + '.error')


def _wait(job: str, tasks: Sequence[Task]) -> None:
  """Waits until every task has a result or an error, or the job has left Slurm's queue."""
  import subprocess
  import time

  done = lambda: all(task.result.exists() or _error_file(task).exists() for task in tasks)
  while not done():
    queue = subprocess.run(['squeue', '--noheader', '--jobs', str(job)], capture_output=True, text=True, check=False)
    if not queue.stdout.strip():
      time.sleep(_POLL_SECONDS)  # the last result may just be on its way
      return
    time.sleep(_SLURM_POLL_SECONDS)
