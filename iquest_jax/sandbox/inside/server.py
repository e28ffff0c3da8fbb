"""The job server of a sandbox: has each job taken from the control socket, watched and reported by a fork of itself.

It runs inside the sandbox as a trusted process. It neither executes nor even reads what a job contains: a job's watcher,
supervisor and program are forks of its pristine state, so a job can neither poison the next one nor find the source of
an earlier one in memory. It exits, and everything with it, when the control socket closes, that is when the process that
started the sandbox ends for whatever reason.
"""

import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
import tempfile
import time

from iquest_jax.sandbox import landlock
from iquest_jax.sandbox.inside import job as jobs
from iquest_jax.sandbox.inside import kernel, processes, seccomp

POLL_S = 0.02
_DISK_POLLS = 5  # Every fifth sample also walks the job's folder, where no file system caps it.
_PRELOADED = [
    'base64', 'bisect', 'collections', 'copy', 'dataclasses', 'datetime', 'decimal', 'enum', 'fractions', 'functools',
    'heapq', 'itertools', 'json', 'math', 'operator', 'random', 're', 'statistics', 'string', 'struct', 'time', 'typing',
]  # fmt: skip


def send(sock: socket.socket, message: dict, fds: tuple[int, ...] = ()) -> None:
  """Sends a message, with file descriptors if any. Raises OSError if the other side is gone."""
  data = json.dumps(message).encode()
  header = len(data).to_bytes(8, 'little')
  if fds:
    socket.send_fds(sock, [header], list(fds))
    sock.sendall(data)
  else:
    sock.sendall(header + data)


def receive(sock: socket.socket) -> tuple[dict, list[int]]:
  """Returns the next message and its file descriptors. Raises EOFError if the other side is gone."""
  header, fds, _, _ = socket.recv_fds(sock, 8, 8)
  while len(header) < 8:
    header += _some(sock, 8 - len(header))
  data, size = bytearray(), int.from_bytes(header, 'little')
  while len(data) < size:
    data += _some(sock, min(size - len(data), 1 << 20))
  return json.loads(data), fds


def _some(sock: socket.socket, size: int) -> bytes:
  data = sock.recv(size)
  if not data:
    raise EOFError
  return data


class _Stopped(Exception):
  """The control socket closed during a job."""


class _Job:
  """One job from start to complete removal."""

  def __init__(self, sock: socket.socket, settings: dict, job: dict, fds: list[int]):
    self._sock, self._settings, self._job = sock, settings, job
    self._landlock = settings['kind'] == 'landlock'
    if self._landlock:
      job['box'] = tempfile.mkdtemp(dir=settings['box'])
    pipes = {name: os.pipe() for name in ('go', 'status', 'stdout', 'stderr')}
    child = os.fork() if self._landlock else kernel.fork_into(jobs.FLAGS)
    if child == 0:
      sock.close()
      for fd in (pipes['go'][1], pipes['status'][0], pipes['stdout'][0], pipes['stderr'][0]):
        os.close(fd)
      output = pipes['stdout'][1], pipes['stderr'][1]
      jobs.supervise(job, settings, pipes['go'][0], pipes['status'][1], output, fds)
    self._supervisor = child
    for fd in (pipes['go'][0], pipes['status'][1], pipes['stdout'][1], pipes['stderr'][1], *fds):
      os.close(fd)
    self._go, self._status, *self._outputs = pipes['go'][1], pipes['status'][0], pipes['stdout'][0], pipes['stderr'][0]
    for fd in self._outputs:
      os.set_blocking(fd, False)

  def run(self) -> dict:
    """Runs all steps, stopping after one that fails or hits a limit."""
    try:
      steps = []
      for step in self._job['steps']:
        steps.append(self._run_step(step['limits']))
        if steps[-1].get('error') or steps[-1]['limit'] or (steps[-1]['status'] and not step.get('go_on')):
          break
      return {'steps': steps}
    finally:
      self._remove()

  def _run_step(self, limits: dict) -> dict:
    start = time.monotonic()
    with contextlib.suppress(BrokenPipeError):
      os.write(self._go, b'g')
    before = processes.usage(self._supervisor).cpu_s
    texts, ended, limit, line = {fd: bytearray() for fd in self._outputs}, None, '', b''
    peak = cpu = polls = 0
    due = start + POLL_S
    poll = select.poll()
    for fd in (*self._outputs, self._status, self._sock.fileno()):
      poll.register(fd, select.POLLIN)
    while ended is None:
      for fd, event in poll.poll(max(0.0, due - time.monotonic()) * 1000):
        if fd == self._sock.fileno():
          raise _Stopped
        if fd == self._status:
          line += os.read(fd, 4096)
          if line.endswith(b'\n') or event & select.POLLHUP:
            ended = json.loads(line.splitlines()[0]) if line else {'error': 'died: the supervisor of the job'}
        elif not self._read(fd, texts[fd], limits['output_bytes']):
          poll.unregister(fd)
      now = time.monotonic()
      if sum(map(len, texts.values())) > limits['output_bytes']:
        limit = limit or 'output'
      if now - start > limits['wall_s']:
        limit = limit or 'wall'
      if now >= due and not limit and ended is None:
        due, polls = now + POLL_S, polls + 1
        use = processes.usage(self._supervisor)
        peak, cpu = max(peak, use.memory_bytes), use.cpu_s - before
        limit = self._exceeded(use, cpu, limits, polls)
      if limit:
        processes.kill_descendants(self._supervisor)
    seconds = time.monotonic() - start
    processes.kill_descendants(self._supervisor)
    for fd in self._outputs:
      while self._read(fd, texts[fd], limits['output_bytes']):
        pass
    stdout, stderr = (bytes(text[: limits['output_bytes']]).decode(errors='replace') for text in texts.values())
    use = processes.usage(self._supervisor)
    return {
        **ended,
        'limit': limit,
        'seconds': seconds,
        'cpu_s': max(cpu, use.cpu_s - before),
        'memory': max(peak, ended.get('memory', 0)),
        'stdout': stdout,
        'stderr': stderr,
    }

  def _read(self, fd: int, text: bytearray, most: int) -> bool:
    """Reads what is available, keeping a little more than `most`; False if there is nothing."""
    try:
      data = os.read(fd, 1 << 16)
    except BlockingIOError:
      return False
    if len(text) <= most:
      text += data
    return bool(data)

  def _exceeded(self, use: processes.Usage, cpu: float, limits: dict, polls: int) -> str:
    """Returns the name of the limit that the tree exceeds now; expensive measurements run only when needed."""
    if cpu > limits['cpu_s']:
      return 'cpu'
    most = limits['memory_bytes']
    if use.memory_bytes > most and processes.proportional_memory(self._supervisor) > most:
      return 'memory'
    if use.tasks > limits['processes']:
      return 'processes'
    if self._landlock and polls % _DISK_POLLS == 0:
      files, size = processes.disk_usage(self._job['box'])
      limits = self._job['steps'][-1]['limits']
      return 'files' if files > limits['files'] else 'disk' if size > limits['disk_bytes'] else ''
    return ''

  def _remove(self) -> None:
    if self._landlock:
      processes.kill_descendants(self._supervisor)
    os.kill(self._supervisor, signal.SIGKILL)
    os.waitpid(self._supervisor, 0)  # Of a pid namespace's first process: returns when the namespace is empty.
    if self._landlock:
      processes.remove_folder(self._job['box'])


def main(control: int) -> None:
  """Serves jobs from the socket `control` until it closes."""
  sock = socket.socket(fileno=os.dup(control))  # A low number: jobs put theirs from 499 on in between.
  os.closerange(sock.fileno() + 1, 1 << 20)
  settings, _ = receive(sock)
  kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
  kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
  sys.path += settings['packages']
  for name in [*_PRELOADED, *settings['preload']]:
    importlib.import_module(name)
  by_landlock = settings['kind'] == 'landlock'
  # Where nothing else confines signals the filter does, by a process id that only the job knows.
  settings['filter'] = b'' if by_landlock and landlock.abi() < 6 else seccomp.program(by_landlock)
  gc.freeze()
  send(sock, {'ready': os.getpid()})
  code = 0
  while code == 0 and sock.recv(1, socket.MSG_PEEK):
    watcher = os.fork()
    if watcher == 0:
      _watch(sock, settings)
    code = os.waitpid(watcher, 0)[1]
    processes.kill_descendants(os.getpid())  # Nothing, unless the watcher itself was killed.
    with contextlib.suppress(ChildProcessError):
      while os.waitpid(-1, os.WNOHANG)[0]:
        continue
  if by_landlock:
    processes.remove_folder(settings['box'])


def _watch(sock: socket.socket, settings: dict) -> None:
  """Takes one job from the socket, runs it and reports it. Never returns."""
  code = 1
  try:
    kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
    job, fds = receive(sock)
    try:
      reply = _Job(sock, settings, job, fds).run()
    except OSError as error:
      reply = {'error': f'{type(error).__name__}: {error}'}
    send(sock, reply)
    code = 0
  except (EOFError, _Stopped, ConnectionError):
    pass
  finally:
    os._exit(code)
