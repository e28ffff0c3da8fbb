"""Compiles each distinct program in its own process and records what an estimate needs, one JSON line per program."""

import dataclasses
import hashlib
import importlib.util
import json
import os
import pathlib
import subprocess
import sys

from ml_collections import ConfigDict

from iquest_jax.aot import program
from iquest_jax.aot.decode import Plan
from iquest_jax.aot.topology import Slice
from iquest_jax.config import to_json
from iquest_jax.errors import UserError

# The sections of a configuration that shape the compiled step. Of `optim` it is only moment_dtype: rates are constants.
_COMPILED = ('model', 'mesh', 'train', 'data')
# Of these, what the loop reads and the step does not.
_OF_THE_LOOP = ('steps', 'skip_steps')


def key(config: ConfigDict, slice_: Slice) -> str:
  """Identifies the compiled train step: equal for stages whose steps differ only in constants."""
  settings = json.loads(to_json(config))
  parts = {section: settings[section] for section in _COMPILED}
  parts['train'] = {name: value for name, value in parts['train'].items() if name not in _OF_THE_LOOP}
  parts['data'] = {'context': parts['data']['context']}
  parts['moments'], parts['slice'] = settings['optim']['moment_dtype'], slice_.name
  return _hash(parts)


def decode_key(plan: Plan) -> str:
  """Identifies the compiled programs of a plan for decoding."""
  return _hash({'program': 'decode', **dataclasses.asdict(plan)})


def _hash(parts: dict) -> str:
  return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def compile_alone(config: ConfigDict, slice_: Slice, program_name: str = 'train', slots: int = 0, row: int = 0) -> dict:
  """The measure of a stage's train step, or those of decoding or of the health checks, taken in a process of its own.

  Args:
    program_name: train, decode or health.
    slots, row: slots per group, and tokens of a prefilled row, for decoding (aot.decode.plan).

  Raises:
    UserError: libtpu is missing, or the configuration does not fit the slice.
    RuntimeError: the process failed otherwise; has the end of its stderr.
  """
  if importlib.util.find_spec('libtpu') is None:
    raise UserError('aot: libtpu is not installed; it is the extra "tpu": pip install -e .[tpu]')
  request = {'topology': slice_.name, 'program': program_name, 'slots': slots, 'row': row}
  done = subprocess.run(
      [sys.executable, '-m', program.__name__],
      input=json.dumps(request | {'config': json.loads(to_json(config))}),
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

  def get(self, key: str) -> dict | None:
    """The recorded part of what was compiled under a key; None if nothing was."""
    return self._known.get(key)

  def versions(self) -> list[str]:
    """The versions of jax and libtpu that compiled the recorded programs."""
    measures = [each for measure in self._known.values() for each in ([measure] if 'jax' in measure else measure.values())]
    return sorted({f'jax {measure["jax"]}, libtpu {measure["libtpu"]}' for measure in measures})

  def add(self, key: str, slice_: Slice, measure: dict) -> None:
    """Records what an estimate needs of a measure, or of the measures of several programs by name."""
    if 'jax' in measure:
      recorded = program.for_estimate(measure)
    else:
      recorded = {name: program.for_estimate(each) for name, each in measure.items()}
    self._known[key] = recorded
    self._path.parent.mkdir(parents=True, exist_ok=True)
    with open(self._path, 'a') as file:
      file.write(json.dumps({'key': key, 'slice': slice_.name, 'measure': recorded}) + '\n')
