"""Compile a stage's train step, or decoding, for a TPU slice without having one: does it fit, and how fast should it be?

  python -m launch.aot --exp=midtrain_128k:size=40b_loop --topology=v5p:8x8x4     report on one stage
  python -m launch.aot --exp=sft_thinking:size=40b_loop --program=decode          report on decoding with its model
  python -m launch.aot --exp=midtrain_128k:size=40b_loop --program=health         what the checks of hardware cost
  python -m launch.aot --exp=rl_thinking:size=40b_loop --topology=v5p-512         update and sampler side by side
  python -m launch.aot --all                                                      tables of every stage, size and slice

--topology takes a shape (v5p:8x8x4), a Cloud name (v5p-512) or several slices (v5p-512x2) and also picks the mesh;
--exp.mesh.fsdp=16 and other overrides try another one. Exits with status 1 if something does not fit. Needs the extra
"tpu" (libtpu), no accelerator.
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

flags.DEFINE_string('topology', common.Arguments().topology, 'TPU slice, such as v5p:8x8x4 or v5p-512, or v5p-512x2.')
flags.DEFINE_enum('program', 'train', ['train', 'decode', 'health'], 'Compile the train step, or decoding, or checks.')
flags.DEFINE_integer('slots', 0, 'Slots per group of chips, for decoding; 0 takes what should fit.', lower_bound=0)
flags.DEFINE_integer(
    'answer_tokens', 0, 'Mean tokens of an answer in RL; 0 assumes a quarter of rl.max_tokens.', lower_bound=0
)
flags.DEFINE_bool('all', False, 'Compile every stage of every full size for every slice of experiments/meshes.py.')

FLAGS = flags.FLAGS
# Has measures.jsonl and bundles.jsonl, and table.md, which is generated from them.
RESULTS = pathlib.Path(__file__).parents[1] / 'experiments/aot'
BUNDLES = RESULTS / 'bundles.jsonl'
SIZES = ('7b', '14b', '40b', '40b_loop')
# The default slice and the longest context come first: if they fail, nothing else matters.
SLICES = ('v5p-512', 'v5p-256', 'v6e-256')
# A slice decodes as groups of eight chips, so another one of the same kind tells nothing more.
DECODE_SIZES, DECODE_SLICES = ('40b_loop',), ('v5p-512',)


def main(argv):
  del argv
  # Exit by an exception, so that the compile process is killed too.
  signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
  return _all() if FLAGS.all else _one()


def _one() -> int:
  from iquest_jax.aot import bundles, decode, estimate, health, report, sweep

  config = command.config()
  slice_, counts, name = topology.find(FLAGS.topology), bundles.load(BUNDLES), f'{config.stage} {config.size}'
  if FLAGS.program == 'decode':
    plan = decode.plan(config, slice_, FLAGS.slots)
    measures = sweep.compile_alone(config, slice_, 'decode', plan.slots)
    estimated = decode.estimated(measures, plan, counts)
    fits, text = estimated.fits, report.render_decode(name, measures, estimated)
  elif FLAGS.program == 'health':
    if 'rl' in config:
      raise UserError(f'--program=health: {config.stage} has no fixed step to compare with; name a stage that reads rows')
    fits, text = health.render(name, sweep.compile_alone(config, slice_, 'health'), config, slice_, counts)
  elif 'rl' in config:
    memory, text = _of_rl(config, slice_, counts, name)
    fits = memory.fits
  else:
    measure = sweep.compile_alone(config, slice_)
    estimated = estimate.estimate(measure, config, slice_, counts)
    fits, text = estimated.fits, report.render(name, config, slice_, measure, estimated)
  print(text)
  return 0 if fits else 1


def _of_rl(config, slice_, counts: dict, name: str):
  """(what is in memory, the report) of a stage of reinforcement learning."""
  from iquest_jax.aot import report_rl, rl, sweep

  rl.check(config)
  lengths, plan = rl.assumed(config, FLAGS.answer_tokens), rl.sampler(config, slice_)
  measures = {'update': sweep.compile_alone(config, slice_)}
  measures |= sweep.compile_alone(config, plan.slice_, 'decode', plan.slots, plan.row)
  memory = rl.memory(config, slice_, measures, plan)
  steps = tuple(rl.step(config, slice_, measures, plan, counts, each) for each in lengths) if memory.fits else ()
  return memory, report_rl.render(name, config, slice_, measures, plan, memory, steps)


def _all() -> int:
  from iquest_jax.aot import decode, sweep

  results = sweep.Results(RESULTS / 'measures.jsonl')
  for cloud in SLICES:
    slice_ = topology.find(cloud)
    for size, stages in programs():
      config = command.experiment(f'{stages[0]}:size={size},topology={cloud}')
      if results.get(key := sweep.key(config, slice_)) is None:
        print(f'{config.stage} {size} on {slice_.name} ...', file=sys.stderr, flush=True)
        results.add(key, slice_, sweep.compile_alone(config, slice_))
  for (size, _), row in decoded().items():
    for cloud, config in row.items():
      plan = decode.plan(config, slice_ := topology.find(cloud))
      if results.get(key := sweep.decode_key(plan)) is None:
        print(f'decoding with {size}, {plan.size} tokens, on {slice_.name} ...', file=sys.stderr, flush=True)
        results.add(key, slice_, sweep.compile_alone(config, slice_, 'decode', plan.slots))
  text, fits = tables(results)
  (RESULTS / 'table.md').write_text(text)
  print(text)
  return 0 if fits else 1


def tables(results) -> tuple[str, bool]:
  """(the tables of training and of decoding from recorded measures, whether all of it fits)."""
  from iquest_jax.aot import bundles, decode, estimate, report, sweep

  counts, trained, published = bundles.load(BUNDLES), {}, {}
  for size, stages in programs():
    row = trained.setdefault((size, ', '.join(stages)), {})
    for cloud in SLICES:
      config, slice_ = command.experiment(f'{stages[0]}:size={size},topology={cloud}'), topology.find(cloud)
      measure = results.get(sweep.key(config, slice_))
      of_rate = functools.partial(estimate.estimate, measure, config, slice_, counts)
      row[cloud] = of_rate()
      if cloud == SLICES[0]:
        published[size, ', '.join(stages)] = of_rate(estimate.PUBLISHED_ATTENTION[slice_.generation])
  decoding = {name: {} for name in decoded()}
  for name, row in decoded().items():
    for cloud, config in row.items():
      plan = decode.plan(config, topology.find(cloud))
      decoding[name][cloud] = decode.estimated(results.get(sweep.decode_key(plan)), plan, counts)
  text = report.table(trained, published, '; '.join(results.versions())) + '\n' + report.decode_table(decoding)
  return text, all(each.fits for row in [*trained.values(), *decoding.values()] for each in row.values())


def decoded() -> dict[tuple[str, int], dict]:
  """(size, tokens per slot) -> Cloud name -> configuration, for the models of the last stages."""
  configs = {}
  for size in DECODE_SIZES:
    for stage in ('sft_thinking', 'sft_instruct'):
      for cloud in DECODE_SLICES:
        config = command.experiment(f'{stage}:size={size},topology={cloud}')
        configs.setdefault((size, config.data.context), {})[cloud] = config
  return configs


def programs() -> list[tuple[str, list[str]]]:
  """(size, stages) of every distinct program: stages with the same model and context. The longest rows come first."""
  stages_of = {}
  for size in reversed(SIZES):
    for stage in reversed(chain.stages_on_rows(size)):
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
  clouds = [f'topology={slice_.cloud_name}' for name in meshes.CHIPS if topology.find(name).shape == slice_.shape]
  return text if not clouds else f'{text}{"," if ":" in text else ":"}{clouds[0]}'


if __name__ == '__main__':
  command.run(main, rewrite_exp=with_slice)
