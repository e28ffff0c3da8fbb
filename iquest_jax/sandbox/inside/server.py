"""The job server of a sandbox: forks a supervisor for each job and waits until everything of the job is gone.

It runs inside the sandbox as a trusted process. It neither executes nor even reads what a job contains: supervisor and
program are forks of its pristine state, so a job can neither poison the next one nor find the source of an earlier one
in memory. It exits, and everything with it, when the control socket closes, that is when the process that started the
sandbox ends for whatever reason.
"""

import contextlib
import gc
import importlib
import os
import socket
import sys

from iquest_jax.sandbox.inside import control, job, kernel, processes, seccomp

_NAMESPACES = kernel.CLONE_NEWNS | kernel.CLONE_NEWPID | kernel.CLONE_NEWIPC
_PRELOADED = [
    'base64', 'bisect', 'collections', 'copy', 'dataclasses', 'datetime', 'decimal', 'enum', 'fractions', 'functools',
    'heapq', 'itertools', 'json', 'math', 'operator', 'random', 're', 'statistics', 'string', 'struct', 'time', 'typing',
    'warnings',
]  # fmt: skip


def main(descriptor: int) -> None:
  """Serves jobs from the control socket `descriptor` until it closes. Each ends with a message of its own, {'gone': 1}."""
  sock = socket.socket(fileno=os.dup(descriptor))  # A low number: jobs put theirs from 499 on in between.
  os.closerange(sock.fileno() + 1, 1 << 20)
  settings, _ = control.receive(sock)
  by_landlock = settings['kind'] == 'landlock'
  kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
  kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
  sys.path += settings['packages']
  for name in _PRELOADED:
    importlib.import_module(name)
  # Where nothing else confines signals the filter does, by a process id that only the job knows.
  settings['filter'] = b'' if by_landlock and settings['abi'] < 6 else seccomp.program(by_landlock)
  gc.disable()  # A collection would copy the pages that forks share; the program's process enables it again.
  gc.freeze()
  status = 0
  with contextlib.suppress(ConnectionError):
    while status == 0:
      control.send(sock, {'gone': 1})
      if not sock.recv(1, socket.MSG_PEEK):
        break
      supervisor = os.fork() if by_landlock else kernel.fork_into(_NAMESPACES)
      if supervisor == 0:
        job.supervise(sock, settings)
      status = os.waitpid(supervisor, 0)[1]  # Of a namespace's first process: returns when the namespace is empty.
      processes.kill_descendants(os.getpid())  # Nothing, unless the supervisor itself was killed.
      with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
          continue
  if by_landlock:
    processes.remove_folder(settings['box'])
