"""Compile a stage's train step for a TPU slice without having one: does it fit, and how fast should it be?

  python -m launch.aot --exp=midtrain_128k:size=40b_loop --topology=v5p:8x8x4     report on one stage
  python -m launch.aot --all                                                      table of every stage, size and slice

--topology takes a shape (v5p:8x8x4) or a Cloud name (v5p-512) and also picks the mesh; --exp.mesh.fsdp=16 and other
overrides try another one. Exits with status 1 if something does not fit. Needs the extra "tpu" (libtpu), no accelerator.
--all writes experiments/aot/table.md and resumes after an interruption.
"""

import functools
import pathlib
import signal
import sys

from absl import flags

from experiments import chain, common, meshes
from iquest_jax.aot import topology
from iquest_jax.errors import UserError
from iquest_jax.model import sizes
from launch import command

flags.DEFINE_string('topology', common.Arguments().topology, 'TPU slice, such as v5p:8x8x4 or v5p-512.')
flags.DEFINE_bool('all', False, 'Compile every stage of every full size for every slice of experiments/meshes.py.')

FLAGS = flags.FLAGS
# Has measures.jsonl and bundles.jsonl, and table.md, which is generated from them.
RESULTS = pathlib.Path(__file__).parents[1] / 'experiments/aot'
BUNDLES = RESULTS / 'bundles.jsonl'
SIZES = ('7b', '14b', '40b', '40b_loop')
# The default slice and the longest context come first: if they fail, nothing else matters.
SLICES = ('v5p-512', 'v5p-256', 'v6e-256')


def main(argv):
  del argv
  # Exit by an exception, so that the compile process is killed too.
  signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
  return _all() if FLAGS.all else _one()


def _one() -> int:
  from iquest_jax.aot import bundles, estimate, report, sweep

  config = command.config()
  slice_ = topology.find(FLAGS.topology)
  measure = sweep.compile_alone(config, slice_)
  estimated = estimate.estimate(measure, config, slice_, bundles.load(BUNDLES))
  print(report.render(f'{config.stage} {config.size}', config, slice_, measure, estimated))
  return 0 if estimated.fits else 1


def _all() -> int:
  from iquest_jax.aot import sweep

  results = sweep.Results(RESULTS / 'measures.jsonl')
  for cloud in SLICES:
    slice_ = topology.find(cloud)
    for size, stages in programs():
      config = command.experiment(f'{stages[0]}:size={size},topology={cloud}')
      if results.get(config, slice_) is None:
        print(f'{config.stage} {size} on {slice_.name} ...', file=sys.stderr, flush=True)
        results.add(config, slice_, sweep.compile_alone(config, slice_))
  text, fits = table(results)
  (RESULTS / 'table.md').write_text(text)
  print(text)
  return 0 if fits else 1


def table(results) -> tuple[str, bool]:
  """(the table of every stage, size and slice from recorded measures, whether all of it fits)."""
  from iquest_jax.aot import bundles, estimate, report

  counts, estimates, published = bundles.load(BUNDLES), {}, {}
  for size, stages in programs():
    row = estimates.setdefault((size, ', '.join(stages)), {})
    for cloud in SLICES:
      config, slice_ = command.experiment(f'{stages[0]}:size={size},topology={cloud}'), topology.find(cloud)
      of_rate = functools.partial(estimate.estimate, results.get(config, slice_), config, slice_, counts)
      row[cloud] = of_rate()
      if cloud == SLICES[0]:
        published[size, ', '.join(stages)] = of_rate(estimate.PUBLISHED_ATTENTION[slice_.generation])
  text = report.table(estimates, published, '; '.join(results.versions()))
  return text, all(each.fits for row in estimates.values() for each in row.values())


def programs() -> list[tuple[str, list[str]]]:
  """(size, stages) of every distinct program: stages with the same model and context. The longest rows come first."""
  stages_of = {}
  for size in reversed(SIZES):
    for stage in reversed(chain.stages(size)):
      config = command.experiment(f'{stage}:size={size}')
      # A looped size starts from a dense model, whose program is listed under the dense size.
      if config.model.loops == sizes.get(size).loops:
        stages_of.setdefault((size, config.data.context), []).insert(0, stage)
  return [(size, stages) for (size, _), stages in stages_of.items()]


def with_slice(text: str) -> str:
  """--exp with the slice of --topology, which picks the mesh; raises UserError if --exp names a slice itself."""
  if 'topology=' in text:
    raise UserError(f'--exp: "{text}" must not name a slice here; use the flag, as in --topology={FLAGS.topology}')
  slice_ = topology.find(FLAGS.topology)
  # A slice that experiments/meshes.py does not know keeps the default mesh, for --exp.mesh.* to change.
  clouds = [f'topology={name}' for name in meshes.CHIPS if topology.find(name) == slice_]
  return text if not clouds else f'{text}{"," if ":" in text else ":"}{clouds[0]}'


if __name__ == '__main__':
  command.run(main, rewrite_exp=with_slice)
