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
  results, rows = sweep.Results(folder / 'measures.jsonl'), []
  # The slice that a bare name means comes first, and on it the longest context: if that fails, nothing else matters.
  wanted = [
      (command.experiment(f'{stage}:size={size},topology={cloud}'), topology.find(cloud))
      for cloud in ('v5p-512', 'v5p-256', 'v6e-256')
      for size in reversed(SIZES)
      for stage in reversed(chain.stages(size))
  ]
  for config, slice_ in wanted:
    measure = results.get(config, slice_)
    if measure is None:
      print(f'{config.stage} {config.size} on {slice_.name} ...', file=sys.stderr, flush=True)
      measure = sweep.compile_alone(config, slice_)
      results.add(config, slice_, measure)
    rows.append((config.stage, config.size, config, slice_, measure, estimate.estimate(measure, config, slice_)))
  text = report.table(rows)
  (folder / 'table.md').write_text(text)
  print(text)
  return 0 if all(row[-1].fits for row in rows) else 1


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
