"""What a program's process does to itself before the program starts: descriptors, limits, Landlock, privileges, filter."""

import contextlib
import gc
import os
import resource
import signal
import sys
import traceback
from collections.abc import Sequence

from iquest_jax.sandbox import landlock
from iquest_jax.sandbox.inside import candidate, grader, kernel, seccomp

_SERVICES = {'candidate': candidate.serve, 'grader': grader.grade, 'main': candidate.run_main}
_SPARE_TASKS = 3  # The server, the supervisor and, under bubblewrap, its reaper.


def run(step: dict, settings: dict, box: str, errors: int, descriptors: Sequence[int]) -> None:
  """Confines this process for good and runs the step in it. Never returns.

  Args:
    errors: where a failure to confine is written; nothing of the program runs then.
    descriptors: what the program gets as 0, 1, 2, ...; it gets no others.
  """
  try:
    os.setsid()
    # Above every number in use, then down to their places.
    errors = os.dup2(errors, 499, inheritable=False)
    high = [os.dup2(fd, 500 + i, inheritable=False) for i, fd in enumerate(descriptors)]
    for i, fd in enumerate(high):
      os.dup2(fd, i)
    os.closerange(len(high), 499)
    os.closerange(500, 1 << 20)
    by_landlock = settings['kind'] == 'landlock'
    _limit(step['limits'], by_landlock)
    kernel.prctl(kernel.PR_SET_DUMPABLE, 0 if step.get('python') == 'grader' else 1)
    if by_landlock:
      landlock.restrict([*settings['read'], f'/proc/{os.getpid()}'], [box, *settings['devices']], settings['abi'])
    kernel.drop_capabilities()
    seccomp.apply(settings['filter'] or seccomp.program(by_landlock, os.getpid()))
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
      signal.signal(number, signal.SIG_DFL)
    if step['argv']:
      _execute(step)
  except BaseException:
    os.write(errors, traceback.format_exc()[-1000:].strip().encode())
    os._exit(126)
  os.close(errors)
  gc.enable()
  status = 1
  try:
    status = _SERVICES[step['python']](step, fds=list(range(3, len(high))))
  except SystemExit as stop:
    status = stop.code if isinstance(stop.code, int) else 1 if stop.code else 0
  except BaseException:
    traceback.print_exc()
  finally:
    with contextlib.suppress(BaseException):
      sys.stdout.flush()
    os._exit(status & 0xFF)


def _execute(step: dict) -> None:
  """Becomes the program; one that an earlier step should have written and did not ends with status 126.

  Raises:
    FileNotFoundError: the program does not exist.
  """
  try:
    os.execvpe(step['argv'][0], step['argv'], {**os.environ, **step['env']})
  except OSError as error:
    if step['product']:
      os.write(2, f'{step["product"]}: {error.strerror}\n'.encode())
      os._exit(126)
    raise FileNotFoundError(f'no such program: {step["argv"][0]}') from None


def _limit(limits: dict, by_landlock: bool) -> None:
  cpu = int(limits['cpu_s']) + 1
  values = {
      resource.RLIMIT_CPU: (cpu, cpu + 1),
      resource.RLIMIT_CORE: (0, 0),
      resource.RLIMIT_FSIZE: (limits['disk_bytes'],) * 2,
      resource.RLIMIT_NOFILE: (limits['open_files'],) * 2,
      resource.RLIMIT_NPROC: (limits['processes'] + (_tasks_of_this_user() if by_landlock else _SPARE_TASKS),) * 2,
      resource.RLIMIT_MEMLOCK: (0, 0),
  }
  if not limits['reserves']:
    values[resource.RLIMIT_AS] = (2 * limits['memory_bytes'] + (64 << 20),) * 2
  for kind, value in values.items():
    ceiling = resource.getrlimit(kind)[1]
    resource.setrlimit(kind, value if ceiling == resource.RLIM_INFINITY else tuple(min(v, ceiling) for v in value))


def _tasks_of_this_user() -> int:
  """Threads of all processes with this uid: without a namespace they count against the same limit."""
  uid, total = os.getuid(), 0
  for name in filter(str.isdigit, os.listdir('/proc')):
    with contextlib.suppress(OSError):
      if os.stat(f'/proc/{name}').st_uid == uid or name == str(os.getpid()):
        total += len(os.listdir(f'/proc/{name}/task'))
  return total
