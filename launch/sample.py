"""Continue a prompt with the newest checkpoint of a stage.

  python -m launch.sample --workdir=runs/demo --stage=midtrain_128k --prompt='def add(a, b):'
  python -m launch.sample --workdir=runs/demo --stage=sft_instruct --chat --prompt='What is 2 + 3?'
"""

from absl import flags

from iquest_jax.errors import UserError
from launch import command

flags.declare_key_flag('workdir')
flags.DEFINE_string('stage', '', 'Stage to sample from, as midtrain_128k.')
flags.DEFINE_string('prompt', '', 'Text to continue; special tokens may be written out.')
flags.DEFINE_bool('chat', False, 'Whether the prompt is a user\'s message and the answer an assistant\'s turn.')
flags.DEFINE_integer('tokens', 64, 'New tokens at most.', lower_bound=1)
flags.DEFINE_float('temperature', 0.0, 'Temperature of the draws; 0 takes the most likely token.', lower_bound=0.0)
flags.DEFINE_integer('seed', 0, 'Seed of the draws.')

FLAGS = flags.FLAGS


def main(argv):
  del argv
  run_folder = command.run_folder()
  command.check_stage(FLAGS.stage)
  if not FLAGS.temperature < float('inf'):
    raise UserError(f'--temperature is {FLAGS.temperature}; it is a number of at least 0')
  from iquest_jax import sharding
  from iquest_jax.checkpoint import restore
  from iquest_jax.infer import sampling
  from iquest_jax.text.tokenizer import Tokenizer

  mesh = sharding.make_mesh({'data': 1, 'fsdp': -1, 'context': 1, 'tensor': 1})
  model, params = restore.newest_model(run_folder.stage(FLAGS.stage), mesh)
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
