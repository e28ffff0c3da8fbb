"""The whole chain of a size: run it, show it, compare its stages, verify its checkpoints.

  python -m launch.chain run --workdir=runs/first     prepare, train every stage, show, sample, evaluate
  python -m launch.chain show --workdir=runs/first    print the lineage tree and the stages to do
  python -m launch.chain diff --size=40b_loop         print what each stage changes in its parent's
                                                      configuration
  python -m launch.chain verify --workdir=runs/first  recompute every hash and fingerprint

`run` resumes an unfinished chain and trains nothing in a finished one. It evaluates each stage's
final checkpoint with the suites that its experiment names (eval.suites), and writes report.html. It
exits with status 1 if the held-out loss of a stage did not fall, or its held-out pass rate fell,
unless --steps makes it a trial run. Reinforcement learning is left out where its problems are
missing or programs cannot be isolated.
"""

import subprocess
import sys
import textwrap
import time

from absl import flags

from experiments import chain
from iquest_jax.config import diff
from iquest_jax.errors import RunStopped, UserError
from launch import command, compilation, devices, report, scores, training

flags.declare_key_flag('workdir')
flags.declare_key_flag('size')
flags.DEFINE_integer('steps', 0, 'Steps per stage, for a trial run; 0 keeps those of each stage.', lower_bound=0)
flags.DEFINE_string('sources', '', 'A sources.toml of raw documents, if rows are missing; see launch.prepare.')
flags.DEFINE_string('data', '', "Folder of the benchmarks' official files; without it, those that need one are left out.")

FLAGS = flags.FLAGS

# (stage, whether as a chat, prompt) of the samples at the end of a run.
_PROMPTS = (
    ('midtrain_128k', False, 'def add(a, b):\n'),
    ('sft_instruct', True, 'What is 2 + 3?'),
    ('sft_thinking', True, 'What is 2 + 3?'),
)


def main(argv):
  commands = {'run': _run, 'show': _show, 'diff': _diff, 'verify': _verify}
  name, _ = command.subcommand(argv, commands)
  commands[name]()


def _configs():
  configs = [command.experiment(f'{stage}:size={FLAGS.size}') for stage in chain.stages(FLAGS.size)]
  for config in configs:
    if FLAGS.steps:
      config.train.steps = FLAGS.steps
  return configs


def _run():
  run_folder = command.run_folder()
  configs = _configs()
  devices.start(FLAGS.size)
  compilation.keep(run_folder)

  from iquest_jax import hosts

  with hosts.after_first('chain.prepare') as first:
    if first:
      _prepare([config for config in configs if not chain.is_rl(config.stage)], run_folder)
  configs = _possible(configs, run_folder)
  suites = _suites(configs, run_folder)
  # Found from the files that each host sees: one that leaves out a stage would wait for the others, and they for it.
  hosts.agree('what can run', suites)
  scorers = [scores.scorer(config, run_folder, FLAGS.data) for config in configs]
  for config, scorer in zip(configs, scorers):
    training.run(config, run_folder, scorer)
  results = _evaluate(configs, suites, run_folder)
  if first:
    _show()
  _sample(run_folder)
  if first:
    _print_results(results)
    report.write(run_folder)
    if not FLAGS.steps:  # a trial run improves nothing reliably
      _check_progress(configs, run_folder)


def _prepare(configs, run_folder) -> None:
  """Prepares missing rows in a process of its own, which starts others: jax does not survive a fork."""
  from iquest_jax.data.loader import Loader

  try:
    for config in configs:
      Loader.of_stage(config, run_folder)
  except UserError:
    if run_folder.preparing()[1]:  # on gs://, where nothing is prepared
      raise
    arguments = [sys.executable, '-m', 'launch.prepare', f'--size={FLAGS.size}', f'--workdir={run_folder.path}']
    arguments += [f'--sources={FLAGS.sources}'] if FLAGS.sources else []
    preparation = subprocess.Popen(arguments)
    try:
      status = preparation.wait()
    except BaseException:  # asked to end: it ends its own processes, and what is finished is kept
      preparation.terminate()
      preparation.wait()
      raise
    if status:
      sys.exit(status)  # it has printed the reason


def _possible(configs, run_folder) -> list:
  """The stages that can run here; logs why others are left out, before days of training."""
  from absl import logging

  from iquest_jax.eval import stage

  isolation, possible = stage.no_isolation(), []
  for config in configs:
    files = (*config.rl.problems, *config.rl.held_out) if chain.is_rl(config.stage) else ()
    absent = [f'{run_folder.path / name} is missing' for name in files if not (run_folder.path / name).exists()]
    if files and (reason := isolation or ''.join(absent[:1])):
      logging.warning('%s is left out: %s', config.stage, reason)
    else:
      possible.append(config)
  return possible


def _suites(configs, run_folder) -> dict[str, list[str]]:
  """The suites of each stage, without those that cannot run here; logs why.

  Raises:
    UserError: the files of a suite are wrong, or missing though --data is given; it ends before days of training.
  """
  from absl import logging

  from iquest_jax.eval import stage, suites

  isolation, left_out = stage.no_isolation(), {}
  for name in dict.fromkeys(name for config in configs for name in config.eval.suites):
    if isolation and name != suites.BITS_PER_BYTE:
      left_out[name] = isolation
      continue
    try:
      stage.read(name, FLAGS.data, run_folder)
    except UserError as error:
      if FLAGS.data or suites.get(name).in_corpus:
        raise
      left_out[name] = str(error)
  for name, reason in left_out.items():
    logging.warning('%s is left out: %s', name, reason)
  return {config.stage: [name for name in config.eval.suites if name not in left_out] for config in configs}


def _evaluate(configs, suites, run_folder) -> list[dict]:
  """What is in the results.json of every stage and suite; all processes take part."""
  from iquest_jax.eval import stage

  results = []
  for config in configs:
    if names := suites[config.stage]:
      how = dict(chat=chain.is_chat(config.stage), slots=config.eval.slots, data=FLAGS.data)
      results += stage.evaluate(run_folder, config.stage, names, **how)
  return results


def _print_results(results) -> None:
  from iquest_jax.eval import stage

  if results:
    stage.show(results)


def _lineages(run_folder, configs) -> dict[str, dict]:
  """Lineage by stage, of those that have a checkpoint; raises UserError if one has another size than --size."""
  from iquest_jax.checkpoint import lineage, restore
  from iquest_jax.model import transformer

  lineages = lineage.tree(run_folder, [config.stage for config in configs])
  for config in configs:
    if config.stage in lineages:
      model = transformer.model_config(config.model)
      restore.check_same_model(run_folder.stage(config.stage), lineages[config.stage], model)
  return lineages


def _show():
  run_folder, configs = command.run_folder(), _configs()
  if not run_folder.path.is_dir():
    raise UserError(f'--workdir: {run_folder.path} does not exist; python -m launch.chain run creates it')
  from iquest_jax.checkpoint import lineage
  from iquest_jax.train import heartbeat, metrics

  lineages = _lineages(run_folder, configs)
  measured = {stage: metrics.held_out(run_folder.stage(stage)) for stage in lineages}
  print(lineage.render(lineages, {stage: metrics.describe_held_out(found) for stage, found in measured.items()}))
  if runs := lineage.render_runs(lineages):
    print(runs)
  for config in configs:
    done = lineages.get(config.stage, {}).get('steps', 0)
    if done < config.train.steps:
      print(f'to do: {config.stage}, step {done:,} of {config.train.steps:,}')
    for line in heartbeat.describe(heartbeat.read(run_folder.stage(config.stage)), time.time()):
      print(f'{config.stage}: {line}')


def _sample(run_folder) -> None:
  import jax

  from iquest_jax.checkpoint import restore
  from iquest_jax.infer import text
  from iquest_jax.infer.engine import Engine
  from iquest_jax.text.tokenizer import Tokenizer

  tokenizer = Tokenizer.load(run_folder.tokenizer)
  for stage, chat, prompt in _PROMPTS:
    model, params = restore.newest_model(run_folder.stage(stage))
    ids = text.turn(tokenizer, [{'role': 'user', 'content': prompt}]) if chat else text.completion(tokenizer, prompt)
    # Every process takes part: reading a checkpoint shares out its files.
    (continuation,) = text.complete(Engine(model, params, slots=1), tokenizer, [ids], length=48)
    if jax.process_index() == 0:
      print(f'\n{stage} continues {prompt!r}:\n{continuation}')


def _check_progress(configs, run_folder) -> None:
  from iquest_jax.train import metrics

  for config in configs:
    name, first, last = metrics.held_out(run_folder.stage(config.stage)) or ('loss', 0.0, 0.0)
    # A rate may stay: a few steps need not change the likeliest answer to any problem.
    well, wrong = (last < first, 'did not fall') if name == 'loss' else (last >= first, 'fell')
    if not well:
      raise RunStopped(f'{config.stage}: held-out {name.replace("_", " ")} {wrong} ({first:.3f} -> {last:.3f})')


def _diff():
  configs = {config.stage: config for config in _configs()}
  for stage, config in configs.items():
    if not (parent := chain.parent(stage, FLAGS.size)):
      continue
    print(f'{parent} -> {stage}')
    for key, before, after in diff(configs[parent], config):
      if key == 'data.mixture' and not chain.is_rl(stage):
        print(f'  {key}:', *_phases('-', before), *_phases('+', after), sep='\n')
      elif key not in ('stage', 'init.stage'):
        print(textwrap.fill(f'  {key}: {before!r} -> {after!r}', width=100, subsequent_indent=' ' * 6))


def _phases(sign: str, mixture) -> list[str]:
  """Every phase of a mixture as text: the step it starts at, and the share of each source."""
  lines = []
  for step, weights in mixture:
    total = sum(weight for _, weight in weights)
    shares = ', '.join(f'{name} {weight / total:.0%}' for name, weight in weights)
    lines.append(textwrap.fill(f'    {sign} from step {step:,}: {shares}', width=100, subsequent_indent=' ' * 6))
  return lines


def _verify():
  run_folder = command.run_folder()
  from iquest_jax.checkpoint import lineage

  # A lineage.json without checkpoints also marks a stage: one that has lost them.
  exists = lambda stage: (folder := run_folder.stage(stage)).checkpoints.exists() or folder.lineage.exists()
  stages = [stage for stage in chain.stages(FLAGS.size) if exists(stage)]
  if not stages:
    raise UserError(
        f'{run_folder.path}: no stage of size {FLAGS.size} has been trained here; run python -m launch.chain run first'
    )
  devices.log_devices()
  problems = lineage.verify(run_folder, stages)
  if problems:
    print('\n'.join(problems))
    raise RunStopped(f'{run_folder.path}: problems found: {len(problems)}')
  _lineages(run_folder, _configs())  # compares sizes, for which checkpoints must be intact
  print(f'verified {len(stages)} stages: every file, every parameter, every link to a parent stage')


if __name__ == '__main__':
  command.run(main, operands=True)
