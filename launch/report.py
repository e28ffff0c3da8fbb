"""Write one HTML page about a whole chain: lineage, losses, rewards, evaluation, sampled answers, mixtures, data, speed.

  python -m launch.report --workdir=runs/tiny_loop

The page is WORKDIR/report.html. It needs no network and runs no script; it can be made while the chain is running.
"""

from absl import flags

from experiments import chain as stages
from iquest_jax.model import sizes
from iquest_jax.run_folder import RunFolder
from launch import command

flags.declare_key_flag('workdir')


def main(argv):
  del argv
  write(command.run_folder())


def write(run_folder: RunFolder) -> None:
  """Writes the page of a chain and prints where it is."""
  from iquest_jax.report import chain, page

  print(f'report: {page.write(chain.read(run_folder, order), run_folder.report)}')


def order(size: str) -> dict[str, str]:
  """{stage: its parent} at a size, in the order they run; those of a looped model if the size is unknown."""
  size = size if size in sizes.SIZES else 'tiny_loop'
  return {stage: stages.parent(stage, size) for stage in stages.stages(size)}


if __name__ == '__main__':
  command.run(main)
