"""One job inside the sandbox: its supervisor makes the folder, forks a confined child per step, watches and reports it.

Under bubblewrap the supervisor is process 1 of fresh pid, mount and ipc namespaces: its end takes everything along, mounts
included. Under Landlock it is a subreaper, so no descendant escapes the tree below it.
"""

import base64
import contextlib
import math
import os
import resource
import select
import signal
import socket
import tempfile
import time
import traceback

from iquest_jax.sandbox.inside import confine, control, kernel, processes

POLL_S = 0.02
_GRACE_S = 0.5  # How long a step whose peer has gone may take to end by itself.
_WALK_SHARE = 0.05  # Where no file system caps the folder, walking it takes at most this share of the time.


class _Stopped(Exception):
  """The control socket closed during a job."""


def supervise(sock: socket.socket, settings: dict) -> None:
  """Takes one job from the control socket, runs its steps in order up to one that fails, and reports. Never returns."""
  status = 1
  try:
    kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
    description, fds = control.receive(sock)
    job = _Job(sock, settings, description, fds)
    try:
      reply = {'steps': job.run()}
    except Exception as error:
      reply = {'error': ''.join(traceback.format_exception(error))[-1000:]}
    job.remove()
    control.send(sock, reply)
    status = 0
  except (EOFError, OSError):
    pass
  finally:
    os._exit(status)


class _Job:
  """The job of this process."""

  def __init__(self, sock: socket.socket, settings: dict, description: dict, fds: list[int]):
    self._sock, self._settings, self._fds, self._steps = sock, settings, fds, description['steps']
    self._files, self._landlock = description['files'], settings['kind'] == 'landlock'
    self._folder_limits = self._steps[-1]['limits']
    self._box = tempfile.mkdtemp(dir=settings['box']) if self._landlock else settings['box']

  def run(self) -> list[dict]:
    """Runs the steps and returns what each did."""
    if not self._landlock:
      self._mount()
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    os.chdir(self._box)
    os.environ['HOME'] = os.environ['TMPDIR'] = self._box
    for name, content in self._files.items():
      os.makedirs(os.path.dirname(os.path.join(self._box, name)), exist_ok=True)
      text = isinstance(content, str)
      with open(name, 'wb') as file:
        file.write(content.encode(errors='surrogatepass') if text else base64.b64decode(content['base64']))
    done = []
    for step in self._steps:
      done.append(self._run_step(step))
      if done[-1]['error'] or done[-1]['limit'] or (done[-1]['status'] and not step['optional']):
        break
    return done

  def _mount(self) -> None:
    """Mounts the job's only writable place, capped in bytes and inodes, and a /proc of its own processes."""
    kernel.mount('none', '/', None, kernel.MS_PRIVATE | kernel.MS_REC)
    size, inodes = self._folder_limits['disk_bytes'], self._folder_limits['files'] + 3
    options = f'mode=0700,size={size},nr_inodes={inodes}'
    kernel.mount('tmpfs', '/tmp', 'tmpfs', kernel.MS_NOSUID | kernel.MS_NODEV, options)
    os.mkdir('/tmp/.shm')
    kernel.mount('/tmp/.shm', '/dev/shm', None, kernel.MS_BIND)
    kernel.mount('proc', '/proc', 'proc', kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC)
    os.mkdir(self._box)

  def _run_step(self, step: dict) -> dict:
    """Runs one step to its end or to a limit, ends its processes, and returns what it did."""
    _make_executable(step['product'])
    stdin, pipes = _file(step['stdin']), [os.pipe() for _ in range(3)]
    before, start = _ended_cpu_s(), time.monotonic()
    child = os.fork()
    if child == 0:
      error, *output = (write for _, write in pipes)
      confine.run(step, self._settings, self._box, error, [stdin, *output, *self._fds])
    for fd in (stdin, *(write for _, write in pipes)):
      os.close(fd)
    error, stdout, stderr = (read for read, _ in pipes)
    watch = _Watch(step['limits'], {stdout: bytearray(), stderr: bytearray()}, start, before)
    limit = self._watch(child, watch, self._fds[step['peer']] if 'peer' in step else None)
    self._end_processes()
    _, status, used = os.wait4(child, 0)
    watch.read_rest()
    text = os.read(error, 4096).decode(errors='replace')
    for fd in (error, stdout, stderr):
      os.close(fd)
    return {
        'status': status,
        'error': text,
        'limit': limit,
        'seconds': time.monotonic() - start,
        'cpu_s': max(watch.cpu_s, _ended_cpu_s() - before),
        'memory': max(watch.memory, used.ru_maxrss * 1024),
        'stdout': watch.text(stdout),
        'stderr': watch.text(stderr),
    }

  def _watch(self, child: int, watch: '_Watch', peer: int | None) -> str:
    """Waits until the child ends or exceeds a limit, and returns the limit's name.

    Args:
      peer: the end of a pipe that the child writes; if its last reader is gone, the child is waited for no longer.
    """
    poll, ended, walk_due, patience = select.poll(), os.pidfd_open(child), 0.0, math.inf
    if peer is not None:
      poll.register(peer, 0)
    for fd in (*watch.outputs, self._sock.fileno(), ended):
      poll.register(fd, select.POLLIN)
    due, limit = watch.start + POLL_S, ''
    try:
      while not limit:
        for fd, _ in poll.poll(max(0.0, due - time.monotonic()) * 1000):
          if fd == self._sock.fileno():
            raise _Stopped
          if fd == ended:
            return ''
          if fd == peer:
            poll.unregister(fd)
            patience = time.monotonic() + _GRACE_S
            continue
          if not watch.read(fd):
            poll.unregister(fd)
        limit = watch.exceeded_now()
        now = time.monotonic()
        if now >= patience:
          return limit
        if now >= due and not limit:
          due, limit = now + POLL_S, watch.exceeded_by_tree()
          if self._landlock and now >= walk_due and not limit:
            limit = self._exceeded_by_folder()
            walk_due = now + (time.monotonic() - now) / _WALK_SHARE
      return limit
    finally:
      os.close(ended)

  def _exceeded_by_folder(self) -> str:
    files, size = processes.disk_usage(self._box)
    return 'files' if files > self._folder_limits['files'] else 'disk' if size > self._folder_limits['disk_bytes'] else ''

  def _end_processes(self) -> None:
    """Ends everything below this process, and under bubblewrap so everything in its namespace."""
    if self._landlock:
      processes.kill_descendants(os.getpid())
    else:
      with contextlib.suppress(ProcessLookupError):
        os.kill(-1, signal.SIGKILL)

  def remove(self) -> None:
    """Ends all processes and removes the folder."""
    self._end_processes()
    if self._landlock:
      processes.remove_folder(self._box)


class _Watch:
  """What a step used and printed so far, against its limits."""

  def __init__(self, limits: dict, outputs: dict[int, bytearray], start: float, cpu_before: float):
    self.outputs, self.start, self.cpu_s, self.memory = outputs, start, 0.0, 0
    self._limits, self._cpu_before = limits, cpu_before
    for fd in outputs:
      os.set_blocking(fd, False)

  def read(self, fd: int) -> bool:
    """Reads what is available, keeping a little more than the limit; False if there is nothing."""
    try:
      data = os.read(fd, 1 << 16)
    except BlockingIOError:
      return False
    if len(self.outputs[fd]) <= self._limits['output_bytes']:
      self.outputs[fd] += data
    return bool(data)

  def read_rest(self) -> None:
    for fd in self.outputs:
      while self.read(fd):
        continue

  def text(self, fd: int) -> str:
    return bytes(self.outputs[fd][: self._limits['output_bytes']]).decode(errors='replace')

  def exceeded_now(self) -> str:
    """Returns the limit that needs no measurement and is exceeded."""
    if sum(map(len, self.outputs.values())) > self._limits['output_bytes']:
      return 'output'
    return 'wall' if time.monotonic() - self.start > self._limits['wall_s'] else ''

  def exceeded_by_tree(self) -> str:
    """Samples the tree and returns the limit that it exceeds; shared pages are told apart only when it matters."""
    use, most = processes.usage(os.getpid()), self._limits['memory_bytes']
    self.memory, self.cpu_s = max(self.memory, use.memory_bytes), use.cpu_s - self._cpu_before
    if self.cpu_s > self._limits['cpu_s']:
      return 'cpu'
    if use.memory_bytes > most and processes.proportional_memory(os.getpid()) > most:
      return 'memory'
    return 'processes' if use.tasks > self._limits['processes'] else ''


def _ended_cpu_s() -> float:
  """CPU seconds of the descendants that have ended."""
  used = resource.getrusage(resource.RUSAGE_CHILDREN)
  return used.ru_utime + used.ru_stime


def _make_executable(product: str) -> None:
  """Sets the mode of a compiled program: under Landlock the linker's own chmod has no effect."""
  if product:
    with contextlib.suppress(OSError):
      file = os.open(product, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
      os.fchmod(file, 0o700)
      os.close(file)


def _file(text: str) -> int:
  """Returns a descriptor of a file in memory that holds `text`."""
  file = os.memfd_create('stdin')
  data = memoryview(text.encode(errors='surrogatepass'))
  while data:
    data = data[os.write(file, data) :]
  os.lseek(file, 0, os.SEEK_SET)
  return file
