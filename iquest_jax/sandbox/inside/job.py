"""One job inside the sandbox: a supervisor process with its own folder, and one confined child per step.

Under bubblewrap the supervisor is process 1 of fresh pid, mount and ipc namespaces: its death takes everything along,
mounts included. Under Landlock it is a subreaper, so no descendant escapes the tree below it.
"""

import base64
import contextlib
import json
import os
import resource
import signal
import sys
import traceback

from iquest_jax.sandbox import landlock
from iquest_jax.sandbox.inside import candidate, grader, kernel, seccomp

FLAGS = kernel.CLONE_NEWNS | kernel.CLONE_NEWPID | kernel.CLONE_NEWIPC
ENTRY_POINTS = {'candidate': candidate.serve, 'grader': grader.grade, 'main': candidate.run_main}
_SPARE_TASKS = 4  # Server, watcher, supervisor and, under bubblewrap, its reaper; the program's own process counts.


def supervise(job: dict, settings: dict, go: int, status: int, output: tuple[int, int], fds: list[int]) -> None:
  """Runs the steps of a job one after the other, each when a byte arrives on `go`. Never returns.

  Writes one JSON line to `status` per step, {'status': wait status, 'memory': peak resident bytes of its first
  process}, or {'error': text} when the sandbox itself failed.
  """
  try:
    limits = job['steps'][-1]['limits']
    box = settings['box'] if settings['kind'] == 'bubblewrap' else job['box']
    if settings['kind'] == 'bubblewrap':
      _private_mounts(box, limits)
    else:
      kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    os.chdir(box)
    os.environ['HOME'] = os.environ['TMPDIR'] = box
    for name, content in job['files'].items():
      path = os.path.join(box, name)
      os.makedirs(os.path.dirname(path), exist_ok=True)
      with open(path, 'wb') as file:
        file.write(content.encode() if isinstance(content, str) else base64.b64decode(content['base64']))
    for step in job['steps']:
      if not os.read(go, 1):
        break
      _make_executable(step.get('product'))
      stdin = _stdin(step.get('stdin', ''))
      child = os.fork()
      if child == 0:
        _run(step, settings, box, stdin, status, output, fds)
      os.close(stdin)
      while True:
        pid, code, used = os.wait4(-1, 0)
        if pid == child:
          break
      os.write(status, json.dumps({'status': code, 'memory': used.ru_maxrss * 1024}).encode() + b'\n')
    os.read(go, 1)
  except BaseException:
    os.write(status, json.dumps({'error': traceback.format_exc()[-1000:]}).encode() + b'\n')
  finally:
    os._exit(0)


def _private_mounts(box: str, limits: dict) -> None:
  """Mounts the job's only writable place, capped in bytes and inodes, and a /proc of its own processes."""
  kernel.mount('none', '/', None, kernel.MS_PRIVATE | kernel.MS_REC)
  options = f'mode=0700,size={limits["disk_bytes"]},nr_inodes={limits["files"] + 3}'
  kernel.mount('tmpfs', '/tmp', 'tmpfs', kernel.MS_NOSUID | kernel.MS_NODEV, options)
  os.mkdir('/tmp/.shm')
  kernel.mount('/tmp/.shm', '/dev/shm', None, kernel.MS_BIND)
  kernel.mount('proc', '/proc', 'proc', kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC)
  os.mkdir(box)


def _make_executable(product: str | None) -> None:
  """Sets the mode of a compiled program: under Landlock the linker's own chmod has no effect."""
  if product:
    with contextlib.suppress(OSError):
      file = os.open(product, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
      os.fchmod(file, 0o700)
      os.close(file)


def _stdin(text: str) -> int:
  file = os.memfd_create('stdin')
  os.write(file, text.encode(errors='surrogatepass')) if text else None
  os.lseek(file, 0, os.SEEK_SET)
  return file


def _run(step: dict, settings: dict, box: str, stdin: int, status: int, output: tuple[int, int], fds: list[int]) -> None:
  """Confines this process for good and runs the step in it. Never returns."""
  try:
    os.setsid()
    # Above every number in use, then down to 0, 1, 2 and the job's own from 3 on.
    sources = [os.dup2(fd, 500 + i, inheritable=False) for i, fd in enumerate([stdin, *output, *fds])]
    status = os.dup2(status, 499, inheritable=False)
    for i, fd in enumerate(sources):
      os.dup2(fd, i)
    os.closerange(len(sources), 499)
    os.closerange(500, 1 << 20)
    _limit(step['limits'], settings)
    shared = settings['kind'] == 'landlock'
    if shared:
      kernel.prctl(kernel.PR_SET_DUMPABLE, 1)  # Else /proc/<pid> below would belong to root.
      landlock.restrict([*settings['read'], f'/proc/{os.getpid()}'], [box, *settings['devices']])
    kernel.drop_capabilities()
    kernel.prctl(kernel.PR_SET_DUMPABLE, 0 if step.get('python') == 'grader' else 1)
    seccomp.apply(settings['filter'] or seccomp.program(shared, os.getpid()))
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
      signal.signal(number, signal.SIG_DFL)
    if 'argv' in step:
      os.execvpe(step['argv'][0], step['argv'], {**os.environ, **step.get('env', {})})
  except FileNotFoundError as error:
    os.write(status, json.dumps({'error': f'no such program: {error.filename}'}).encode() + b'\n')
    os._exit(127)
  except BaseException:
    os.write(status, json.dumps({'error': traceback.format_exc()[-1000:]}).encode() + b'\n')
    os._exit(126)
  os.close(status)
  code = 1
  try:
    code = ENTRY_POINTS[step['python']](step, fds=list(range(3, 3 + len(fds))))
  except SystemExit as stop:
    code = stop.code if isinstance(stop.code, int) else 1
  except BaseException:
    traceback.print_exc()
  finally:
    with contextlib.suppress(BaseException):
      sys.stdout.flush()
    os._exit(code or 0)


def _limit(limits: dict, settings: dict) -> None:
  cpu = int(limits['cpu_s']) + 1
  tasks = limits['processes'] + _SPARE_TASKS + (_tasks_of_this_user() if settings['kind'] == 'landlock' else 0)
  values = {
      'CPU': (cpu, cpu + 1),
      'CORE': 0,
      'FSIZE': limits['disk_bytes'],
      'NOFILE': limits['open_files'],
      'NPROC': tasks,
      'MEMLOCK': 0,
      'MSGQUEUE': 0,
  }
  if not limits['reserves']:
    values['AS'] = 2 * limits['memory_bytes'] + (64 << 20)
  for name, value in values.items():
    kind = getattr(resource, f'RLIMIT_{name}', None)
    if kind is None:
      continue
    soft, hard = value if isinstance(value, tuple) else (value, value)
    ceiling = resource.getrlimit(kind)[1]
    if ceiling != resource.RLIM_INFINITY:
      soft, hard = min(soft, ceiling), min(hard, ceiling)
    resource.setrlimit(kind, (soft, hard))


def _tasks_of_this_user() -> int:
  """Threads of all processes with this uid: without a namespace they count against the same limit."""
  uid, total = os.getuid(), 0
  for name in os.listdir('/proc'):
    if name.isdigit():
      with contextlib.suppress(OSError):
        if os.stat(f'/proc/{name}').st_uid == uid:
          total += len(os.listdir(f'/proc/{name}/task'))
  return total
