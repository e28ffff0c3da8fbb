"""Write one HTML page about a whole chain: lineage, losses, rewards, evaluation, sampled answers, mixtures, data, speed.

  python -m launch.report --workdir=runs/tiny_loop

The page is WORKDIR/report.html. It needs no network and runs no script; it can be made while the chain is running.
"""

from absl import flags

from experiments import chain as stages
from iquest_jax.model import sizes
from launch import command

flags.declare_key_flag('workdir')


def main(argv):
  del argv
  from iquest_jax.report import chain, page

  run_folder = command.run_folder()
  written = page.write(chain.read(run_folder, order), run_folder.report)
  print(f'report: {written}')


def order(size: str) -> dict[str, str]:
  """{stage: its parent} at a size, in the order they run; those of a looped model if the size is unknown."""
  size = size if size in sizes.SIZES else 'tiny_loop'
  return {stage: stages.parent(stage, size) for stage in stages.stages(size)}


if __name__ == '__main__':
  command.run(main)
