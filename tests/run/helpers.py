"""Small runs of the real commands: rows and a model so small that a run takes seconds, and what a run leaves behind.

All test processes share one folder: a run folder with rows and a finished `pretrain`, to be copied, and an uninterrupted
`anneal` to compare with.
"""

import concurrent.futures
import contextlib
import dataclasses
import fcntl
import hashlib
import json
import pathlib
import shutil
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from iquest_jax import lease
from iquest_jax.checkpoint.store import Checkpoints
from iquest_jax.data.rows import manifest, packing
from iquest_jax.errors import RunStopped, UserError
from iquest_jax.run_folder import RunFolder, StageFolder
from iquest_jax.text.example import Example
from iquest_jax.text.tokenizer import Tokenizer
from iquest_jax.train import metrics

from tests.processes import Commands, finish
from tests.programs.small_chain import MODEL
from tests.small_rows import write_manifest, write_segment

VOCAB, CONTEXT, STEPS, SAVE_EVERY, EVAL_EVERY = MODEL['vocab'], 32, 12, 3, 6
SOURCES = ('code', 'facts', 'web_text')
MIXTURE = ((0, (('code', 3.0), ('web_text', 1.0))), (5, (('facts', 1.0), ('code', 1.0))))
# What differs from the stage's tiny size, and what a test may change.
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
  """What all tests share.

  Attributes:
    template: a run folder with tokenizer, rows of pretrain and anneal, and a finished pretrain.
    straight: the same with a finished anneal that nothing interrupted, all its checkpoints, and a trace of steps 3 and 4.
  """

  folder: pathlib.Path
  commands: Commands

  @property
  def template(self) -> pathlib.Path:
    return self.folder / 'template'

  @property
  def straight(self) -> pathlib.Path:
    return self.folder / 'straight'

  @property
  def start(self):
    return self.commands.start

  @property
  def run(self):
    return self.commands.run

  def copy(self, to: pathlib.Path) -> pathlib.Path:
    """A copy of the template that a test may change."""
    return shutil.copytree(self.template, to / 'run')


def shared_folder(folder: pathlib.Path, commands: Commands) -> Shared:
  """Fills the shared folder in the first test process that asks; the others wait for it."""
  folder.mkdir(exist_ok=True)
  shared = Shared(folder, commands)
  with locked(folder / 'lock'):
    if not (folder / 'made').exists():
      write_tokenizer(shared.template)
      for stage in ('pretrain', 'anneal'):
        write_rows(shared.template, stage, CONTEXT, SOURCES)
      shared.run(train('pretrain', shared.template, **{'train.steps': 3}))
      shutil.copytree(shared.template, shared.straight)
      # Traced, so that every run which ends like it also shows that a trace changes nothing.
      shared.run(train('anneal', shared.straight, **{'checkpoint.keep': 100, 'log.profile': (3, 4)}))
      (folder / 'made').touch()
  return shared


@contextlib.contextmanager
def locked(path: pathlib.Path) -> Iterator[None]:
  with open(path, 'w') as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    yield


def overrides(**changes: Any) -> list[str]:
  """SMALL with changes, as flags; values are Python literals, and None removes a flag."""
  kept = {key: value for key, value in (SMALL | changes).items() if value is not None}
  return [f'--exp.{key}={value}' for key, value in kept.items()]


def train(stage: str, workdir: pathlib.Path, size: str = 'tiny', **changes: Any) -> list[str]:
  """The arguments of python that train a small stage."""
  return ['-m', 'launch.tpu', f'--exp={stage}:size={size}', f'--workdir={workdir}', *overrides(**changes)]


def killed_at(
    place: str, count: int, command: Sequence[str], delay: float = 0.0, number: int = signal.SIGKILL
) -> list[str]:
  """The command, which kills itself as `kill -9` does, or sends itself another signal.

  Args:
    place: 'module:function' whose call is the moment.
    count: which call of it.
    command: arguments of python: '-m', 'launch.x', flags.
    delay: seconds from the call to the kill, during which its other threads continue.
  """
  return ['-m', 'tests.programs.killed', str(int(number)), place, str(count), str(delay), *command]


def recorded(file: pathlib.Path, command: Sequence[str]) -> list[str]:
  """The command, which also writes down the rows it reads."""
  return ['-m', 'tests.programs.recorded', str(file), *command]


# Packages that training never imports.
HEAVY = {'tensorflow', 'seqio', 'tf_keras', 'keras', 'torch'}


def importing(command: Sequence[str]) -> list[str]:
  """The command, which also prints what it has imported; see `imported`."""
  return ['-m', 'tests.programs.imports', *command]


def imported(done: Any) -> set[str]:
  """The modules that a command in `importing` has imported, given its result."""
  return set(json.loads(done.stdout.splitlines()[-1]))


def kill_when(process, moment, seconds: float = 120) -> None:
  """Kills the process as soon as `moment()` is true; fails if it ends before."""
  deadline = time.monotonic() + seconds
  while not moment():
    assert process.poll() is None, f'it ended before it was killed\n{process.communicate()[1]}'
    assert time.monotonic() < deadline, 'the moment never came'
    time.sleep(0.0005)
  process.send_signal(signal.SIGKILL)
  finish(process, -signal.SIGKILL)


def holders(folder: StageFolder, count: int) -> int:
  """How many of so many starts at the same time get the lease of a stage."""
  together, ended = threading.Barrier(count, timeout=60), threading.Barrier(count, timeout=60)

  def start(_):
    together.wait()
    try:
      with lease.held(folder) as held:
        time.sleep(lease.SETTLE_S)
        held.check()
        ended.wait()
        return True
    except (UserError, RunStopped):  # refused, or replaced before it saved anything
      ended.wait()
      return False

  with concurrent.futures.ThreadPoolExecutor(count) as starts:
    return sum(starts.map(start, range(count)))


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
  """Writes rows of random documents whose token frequencies differ widely, so that a few steps learn something.

  Args:
    workdir: with its tokenizer; rows of the stage's other sources are kept.
    weight: of every token in the loss.
  """
  folder = workdir / 'rows' / stage
  chance = 1.0 / np.arange(1, VOCAB - 10)

  def segment(source: str, split: str, limit: int) -> dict[str, Any]:
    seed = int.from_bytes(hashlib.sha256(f'{stage} {source} {split}'.encode()).digest()[:4], 'big')
    random = np.random.default_rng(seed)

    def documents():
      for length in random.integers(3, context, 20 * limit):
        tokens = random.choice(len(chance), length, p=chance / chance.sum()).astype(np.int32)
        yield Example(tokens, np.full(length, weight, np.float32))

    rows = list(packing.pack(documents(), context, False, packing.Counts()))[:limit]
    return write_segment(folder, source, split, rows, context)

  kept = manifest.read(folder).get('sources', {})
  made = {source: {split: kept[source][split]['segments'] for split in manifest.SPLITS} for source in kept}
  for source in sources:
    made[source] = {split: [segment(source, split, limit)] for split, limit in (('train', count), ('held_out', 4))}
  write_manifest(folder, made, context, Tokenizer.load(RunFolder(workdir).tokenizer).fingerprint)


def arrays(folder: pathlib.Path) -> dict[str, np.ndarray]:
  """{path: array} of a checkpoint item, params or optimizer, as stored on disk."""
  handler = ocp.PyTreeCheckpointHandler()
  as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), handler.metadata(folder).tree)
  tree = handler.restore(folder, args=ocp.args.PyTreeRestore(restore_args=as_numpy))
  return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def state(run_dir: pathlib.Path, step: int) -> dict[str, np.ndarray]:
  """Every array of a checkpoint, after its files are verified."""
  Checkpoints(StageFolder(run_dir)).verify(step)
  folder = run_dir / 'checkpoints' / str(step)
  return {item + path: leaf for item in ('params', 'optimizer') for path, leaf in arrays(folder / item).items()}


def assert_same_state(run_dir: pathlib.Path, other: pathlib.Path, step: int) -> None:
  """Asserts that parameters and optimizer state of two checkpoints are bit-identical."""
  left, right = state(run_dir, step), state(other, step)
  assert left.keys() == right.keys() and any('opt_state' in path for path in left)
  for path, leaf in left.items():
    same = leaf.dtype == right[path].dtype and leaf.shape == right[path].shape
    assert same and leaf.tobytes() == right[path].tobytes(), f'{path} of step {step}'


def records(run_dir: pathlib.Path) -> list[str]:
  """The lines of metrics.jsonl without times and rates; as text, so that floats are compared bit for bit."""
  kept = []
  for line in (run_dir / 'metrics.jsonl').read_text().splitlines():
    kept.append(json.dumps({key: value for key, value in json.loads(line).items() if key not in metrics.TIMES}))
  return kept


def assert_same_run(run_dir: pathlib.Path, other: pathlib.Path, steps: int = STEPS) -> None:
  """Asserts that two finished stages have the same last checkpoint, metrics and lineage, apart from times."""
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
  """{(kind, step): loss} of metrics.jsonl, in file order."""
  return {(record['kind'], record['step']): record['loss'] for record in metrics.read(StageFolder(run_dir))}


def traced(run_dir: pathlib.Path) -> dict[str, list[int]]:
  """{file: steps marked in it} of the traces in a stage's folder."""
  found = {}
  for path in (run_dir / 'profile').rglob('*.xplane.pb'):
    planes = jax.profiler.ProfileData.from_file(str(path)).planes
    events = [event for plane in planes for line in plane.lines for event in line.events if event.name == 'train']
    found[str(path.relative_to(run_dir / 'profile'))] = sorted({dict(event.stats)['step_num'] for event in events})
  return found


def files(folder: pathlib.Path) -> dict[str, str]:
  """{path: SHA-256} of every file except TensorBoard's events."""
  return {
      str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
      for path in sorted(folder.rglob('*'))
      if path.is_file() and 'events' not in path.parts
  }
