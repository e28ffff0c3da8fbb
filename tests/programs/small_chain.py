"""`launch.chain` for a model of two thin layers, the first three stages of the chain, no samples and no evaluation."""

import dataclasses

from experiments import chain as stages
from iquest_jax.model import sizes
from launch import chain, command

MODEL = dict(vocab=320, d_model=32, d_ff=64, layers=2, heads=2, kv_heads=2, head_dim=16)
STAGES = ('pretrain', 'loop_adapt', 'anneal')

if __name__ == '__main__':
  sizes.SIZES['tiny_loop'] = dataclasses.replace(sizes.SIZES['tiny_loop'], **MODEL)
  for stage in stages.PARENTS.keys() - set(STAGES):
    del stages.PARENTS[stage]
  chain._PROMPTS, chain._evaluate = (), lambda *_: []
  command.run(chain.main, operands=True)
