"""Compile a stage's train step for a TPU pod without having one: does it fit, and what would it cost?

  python -m launch.aot --exp=midtrain_128k:size=40b_loop --topology=v5p:8x8x4     one stage, a report
  python -m launch.aot --all                                                      every stage, size and slice, a table

A slice is named by shape (v5p:8x8x4) or as in Cloud (v5p-512); without --topology it is the experiment's own. Exit status
1 where the stage does not fit. Needs the extra "tpu" (libtpu), no accelerator. Fields are overridden as elsewhere
(--exp.model.layers=2): the shortest way to try a mesh. --all goes on where it was stopped.
"""

import pathlib
import signal
import sys

from absl import flags

from experiments import chain, common, meshes
from iquest_jax.aot import topology
from iquest_jax.model import sizes
from launch import command

flags.DEFINE_string('topology', '', 'Slice, as v5p:8x8x4 or v5p-512; empty is that of the experiment.')
flags.DEFINE_bool('all', False, 'Every stage of every full size on every slice of experiments/meshes.py.')
flags.DEFINE_string('results', 'experiments/aot', 'Folder of --all: measures.jsonl, and table.md made from it.')

FLAGS = flags.FLAGS
SIZES = ('7b', '14b', '40b', '40b_loop')


def main(argv):
  del argv
  # As an exception, so that the compiling process is ended, too.
  signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
  return _all() if FLAGS.all else _one()


def _one() -> int:
  from iquest_jax.aot import estimate, report, sweep

  config = command.config()
  slice_ = topology.find(FLAGS.topology)
  measure = sweep.compile_alone(config, slice_)
  found = estimate.estimate(measure, config, slice_)
  print(report.render(f'{config.stage} {config.size}', config, slice_, measure, found))
  return 0 if found.fits else 1


def _all() -> int:
  from iquest_jax.aot import estimate, report, sweep

  folder = pathlib.Path(FLAGS.results)
  results, found = sweep.Results(folder / 'measures.jsonl'), {}
  # The slice that a bare name means comes first, and on it the longest context: if that fails, nothing else matters.
  for cloud in ('v5p-512', 'v5p-256', 'v6e-256'):
    slice_ = topology.find(cloud)
    for size, stages in _programs():
      config = command.experiment(f'{stages[0]}:size={size},topology={cloud}')
      measure = results.get(config, slice_)
      if measure is None:
        print(f'{config.stage} {size} on {slice_.name} ...', file=sys.stderr, flush=True)
        measure = sweep.compile_alone(config, slice_)
        results.add(config, slice_, measure)
      found.setdefault((size, ', '.join(stages)), {})[cloud] = estimate.estimate(measure, config, slice_)
  text = report.table(found, '; '.join(results.versions()))
  (folder / 'table.md').write_text(text)
  print(text)
  return 0 if all(each.fits for row in found.values() for each in row.values()) else 1


def _programs() -> list[tuple[str, list[str]]]:
  """(size, stages) that compile to one program on any slice, the longest rows first: those of one model and context."""
  found = {}
  for size in reversed(SIZES):
    for stage in reversed(chain.stages(size)):
      config = command.experiment(f'{stage}:size={size}')
      # A looped size begins with the dense model that it folds: a program of that size.
      if config.model.loops == sizes.get(size).loops:
        found.setdefault((size, config.data.context), []).insert(0, stage)
  return [(size, stages) for (size, _), stages in found.items()]


def agreed(argv: list[str]) -> list[str]:
  """--topology and the topology of --exp made one: whichever is given decides the mesh and the slice."""
  stage = next((arg.removeprefix('--exp=') for arg in reversed(argv) if arg.startswith('--exp=')), None)
  named = next((arg.removeprefix('--topology=') for arg in reversed(argv) if arg.startswith('--topology=')), '')
  if stage is None:
    return argv
  given = [part.removeprefix('topology=') for part in stage.partition(':')[2].split(',') if part.startswith('topology=')]
  if not named:
    return [*argv, f'--topology={given[-1] if given else common.Arguments().topology}']
  # A slice the mesh table does not know takes its mesh from --exp.mesh.*.
  cloud = [name for name in meshes.CHIPS if topology.SLICES[name] == topology.SLICES.get(named)]
  if cloud and not given:
    stage = f'{stage}{"," if ":" in stage else ":"}topology={cloud[0]}'
  return [*(arg for arg in argv if not arg.startswith('--exp=')), f'--exp={stage}']


if __name__ == '__main__':
  sys.argv = agreed(sys.argv)
  command.run(main)
