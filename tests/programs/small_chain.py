"""`launch.chain` for a model of two thin layers: three stages on rows, one of reinforcement learning, and no evaluation.

There are no samples either, and no check of what so few steps achieve.
"""

import dataclasses

from experiments import chain as stages
from iquest_jax.model import sizes
from launch import chain, command

from tests.rl import small_stage

MODEL = dict(vocab=320, d_model=32, d_ff=64, layers=2, heads=2, kv_heads=2, head_dim=16)
STAGES = ('pretrain', 'loop_adapt', 'anneal', 'rl_instruct')
SAVE_EVERY = 2
_RL = {name: value for name, value in small_stage.SMALL.items() if not name.startswith('model.')}

_experiment = command.experiment


def small(text):
  config = _experiment(text)
  config.update_from_flattened_dict(_RL if stages.is_rl(config.stage) else {})
  config.checkpoint.every, config.log.every, config.eval.suites = SAVE_EVERY, 1, ()
  return config


if __name__ == '__main__':
  for size in ('tiny', 'tiny_loop'):
    sizes.SIZES[size] = dataclasses.replace(sizes.SIZES[size], **MODEL)
  for stage in stages.PARENTS.keys() - set(STAGES):
    del stages.PARENTS[stage]
  stages.PARENTS['rl_instruct'] = 'anneal'
  command.experiment = small
  chain._PROMPTS, chain._evaluate, chain._check_progress = (), lambda *_: [], lambda *_: None
  command.run(chain.main, operands=True)
