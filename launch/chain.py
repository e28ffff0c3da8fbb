"""The whole chain of a size: run it or the rest of it, print it, compare its stages, verify its lineage.

  python -m launch.chain run --size=tiny_loop --workdir=runs/tiny_loop     prepares rows, trains every stage, shows it
  python -m launch.chain show --size=tiny_loop --workdir=runs/tiny_loop    the lineage tree and what is still to do
  python -m launch.chain diff --size=40b_loop                              what each stage changes against the one before
  python -m launch.chain verify --size=tiny_loop --workdir=runs/tiny_loop  recomputes hashes and fingerprints

`run` on a finished chain only shows it. It ends with status 1 if a stage's held-out loss did not fall.
"""

import subprocess
import sys

from absl import flags

from experiments import chain
from iquest_jax.config import diff
from iquest_jax.errors import RunStopped, UserError, nearest
from launch import command

flags.declare_key_flag('workdir')
flags.declare_key_flag('size')
flags.DEFINE_integer('steps', 0, 'Steps of every stage, to try the chain out; 0 keeps each stage\'s own.', lower_bound=0)

FLAGS = flags.FLAGS

# What the last checkpoints are asked at the end of a run.
_PROMPTS = (
    ('midtrain_128k', False, 'def add(a, b):\n'),
    ('sft_instruct', True, 'What is 2 + 3?'),
    ('sft_thinking', True, 'What is 2 + 3?'),
)


def main(argv):
  commands = {'run': _run, 'show': _show, 'diff': _diff, 'verify': _verify}
  name = argv[1] if len(argv) == 2 else ' '.join(argv[1:])
  if name not in commands:
    raise UserError(f'chain: sub-command "{name}" does not exist{nearest(name, commands)}')
  commands[name]()


def _configs():
  configs = [command.experiment(f'{stage}:size={FLAGS.size}') for stage in chain.stages(FLAGS.size)]
  for config in configs:
    if FLAGS.steps:
      config.train.steps = FLAGS.steps
  return configs


def _run():
  run_folder, configs = command.run_folder(), _configs()
  from launch import devices

  devices.start(FLAGS.size)
  import jax
  from jax.experimental import multihost_utils

  from iquest_jax.train import loop

  if jax.process_index() == 0:
    _prepare(configs, run_folder)
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices('chain.prepare')
  for config in configs:
    loop.run(config, run_folder)
  if jax.process_index() == 0:
    _show()
    _sample(run_folder)
    _check_losses(configs, run_folder)


def _prepare(configs, run_folder) -> None:
  """Prepares missing rows in a process of its own: preparing imports TensorFlow, training never does."""
  from iquest_jax.data.loader import Loader

  try:
    for config in configs:
      Loader.of_stage(config, run_folder)
  except UserError:
    arguments = [sys.executable, '-m', 'launch.prepare', f'--size={FLAGS.size}', f'--workdir={run_folder.path}']
    status = subprocess.run(arguments, check=False).returncode
    if status:
      sys.exit(status)  # it has printed the reason


def _check_size(run_folder, stages) -> None:
  """Raises UserError where a stage in the folder is of another size than --size."""
  from iquest_jax.checkpoint import lineage, restore
  from iquest_jax.model import transformer

  models = {config.stage: transformer.model_config(config.model) for config in _configs()}
  for stage, found in lineage.tree(run_folder, stages).items():
    restore.check_same_model(run_folder.stage(stage), found, models[stage])


def _show():
  run_folder, stages = command.run_folder(), chain.stages(FLAGS.size)
  if not run_folder.path.is_dir():
    raise UserError(f'--workdir: {run_folder.path} is no folder; python -m launch.chain run makes one')
  _check_size(run_folder, stages)
  from iquest_jax.checkpoint import lineage
  from iquest_jax.train import metrics

  losses = {stage: metrics.held_out(run_folder.stage(stage)) for stage in stages}
  print(lineage.render(lineage.tree(run_folder, stages), losses))
  for config in _configs():
    done = lineage.tree(run_folder, [config.stage]).get(config.stage, {}).get('steps', 0)
    if done < config.train.steps:
      print(f'to do: {config.stage}, step {done:,} of {config.train.steps:,}')


def _sample(run_folder) -> None:
  from iquest_jax import sharding
  from iquest_jax.checkpoint import restore
  from iquest_jax.infer import sampling
  from iquest_jax.text.tokenizer import Tokenizer

  mesh = sharding.make_mesh({'data': 1, 'fsdp': -1, 'context': 1, 'tensor': 1})
  tokenizer = Tokenizer.load(run_folder.tokenizer)
  for stage, chat, prompt in _PROMPTS:
    model, params = restore.newest_model(run_folder.stage(stage), mesh)
    text = sampling.complete(model, params, tokenizer, prompt, chat=chat, length=48)
    print(f'\n{stage} goes on after {prompt!r}:\n{text}')


def _check_losses(configs, run_folder) -> None:
  from iquest_jax.train import metrics

  for config in configs:
    first, last = metrics.held_out(run_folder.stage(config.stage)) or (0.0, 0.0)
    if not last < first:
      raise RunStopped(f'{config.stage}: held-out loss did not fall ({first:.3f} -> {last:.3f})')


def _diff():
  configs = {config.stage: config for config in _configs()}
  for stage, config in configs.items():
    parent = chain.parent(stage, FLAGS.size)
    if not parent:
      continue
    print(f'{parent} -> {stage}')
    for key, before, after in diff(configs[parent], config):
      if key not in ('stage', 'init.stage'):
        print(f'  {key}: {_short(before)} -> {_short(after)}')


def _short(value) -> str:
  """A mixture as its sources and shares, anything else as it is."""
  if not isinstance(value, tuple) or not value or not isinstance(value[0], tuple):
    return repr(value)
  phases = []
  for step, weights in value:
    total = sum(weight for _, weight in weights)
    phases.append(f'from step {step}: ' + ', '.join(f'{name} {weight / total:.0%}' for name, weight in weights))
  return '; '.join(phases)


def _verify():
  run_folder = command.run_folder()
  from iquest_jax.checkpoint import lineage

  # A lineage.json without checkpoints is a stage, too: one that has lost them.
  there = lambda stage: (folder := run_folder.stage(stage)).checkpoints.exists() or folder.lineage.exists()
  stages = [stage for stage in chain.stages(FLAGS.size) if there(stage)]
  if not stages:
    raise UserError(f'{run_folder.path}: holds no stage of size {FLAGS.size}; run python -m launch.chain run first')
  problems = lineage.verify(run_folder, stages)
  if not problems:
    _check_size(run_folder, stages)  # reads what has been found whole
  for problem in problems:
    print(problem)
  if problems:
    raise RunStopped(f'{len(problems)} problems in {run_folder.path}')
  print(f'verified: {len(stages)} stages, every file, every leaf, every link to a parent')


if __name__ == '__main__':
  command.run(main, operands=True)
