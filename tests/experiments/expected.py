"""What the docstring of an experiment says to expect, from experiments/aot/table.md and experiments/demo.json.

  python -m tests.experiments.expected [runs/tiny_loop]

rewrites these lines in every experiment; given the folder of a finished `make demo`, records its held-out losses and pass
rates first.
"""

import json
import pathlib
import re
import sys

from experiments import chain
from iquest_jax.run_folder import RunFolder
from iquest_jax.train import metrics

EXPERIMENTS = pathlib.Path(__file__).parents[2] / 'experiments'
TABLE, DEMO = EXPERIMENTS / 'aot/table.md', EXPERIMENTS / 'demo.json'
_LINES = re.compile(r'(?:^Expected .*\n)+', re.M)


def stated(stage: str) -> str:
  """The lines `Expected ...` in the docstring of a stage."""
  return _LINES.search((EXPERIMENTS / f'{stage}.py').read_text())[0]


def recorded(stage: str) -> str:
  """The same lines, written from the records; that of the speed is missing where the table has none."""
  cells = reversed(re.findall(r'^\| (\w+) \| ([\w, ]+) \| [\d.]+ GiB, ([\d.]+) s,', TABLE.read_text(), re.M))
  seconds = ', '.join(f'{size} {each}' for size, stages, each in cells if stage in stages.split(', '))
  figures = {size: stages[stage] for size, stages in json.loads(DEMO.read_text()).items() if stage in stages}
  name = next(iter(figures.values()))[0].replace('_', ' ')
  changes = ', '.join(f'{size} {metrics.describe_held_out(each).replace("→", "->")}' for size, each in figures.items())
  speed = f'Expected seconds per step on v5p-512: {seconds} (compiled, not run).\n' if seconds else ''
  return f'{speed}Expected held-out {name} of `make demo`: {changes}.\n'


def record(workdir: str) -> None:
  """Writes what a finished chain first and last measured on held-out data into experiments/demo.json."""
  run, demo = RunFolder(workdir), json.loads(DEMO.read_text())
  size = json.loads(run.stage('pretrain').config.read_text())['size']
  figures = {stage: metrics.held_out(run.stage(stage)) for stage in chain.stages(size)}
  demo[size] = {stage: [name, round(first, 3), round(last, 3)] for stage, (name, first, last) in figures.items()}
  # One stage per line.
  text = re.sub(r'\[\s+("\w+"),\s+([\d.]+),\s+([\d.]+)\s+\]', r'[\1, \2, \3]', json.dumps(demo, indent=2))
  DEMO.write_text(text + '\n')


def main(workdir: str = '') -> None:
  if workdir:
    record(workdir)
  for stage in chain.PARENTS:
    path = EXPERIMENTS / f'{stage}.py'
    path.write_text(_LINES.sub(lambda _, stage=stage: recorded(stage), path.read_text()))


if __name__ == '__main__':
  main(*sys.argv[1:])
