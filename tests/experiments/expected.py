"""What the docstring of an experiment says to expect, from experiments/aot/table.md and experiments/demo.json.

  python -m tests.experiments.expected [runs/tiny_loop]

rewrites these lines in every experiment; given the folder of a finished `make demo`, records its held-out losses first.
"""

import json
import pathlib
import re
import sys

from experiments import chain
from iquest_jax.run_folder import RunFolder

EXPERIMENTS = pathlib.Path(__file__).parents[2] / 'experiments'
TABLE, DEMO = EXPERIMENTS / 'aot/table.md', EXPERIMENTS / 'demo.json'
_LINES = re.compile(r'(?:^Expected .*\n)+', re.M)


def stated(stage: str) -> str:
  """The lines `Expected ...` in the docstring of a stage."""
  return _LINES.search((EXPERIMENTS / f'{stage}.py').read_text())[0]


def recorded(stage: str) -> str:
  """The same lines, written from the records."""
  cells = reversed(re.findall(r'^\| (\w+) \| ([\w, ]+) \| [\d.]+ GiB, ([\d.]+) s,', TABLE.read_text(), re.M))
  seconds = ', '.join(f'{size} {each}' for size, stages, each in cells if stage in stages.split(', '))
  losses = {size: stages[stage] for size, stages in json.loads(DEMO.read_text()).items() if stage in stages}
  falls = ', '.join(f'{size} {first:.3f} -> {last:.3f}' for size, (first, last) in losses.items())
  speed = f'Expected seconds per step on v5p-512: {seconds} (compiled, not run).\n'
  return f'{speed}Expected held-out loss of `make demo`: {falls}.\n'


def record(workdir: str) -> None:
  """Writes the first and last held-out losses of a finished chain into experiments/demo.json."""
  from iquest_jax.train import metrics

  run, demo = RunFolder(workdir), json.loads(DEMO.read_text())
  size = json.loads(run.stage('pretrain').config.read_text())['size']
  losses = {stage: metrics.held_out(run.stage(stage)) for stage in chain.stages_on_rows(size)}
  demo[size] = {stage: [round(loss, 3) for loss in both] for stage, both in losses.items()}
  # One stage per line.
  DEMO.write_text(re.sub(r'\[\s+([\d.]+),\s+([\d.]+)\s+\]', r'[\1, \2]', json.dumps(demo, indent=2)) + '\n')


def main(workdir: str = '') -> None:
  if workdir:
    record(workdir)
  for stage in filter(lambda stage: not chain.is_rl(stage), chain.PARENTS):
    path = EXPERIMENTS / f'{stage}.py'
    path.write_text(_LINES.sub(lambda _, stage=stage: recorded(stage), path.read_text()))


if __name__ == '__main__':
  main(*sys.argv[1:])
