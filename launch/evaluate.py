"""Run benchmarks with a stage's newest checkpoint or an endpoint; compare two runs.

  python -m launch.evaluate --workdir=runs/demo --stage=sft_instruct --suite=small_programs,bits_per_byte
  python -m launch.evaluate --workdir=runs/7b --stage=sft_thinking --suite=humaneval,mbpp --data=benchmarks
  python -m launch.evaluate --endpoint=http://localhost:8000/v1 --model=NAME --key_env=API_KEY \\
      --suite=humaneval --out=runs/other
  python -m launch.evaluate compare runs/7b/sft_instruct/evaluation/3000 runs/7b/sft_thinking/evaluation/5000
  python -m launch.evaluate doctor

Killed and started again, a run resumes. A folder per suite gets results.json: settings, figures, every prompt,
answer and verdict. `compare A B` prints B - A with 95 % intervals, paired by problem, and the problems that flipped.
`doctor` says which isolation and which languages this machine has; programs run in no other way.
"""

import pathlib

from absl import flags

from experiments import chain
from iquest_jax.errors import UserError, check_name
from launch import command, devices

flags.declare_key_flag('workdir')
flags.DEFINE_string('stage', '', 'Stage to evaluate, such as sft_instruct.')
flags.DEFINE_list('suite', [], 'What to run, separated by commas; a wrong name lists them all.')
flags.DEFINE_string('data', '', "Folder of the benchmarks' official files.")
flags.DEFINE_string('out', '', 'Folder of the results; by default WORKDIR/STAGE/evaluation/STEP.')
flags.DEFINE_string('endpoint', '', 'URL of an OpenAI-compatible API to evaluate instead of a stage.')
flags.DEFINE_string('model', '', 'Name of the model at the endpoint.')
flags.DEFINE_string('key_env', '', "Environment variable that holds the endpoint's key.")
flags.DEFINE_bool('chat', None, 'Put prompts as messages; by default for stages from SFT on and for endpoints.')
flags.DEFINE_integer('slots', 16, 'Answers decoded, or requests made, at a time.', lower_bound=1)
flags.DEFINE_integer('problems', 0, 'Only so many problems, the first ones; 0 takes all.', lower_bound=0)
flags.DEFINE_integer('samples', None, "Answers per problem, instead of the suite's number.", lower_bound=1)
flags.DEFINE_integer('tokens', None, "Maximum number of tokens per answer, instead of the suite's.", lower_bound=1)
flags.DEFINE_float('temperature', None, "Sampling temperature, instead of the suite's.")
flags.DEFINE_float('top_p', None, "See launch.sample; instead of the suite's.")
flags.DEFINE_integer('top_k', None, "See launch.sample; instead of the suite's.")
flags.DEFINE_integer('seed', None, "Seed of the sampling, instead of the suite's.")

FLAGS = flags.FLAGS


def main(argv):
  if argv[1:]:
    name, operands = command.subcommand(argv, {'compare': _compare, 'doctor': _doctor})
    {'compare': _compare, 'doctor': _doctor}[name](*operands)
  else:
    _evaluate()


def _evaluate() -> None:
  from iquest_jax.eval import suites

  if not FLAGS.suite:
    raise UserError('--suite is missing; name what to run, as in --suite=humaneval,mbpp')
  for name in FLAGS.suite:
    suites.check(name)
  if bool(FLAGS.stage) == bool(FLAGS.endpoint):
    raise UserError('name either a --stage with its --workdir, or an --endpoint')
  if FLAGS.stage:
    check_name('--stage: stage', FLAGS.stage, chain.PARENTS)
    run_folder = command.run_folder()
    devices.start('tiny')  # joins the hosts; the smallest size, since any model may be decoded on a CPU
    from iquest_jax.eval import stage

    chat = chain.is_chat(FLAGS.stage) if FLAGS.chat is None else FLAGS.chat
    where = dict(data=FLAGS.data, out=pathlib.Path(FLAGS.out) if FLAGS.out else None)
    _show(stage.evaluate(run_folder, FLAGS.stage, FLAGS.suite, chat=chat, slots=FLAGS.slots, changes=_changes, **where))
  else:
    _show(_evaluate_endpoint())


def _evaluate_endpoint() -> list[dict]:
  from iquest_jax.eval import run, stage, suites
  from iquest_jax.eval.endpoint import EndpointAnswers

  if suites.BITS_PER_BYTE in FLAGS.suite:
    raise UserError(f'--suite: {suites.BITS_PER_BYTE} needs a --stage; an endpoint gives no log-probabilities of a text')
  if not FLAGS.out:
    raise UserError('--out is missing; name the folder of the results of an endpoint')
  answers = EndpointAnswers(FLAGS.endpoint, FLAGS.model, FLAGS.key_env, parallel=FLAGS.slots)
  run_folder = command.run_folder() if FLAGS.workdir else None
  tasks = [(name, *stage.read(name, FLAGS.data, run_folder)) for name in FLAGS.suite]
  chat, out = FLAGS.chat is None or FLAGS.chat, pathlib.Path(FLAGS.out)
  with stage.Pools() as pools:
    return [
        run.run(suite, problems, run.Plan.of(suite, chat, **_changes(suite)), answers, out / name, pools.get())
        for name, suite, problems in tasks
    ]


def _changes(suite) -> dict:
  """What the flags change of what a suite asks for."""
  sampling = {name: FLAGS[name].value for name in ('temperature', 'top_p', 'top_k', 'seed')}
  sampling = {name: value for name, value in sampling.items() if value is not None}
  plan = {'samples': FLAGS.samples, 'length': FLAGS.tokens, 'limit': FLAGS.problems or None}
  plan = {name: value for name, value in plan.items() if value is not None}
  return plan | ({'sampling': suite.sampling._replace(**sampling)} if sampling else {})


def _show(results) -> None:
  import jax

  from iquest_jax.eval import stage

  if jax.process_index() == 0:
    stage.show(results)


def _compare(a, b):
  from iquest_jax.eval import compare

  print(compare.render(compare.compare(*(compare.load(pathlib.Path(path)) for path in (a, b)))))


def _doctor():
  from iquest_jax.sandbox import doctor

  print(doctor.render(doctor.examine()))


if __name__ == '__main__':
  command.run(main, operands=True)
