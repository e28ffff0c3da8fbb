"""Continue a prompt with the newest checkpoint of a stage.

  python -m launch.sample --workdir=runs/demo --stage=midtrain_128k --prompt='def add(a, b):'
  python -m launch.sample --workdir=runs/demo --stage=sft_instruct --chat --prompt='What is 2 + 3?'
"""

from absl import flags

from experiments import chain
from iquest_jax.errors import UserError, check_name
from launch import command, devices

flags.declare_key_flag('workdir')
flags.DEFINE_string('stage', '', 'Stage to sample from, such as midtrain_128k.')
flags.DEFINE_string('prompt', '', 'Text to continue; it may spell out special tokens.')
flags.DEFINE_bool('chat', False, 'Treat the prompt as a user message and print the assistant\'s reply.')
flags.DEFINE_integer('tokens', 64, 'Maximum number of new tokens.', lower_bound=1)
flags.DEFINE_float('temperature', 0.0, 'Sampling temperature; 0 takes the most likely token.', lower_bound=0.0)
flags.DEFINE_integer('seed', 0, 'Seed of the sampling.')

FLAGS = flags.FLAGS


def main(argv):
  del argv
  run_folder = command.run_folder()
  check_name('--stage: stage', FLAGS.stage, chain.PARENTS)
  if not FLAGS.temperature < float('inf'):
    raise UserError(f'--temperature must be finite and at least 0, got {FLAGS.temperature}')
  from iquest_jax.checkpoint import restore
  from iquest_jax.infer import sampling
  from iquest_jax.text.tokenizer import Tokenizer

  devices.log_devices()
  model, params = restore.newest_model(run_folder.stage(FLAGS.stage))
  text = sampling.complete(
      model,
      params,
      Tokenizer.load(run_folder.tokenizer),
      FLAGS.prompt,
      chat=FLAGS.chat,
      length=FLAGS.tokens,
      temperature=FLAGS.temperature,
      seed=FLAGS.seed,
  )
  print(text)


if __name__ == '__main__':
  command.run(main)
