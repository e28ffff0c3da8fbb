"""Another implementation, measured beside ours: a script in its own interpreter, which does a piece of work per line."""

import os
import pathlib
import subprocess
import sys


def python() -> str:
  """The interpreter that the environment variable PEERS_PYTHON names, or this one."""
  return os.environ.get('PEERS_PYTHON') or sys.executable


def has(module: str) -> bool:
  """Whether that interpreter can import a module."""
  return not subprocess.run([python(), '-c', f'import {module}'], capture_output=True, check=False).returncode


class Peer:
  """Calling it does one piece of work of a script of this folder; the process lives as long as the context."""

  def __init__(self, script: str, *arguments: str):
    # -P: a file of this folder may have the name of a module that the script's libraries import.
    self._command = [python(), '-P', str(pathlib.Path(__file__).with_name(script)), *arguments]

  def __enter__(self) -> 'Peer':
    pipes = {'stdin': subprocess.PIPE, 'stdout': subprocess.PIPE}
    self._process = subprocess.Popen(self._command, text=True, bufsize=1, **pipes)
    return self

  def __call__(self) -> None:
    self._process.stdin.write('\n')
    if not self._process.stdout.readline():
      raise RuntimeError(f'{self._command[2]} ended with status {self._process.wait()}')

  def __exit__(self, *raised):
    self._process.stdin.close()
    self._process.wait()
