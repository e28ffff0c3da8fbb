"""`python -m tests.programs.server FD`: forks a process for every command it is sent, with the training imports done.

A short run spends a third of its time on imports, and a refused one nearly all of it. Requests come over the socket FD,
each with three file descriptors: stdout, stderr, and a pipe that receives the pid and later the exit status, one per line.
jax starts its backend after the fork and so obeys the XLA_FLAGS of the request; variables that are read on import keep
the values the server was started with.
"""

import gc
import importlib
import json
import os
import signal
import socket
import sys

from tests.programs import wrap

IMPORTS = ('experiments.common', 'iquest_jax.infer.engine', 'iquest_jax.train.loop', 'launch.command')


def serve(requests: socket.socket) -> dict:
  """Answers requests until the socket closes; returns, in each forked process, the request it is to run."""
  signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # leaves no zombies
  while True:
    message, descriptors, _, _ = socket.recv_fds(requests, 1 << 16, 3)
    if not message:
      sys.exit()
    *streams, status = descriptors
    if os.fork() == 0:
      return _watched(json.loads(message), streams, status)
    for descriptor in descriptors:
      os.close(descriptor)


def _watched(request: dict, streams: list[int], status: int) -> dict:
  """Forks the process of a command and returns only in it; the parent waits for it and reports."""
  signal.signal(signal.SIGCHLD, signal.SIG_DFL)
  pid = os.fork()
  if pid:
    os.write(status, b'%d\n' % pid)
    os.write(status, b'%d\n' % os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    os._exit(0)
  for own, stream in zip((1, 2), streams):
    os.dup2(stream, own)
  for descriptor in (*streams, status):
    os.close(descriptor)
  return request


if __name__ == '__main__':
  for name in IMPORTS:
    importlib.import_module(name)
  gc.collect()
  gc.freeze()  # else each process would look through all of these modules as it ends
  with socket.socket(fileno=int(sys.argv[1])) as listening:
    chosen = serve(listening)
  os.environ.update(chosen['environment'])
  wrap.run(chosen['arguments'])
