"""Proves that reinforcement learning raises the held-out pass rate: three seeds each on a dense and on a looped chain.

  python -m tests.prove.rl runs/prove_rl        (make prove-rl)

Trains each chain as far as sft_thinking, in <folder>/<size>, then rl_thinking per seed in <folder>/<size>_seed_<n>, whose
parent, tokenizer and problems are links into the chain. Prints the table, and exits with 1 unless all six pass rates rise.
Killed and started again, it resumes; what is finished is not run again.
"""

import dataclasses
import pathlib
import signal
import subprocess
import sys

from experiments import chain
from iquest_jax.run_folder import RunFolder
from iquest_jax.train import metrics

SIZES, SEEDS = ('tiny', 'tiny_loop'), (1, 2, 3)
PARENT, STAGE = 'sft_thinking', 'rl_thinking'
# A rise of the pass rate, in percentage points, that shows in any curve.
VISIBLE = 15.0


@dataclasses.dataclass(frozen=True)
class Result:
  """What reinforcement learning did to the held-out problems.

  Attributes:
    before, after: pass rates in percent, of the parent's parameters and at the last step.
    solved_before, solved_after: percent of the problems whose tests all pass.
    minutes: of its steps, without evaluation.
  """

  size: str
  seed: int
  before: float
  after: float
  solved_before: float
  solved_after: float
  steps: int
  minutes: float

  @property
  def rise(self) -> float:
    return self.after - self.before


def main(folder: pathlib.Path) -> int:
  # Ends the command that is running, too.
  signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
  results = []
  for size in SIZES:
    _train_chain(folder / size, size)
    for seed in SEEDS:
      workdir = _linked(folder / size, folder / f'{size}_seed_{seed}')
      _run('launch.tpu', f'--exp={STAGE}:size={size}', f'--workdir={workdir}', f'--exp.seed={seed}')
      results.append(read(workdir, size, seed))
      print(table(results), flush=True)
  return 0 if all(one.rise > 0 for one in results) else 1


def _train_chain(workdir: pathlib.Path, size: str) -> None:
  stages = [PARENT]
  while parent := chain.parent(stages[0], size):
    stages.insert(0, parent)
  if not RunFolder(workdir).stage(PARENT).lineage.exists():  # it is copied there when a stage ends
    _run('launch.prepare', f'--size={size}', f'--workdir={workdir}')
  for stage in stages:
    _run('launch.tpu', f'--exp={stage}:size={size}', f'--workdir={workdir}')


def _linked(parent: pathlib.Path, workdir: pathlib.Path) -> pathlib.Path:
  """A run folder that reads everything but its own stage from `parent`."""
  workdir.mkdir(exist_ok=True)
  for name in ('tokenizer', 'corpus', PARENT):
    if not (workdir / name).is_symlink():
      (workdir / name).symlink_to((parent / name).absolute())
  return workdir


def _run(module: str, *flags: str) -> None:
  """Runs a command to its end; ends with its status if that is not 0."""
  status = subprocess.run([sys.executable, '-m', module, *flags], check=False).returncode
  if status:
    sys.exit(status)


def read(workdir: pathlib.Path, size: str, seed: int) -> Result:
  """The result of a finished stage, from its metrics."""
  records = list(metrics.read(RunFolder(workdir).stage(STAGE)))
  evaluated = [record for record in records if record['kind'] == 'eval']
  first, last = evaluated[0], evaluated[-1]
  assert first['step'] == 0 < last['step'], f'{workdir}: the evaluations at the first and at the last step are missing'
  seconds = sum(record['step_seconds'] for record in records if record['kind'] == 'train')
  rates = [100 * record[name] for name in ('pass_rate', 'solved') for record in (first, last)]
  return Result(size, seed, *rates, last['step'], seconds / 60)


def table(results: list[Result]) -> str:
  """The results in Markdown, with a last line that counts them."""
  lines = [
      '',
      '| size | seed | pass rate before, % | after, % | rise, points | solved, % | steps | minutes |',
      '|---|--:|--:|--:|--:|--:|--:|--:|',
  ]
  for one in results:
    solved = f'{one.solved_before:.1f} -> {one.solved_after:.1f}'
    lines.append(
        f'| {one.size} | {one.seed} | {one.before:.1f} | {one.after:.1f} | {one.rise:+.1f} | {solved} | {one.steps} | '
        f'{one.minutes:.1f} |'
    )
  rose, visibly = (sum(one.rise > least for one in results) for least in (0, VISIBLE - 1e-9))
  lines += ['', f'{rose} of {len(results)} rose, {visibly} of them by at least {VISIBLE:g} points.']
  return '\n'.join(lines)


if __name__ == '__main__':
  sys.exit(main(pathlib.Path(sys.argv[1]).absolute()))
