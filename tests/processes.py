"""Commands in processes of their own: started, awaited, and what they ended with."""

import importlib.metadata
import json
import os
import pathlib
import re
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence

ROOT = pathlib.Path(__file__).resolve().parents[1]

_JAX = tuple(map(int, importlib.metadata.version('jaxlib').split('.')[:2]))


def xla_flags(devices: int) -> str:
  """XLA_FLAGS of a process with so many CPU devices that compiles fast, since small programs spend most time compiling."""
  flags = f'--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0'
  # XLA's older emitters compile a train step in half the time. Later versions have no such flag and refuse unknown ones.
  return flags + ' --xla_cpu_use_fusion_emitters=false' if _JAX < (0, 11) else flags


class Forked:
  """A command forked by the server (tests/programs/server.py), with the interface of subprocess.Popen."""

  def __init__(self, args: Sequence[str], environment: dict[str, str], server: socket.socket):
    self.args, self.returncode = args, None
    self._streams = [tempfile.TemporaryFile('w+') for _ in range(2)]
    status, reports = os.pipe()
    self._status = open(status, 'rb', buffering=0)
    request = json.dumps({'arguments': args, 'environment': environment}).encode()
    socket.send_fds(server, [request], [*(stream.fileno() for stream in self._streams), reports])
    os.close(reports)
    self.pid = int(self._status.readline())

  def poll(self, timeout: float | None = 0) -> int | None:
    if self.returncode is None and select.select([self._status], [], [], timeout)[0]:
      self.returncode = int(self._status.readline())
    return self.returncode

  def communicate(self, timeout: float | None = None) -> tuple[str, str]:
    if self.poll(timeout) is None:
      raise subprocess.TimeoutExpired(self.args, timeout)
    for stream in self._streams:
      stream.seek(0)
    return tuple(stream.read() for stream in self._streams)

  def send_signal(self, number: int) -> None:
    if self.poll() is None:
      os.kill(self.pid, number)

  def kill(self) -> None:
    self.send_signal(signal.SIGKILL)


class Commands:
  """Starts `python -m MODULE FLAGS` from the repository's root on CPU devices, with one compilation cache for all."""

  def __init__(self, cache: pathlib.Path):
    self._cache, self._requests, self._server = cache, None, None

  def environment(self, devices: int = 1, **more: str) -> dict[str, str]:
    """Variables of a process that sees so many CPU devices."""
    return os.environ | {
        'JAX_PLATFORMS': 'cpu',
        'XLA_FLAGS': xla_flags(devices),
        'JAX_COMPILATION_CACHE_DIR': str(self._cache),
        'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
        **more,
    }

  def start(self, arguments: Sequence[str], devices: int = 1, fresh: bool = False, **more: str):
    """Starts a command; a fresh one has an interpreter of its own, and so one with variables (jax reads some on import)."""
    environment = self.environment(devices, **more)
    if fresh or more:
      return subprocess.Popen(
          [sys.executable, *arguments], cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
      )
    if not self._server:
      self._requests, theirs = socket.socketpair()
      self._server = subprocess.Popen(
          [sys.executable, '-m', 'tests.programs.server', str(theirs.fileno())],
          cwd=ROOT, env=environment, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL,
      )  # fmt: skip
      theirs.close()
    return Forked(arguments, environment, self._requests)

  def run(self, arguments: Sequence[str], devices: int = 1, status: int = 0, **how) -> subprocess.CompletedProcess:
    """Runs a command to its end and expects this exit status."""
    return finish(self.start(arguments, devices, **how), status)

  def close(self) -> None:
    """Ends the server."""
    if self._server:
      self._requests.close()
      self._server.wait()


def finish(process, status: int = 0) -> subprocess.CompletedProcess:
  """Waits for a process and expects this exit status."""
  try:
    output, errors = process.communicate(timeout=300)
  finally:
    process.kill()
  assert process.returncode == status, f'status {process.returncode}, not {status}\n{output}\n{errors}'
  return subprocess.CompletedProcess(process.args, status, output, errors)


def refusal(done: subprocess.CompletedProcess) -> str:
  """The error line that a command ends with; before it, stderr holds only log lines, which begin with the time."""
  *before, last = done.stderr.splitlines()
  assert last.startswith('error: '), done.stderr
  assert all(re.match(r'\d\d:\d\d:\d\d ', line) for line in before), done.stderr
  return last.removeprefix('error: ')
