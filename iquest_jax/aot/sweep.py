"""Compiles each distinct program in its own process and records what an estimate needs, one JSON line per program."""

import hashlib
import importlib.util
import json
import os
import pathlib
import subprocess
import sys

from ml_collections import ConfigDict

from iquest_jax.aot import program
from iquest_jax.aot.topology import Slice
from iquest_jax.config import to_json
from iquest_jax.errors import UserError

# The sections of a configuration that shape the compiled step. Of `optim` it is only moment_dtype: rates are constants.
_COMPILED = ('model', 'mesh', 'train', 'data')


def key(config: ConfigDict, slice_: Slice) -> str:
  """Identifies the compiled program: equal for stages whose train steps differ only in constants."""
  settings = json.loads(to_json(config))
  parts = {section: settings[section] for section in _COMPILED}
  parts['train'] = {name: value for name, value in parts['train'].items() if name != 'steps'}
  parts['data'] = {'context': parts['data']['context']}
  parts['moments'], parts['slice'] = settings['optim']['moment_dtype'], slice_.name
  return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def compile_alone(config: ConfigDict, slice_: Slice) -> dict:
  """The measure of a stage (aot.program.measure), taken in its own process.

  Raises:
    UserError: libtpu is missing, or the configuration does not fit the slice.
    RuntimeError: the process failed otherwise; has the end of its stderr.
  """
  if importlib.util.find_spec('libtpu') is None:
    raise UserError('aot: libtpu is not installed; it is the extra "tpu": pip install -e .[tpu]')
  done = subprocess.run(
      [sys.executable, '-m', program.__name__],
      input=json.dumps({'config': json.loads(to_json(config)), 'topology': slice_.name}),
      capture_output=True,
      text=True,
      env=os.environ | program.ENVIRONMENT,
  )
  if done.returncode == 2 and done.stderr.strip().splitlines()[-1].startswith('error: '):
    raise UserError(done.stderr.strip().splitlines()[-1].removeprefix('error: '))
  if done.returncode:
    raise RuntimeError(f'aot: the compile process exited with status {done.returncode}:\n{done.stderr[-4000:]}')
  return json.loads(done.stdout.splitlines()[-1])


class Results:
  """Measures by key, in a file of JSON lines. A line is appended after each compile, so an interrupted sweep resumes."""

  def __init__(self, path: pathlib.Path):
    self._path = path
    lines = path.read_text().splitlines() if path.exists() else []
    self._known = {line['key']: line['measure'] for line in map(json.loads, lines)}

  def get(self, config: ConfigDict, slice_: Slice) -> dict | None:
    """The recorded part of a measure; None if the program has not been compiled."""
    return self._known.get(key(config, slice_))

  def versions(self) -> list[str]:
    """The versions of jax and libtpu that compiled the recorded programs."""
    return sorted({f'jax {measure["jax"]}, libtpu {measure["libtpu"]}' for measure in self._known.values()})

  def add(self, config: ConfigDict, slice_: Slice, measure: dict) -> None:
    """Records what an estimate needs of a measure."""
    line = {'key': key(config, slice_), 'slice': slice_.name, 'measure': program.for_estimate(measure)}
    self._known[line['key']] = line['measure']
    self._path.parent.mkdir(parents=True, exist_ok=True)
    with open(self._path, 'a') as file:
      file.write(json.dumps(line) + '\n')
