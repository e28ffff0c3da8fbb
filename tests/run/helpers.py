"""Runs of the real commands in processes of their own, on rows and a model so small that a run takes seconds.

One folder is shared by all test processes: a run folder with rows and a finished `pretrain`, to be copied, an
uninterrupted `anneal` to compare with, and JAX's compilation cache, without which each run would compile for ten seconds.
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from iquest_jax.checkpoint.store import Checkpoints
from iquest_jax.data.rows import manifest, packing
from iquest_jax.data.rows.write import write_source
from iquest_jax.run_folder import RunFolder, StageFolder, write_whole
from iquest_jax.text.example import Example
from iquest_jax.text.tokenizer import Tokenizer
from iquest_jax.train import metrics

ROOT = pathlib.Path(__file__).resolve().parents[2]
VOCAB, CONTEXT, STEPS, SAVE_EVERY, EVAL_EVERY = 320, 32, 12, 3, 6
MODEL = dict(vocab=VOCAB, d_model=32, d_ff=64, layers=2, heads=2, kv_heads=2, head_dim=16)
SOURCES = ('code', 'facts', 'web_text')
MIXTURE = ((0, (('code', 3.0), ('web_text', 1.0))), (5, (('facts', 1.0), ('code', 1.0))))
# What a test may change; everything else of a stage is its tiny size's own.
SMALL = {
    **{f'model.{name}': value for name, value in MODEL.items()},
    'data.context': CONTEXT,
    'data.mixture': MIXTURE,
    'train.steps': STEPS,
    'train.batch_rows': 8,
    'checkpoint.every': SAVE_EVERY,
    'eval.every': EVAL_EVERY,
    'eval.rows': 2,
    'log.every': 1,
}


@dataclasses.dataclass(frozen=True)
class Shared:
  """What all tests share; see the module.

  Attributes:
    template: a run folder with tokenizer, rows of pretrain and anneal, and a finished pretrain.
    straight: the same with a finished anneal that nothing interrupted, and all its checkpoints.
    cache: JAX's compilation cache.
  """

  folder: pathlib.Path

  @property
  def template(self) -> pathlib.Path:
    return self.folder / 'template'

  @property
  def straight(self) -> pathlib.Path:
    return self.folder / 'straight'

  @property
  def cache(self) -> pathlib.Path:
    return self.folder / 'cache'

  def copy(self, to: pathlib.Path) -> pathlib.Path:
    """A run folder of a test's own, made from the template."""
    return shutil.copytree(self.template, to / 'run')

  def environment(self, devices: int = 1, **more: str) -> dict[str, str]:
    """Variables of a process that sees so many CPU devices."""
    return os.environ | {
        'JAX_PLATFORMS': 'cpu',
        'XLA_FLAGS': f'--xla_force_host_platform_device_count={devices}',
        'JAX_COMPILATION_CACHE_DIR': str(self.cache),
        'JAX_PERSISTENT_COMPILATION_CACHE_MIN_COMPILE_TIME_SECS': '0',
        **more,
    }

  def start(self, arguments: Sequence[str], devices: int = 1, **more: str) -> subprocess.Popen:
    """Starts `python ARGUMENTS` from the repository's root."""
    return subprocess.Popen(
        [sys.executable, *arguments], cwd=ROOT, env=self.environment(devices, **more), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip

  def run(self, arguments: Sequence[str], devices: int = 1, status: int = 0) -> subprocess.CompletedProcess:
    """Runs `python ARGUMENTS` to its end and expects this exit status."""
    return finish(self.start(arguments, devices), status)


def finish(process: subprocess.Popen, status: int = 0) -> subprocess.CompletedProcess:
  """Waits for a process and expects this exit status."""
  try:
    output, errors = process.communicate(timeout=300)
  finally:
    process.kill()
  assert process.returncode == status, f'status {process.returncode}, not {status}\n{output}\n{errors}'
  return subprocess.CompletedProcess(process.args, status, output, errors)


def shared_folder(tmp_path_factory) -> Shared:
  """Makes the shared folder, in the first test process that asks; the others wait for it."""
  base = tmp_path_factory.getbasetemp()
  folder = (base.parent if os.environ.get('PYTEST_XDIST_WORKER') else base) / 'shared_runs'
  folder.mkdir(exist_ok=True)
  shared = Shared(folder)
  with locked(folder / 'lock'):
    if not (folder / 'made').exists():
      write_tokenizer(shared.template)
      for stage in ('pretrain', 'anneal'):
        write_rows(shared.template, stage, CONTEXT, SOURCES)
      shared.run(train('pretrain', shared.template, **{'train.steps': 3}))
      shutil.copytree(shared.template, shared.straight)
      shared.run(train('anneal', shared.straight, **{'checkpoint.keep': 100}))
      (folder / 'made').touch()
  return shared


@contextlib.contextmanager
def locked(path: pathlib.Path) -> Iterator[None]:
  with open(path, 'w') as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    yield


def overrides(**changes: Any) -> list[str]:
  """SMALL with changes, as flags; a value is written as Python writes it, a change of None takes a flag away."""
  kept = {key: value for key, value in (SMALL | changes).items() if value is not None}
  return [f'--exp.{key}={value}' for key, value in kept.items()]


def train(stage: str, workdir: pathlib.Path, size: str = 'tiny', **changes: Any) -> list[str]:
  """The arguments of python that train a small stage."""
  return ['-m', 'launch.tpu', f'--exp={stage}:size={size}', f'--workdir={workdir}', *overrides(**changes)]


# Programs for `python -c`: replaces functions, then runs a module of launch with the flags that follow its name.
_REPLACE = """
import importlib, itertools, json, hashlib, os, signal, sys, time

def replace(place, around):
  module, _, name = place.partition(':')
  owner = importlib.import_module(module)
  *path, name = name.split('.')
  for part in path:
    owner = getattr(owner, part)
  setattr(owner, name, around(getattr(owner, name)))
"""
_COMMAND = """
import runpy
sys.argv = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)
"""
_KILLED = """
def deadly(inner):
  calls = itertools.count(1)
  def wrap(*args, **kwargs):
    if next(calls) == {count}:
      time.sleep({delay})
      os.kill(os.getpid(), signal.SIGKILL)
    return inner(*args, **kwargs)
  return wrap
replace({place!r}, deadly)
"""
# One line a step with the hash of every row this process reads.
_RECORDED = """
def recording(inner):
  def wrap(self, start_step, end_step, rows):
    with open({file!r}, 'a') as file:
      for step, batch in enumerate(inner(self, start_step, end_step, rows), start_step):
        text = [b''.join(batch[name][i].tobytes() for name in sorted(batch)) for i in range(len(rows))]
        hashes = {{int(row): hashlib.sha256(part).hexdigest() for row, part in zip(rows, text)}}
        file.write(json.dumps([step, hashes]) + '\\n')
        file.flush()
        yield batch
  return wrap
replace('iquest_jax.data.loader:Loader.numpy_batches', recording)
"""


def _wrapped(wrapper: str, command: Sequence[str]) -> list[str]:
  """The command, '-m' module or '-c' program, with what `wrapper` replaces."""
  kind, program, *flags = command
  if kind == '-m':
    return ['-c', _REPLACE + wrapper + _COMMAND, program, *flags]
  return ['-c', _REPLACE + wrapper + program.removeprefix(_REPLACE), *flags]


def killed_at(place: str, count: int, command: Sequence[str], delay: float = 0.0) -> list[str]:
  """The command, whose process kills itself as kill -9 does.

  Args:
    place: 'module:function' whose call is the moment.
    count: which call of it.
    command: arguments of python: '-m', 'launch.x', flags.
    delay: seconds from the call to the kill; its other threads go on meanwhile.
  """
  return _wrapped(_KILLED.format(place=place, count=count, delay=delay), command)


def recorded(file: pathlib.Path, command: Sequence[str]) -> list[str]:
  """The command, which also writes down the rows it trains on."""
  return _wrapped(_RECORDED.format(file=str(file)), command)


def kill_when(process: subprocess.Popen, moment, seconds: float = 120) -> None:
  """Kills -9 as soon as `moment()` is true; an error where the process ends before it."""
  deadline = time.monotonic() + seconds
  while not moment():
    assert process.poll() is None, f'it ended before it was killed\n{process.communicate()[1]}'
    assert time.monotonic() < deadline, 'the moment never came'
    time.sleep(0.0005)
  process.send_signal(signal.SIGKILL)
  finish(process, -signal.SIGKILL)


def write_tokenizer(workdir: pathlib.Path, text: str = 'def add(a, b):\n  return a + b\n') -> str:
  """Writes the tokenizer of a run folder; returns its fingerprint."""
  path = RunFolder(workdir).tokenizer
  path.parent.mkdir(parents=True, exist_ok=True)
  tokenizer = Tokenizer.train([text], VOCAB)
  tokenizer.save(path)
  return tokenizer.fingerprint


def write_rows(
    workdir: pathlib.Path, stage: str, context: int, sources: Sequence[str], count: int = 60, weight: float = 1.0
) -> None:
  """Writes rows of made-up documents, some tokens far more frequent than others, so that a few steps learn something.

  Args:
    workdir: with its tokenizer; other sources of the stage that are there stay.
    weight: of every token in the loss.
  """
  folder = workdir / 'rows' / stage
  chance = 1.0 / np.arange(1, VOCAB - 10)

  def packed(source: str, split: str, limit: int):
    seed = int.from_bytes(hashlib.sha256(f'{stage} {source} {split}'.encode()).digest()[:4], 'big')
    random = np.random.default_rng(seed)

    def documents():
      for length in random.integers(3, context, 20 * limit):
        tokens = random.choice(len(chance), length, p=chance / chance.sum()).astype(np.int32)
        yield Example(tokens, np.full(length, weight, np.float32))

    return lambda counts: list(packing.pack(documents(), context, False, counts))[:limit]

  made = {}
  if (folder / manifest.MANIFEST).exists():
    made = json.loads((folder / manifest.MANIFEST).read_text())['sources']
  for source in sources:
    splits = {'train': packed(source, 'train', count), 'held_out': packed(source, 'held_out', 4)}
    made[source] = write_source(folder, source, context, '', splits)
  tokenizer = Tokenizer.load(RunFolder(workdir).tokenizer).fingerprint
  write_whole(folder / manifest.MANIFEST, manifest.to_json({'tokenizer': tokenizer, 'context': context, 'sources': made}))


def arrays(folder: pathlib.Path) -> dict[str, np.ndarray]:
  """{path: array} of a checkpoint item, params or optimizer, as it lies on disk."""
  handler = ocp.PyTreeCheckpointHandler()
  as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), handler.metadata(folder).tree)
  tree = handler.restore(folder, args=ocp.args.PyTreeRestore(restore_args=as_numpy))
  return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def state(run_dir: pathlib.Path, step: int) -> dict[str, np.ndarray]:
  """Every array of a checkpoint, its files checked first."""
  Checkpoints(StageFolder(run_dir)).verify(step)
  folder = run_dir / 'checkpoints' / str(step)
  return {item + path: leaf for item in ('params', 'optimizer') for path, leaf in arrays(folder / item).items()}


def assert_same_state(run_dir: pathlib.Path, other: pathlib.Path, step: int) -> None:
  """Parameters and optimizer state of two checkpoints are equal to the bit."""
  left, right = state(run_dir, step), state(other, step)
  assert left.keys() == right.keys() and any('opt_state' in path for path in left)
  for path, leaf in left.items():
    same = leaf.dtype == right[path].dtype and leaf.shape == right[path].shape
    assert same and leaf.tobytes() == right[path].tobytes(), f'{path} of step {step}'


def records(run_dir: pathlib.Path) -> list[str]:
  """The lines of metrics.jsonl, times and rates aside; as text, so that floats are compared to the bit."""
  kept = []
  for line in (run_dir / 'metrics.jsonl').read_text().splitlines():
    kept.append(json.dumps({key: value for key, value in json.loads(line).items() if key not in metrics.TIMES}))
  return kept


def assert_same_run(run_dir: pathlib.Path, other: pathlib.Path, steps: int = STEPS) -> None:
  """Two finished stages: last checkpoint, metrics and lineage are the same, times aside."""
  assert_same_state(run_dir, other, steps)
  assert records(run_dir) == records(other)
  names = ('stage', 'parent', 'start_fingerprint', 'end_fingerprint', 'steps', 'tokens_seen', 'finished', 'transform',
           'rows_manifest_hash')  # fmt: skip
  for folder in (run_dir, other):
    stored = json.loads((folder / 'lineage.json').read_text())
    assert stored == Checkpoints(StageFolder(folder)).lineage(steps) and stored['finished']
  left, right = (json.loads((folder / 'lineage.json').read_text()) for folder in (run_dir, other))
  assert {name: left[name] for name in names} == {name: right[name] for name in names}


def steps_of(run_dir: pathlib.Path) -> list[int]:
  return Checkpoints(StageFolder(run_dir)).steps()


def losses(run_dir: pathlib.Path) -> dict[tuple[str, int], float]:
  """{(kind, step): loss} of metrics.jsonl, in its order."""
  return {(record['kind'], record['step']): record['loss'] for record in metrics.read(StageFolder(run_dir))}


def files(folder: pathlib.Path) -> dict[str, str]:
  """{path: SHA-256} of every file, TensorBoard's events aside."""
  return {
      str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
      for path in sorted(folder.rglob('*'))
      if path.is_file() and 'events' not in path.parts
  }


def refusal(done: subprocess.CompletedProcess) -> str:
  """The one line a command ended with: after log lines with their time, and nothing else, on stderr."""
  *before, last = done.stderr.splitlines()
  assert last.startswith('error: '), done.stderr
  assert all(re.match(r'\d\d:\d\d:\d\d ', line) for line in before), done.stderr
  return last.removeprefix('error: ')
