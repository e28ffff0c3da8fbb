"""Annealing: high-quality code while the learning rate decays.

  python -m launch.tpu --exp=anneal:size=14b --workdir=DIR

Expected seconds per step on v5p-512: 7b 3.2, 14b 6.2, 40b 17.5, 40b_loop 34.9 (compiled, not run).
Expected held-out loss of `make demo`: tiny_loop 3.380 -> 3.012.
Source: IQuest-Coder-V1 report, section on pre-training, annealing on high-quality code.
"""

from experiments import common, mixtures


def get_config(arg: str = ''):
  config, run = common.base('anneal', arg)

  # ours: keeps the AdamW moments, so that the decay continues pre-training instead of restarting it.
  config.init.carry = ('params', 'optimizer')

  config.data.context = run.pick(full=8192, tiny=128)  # ours: as in pre-training
  config.data.learn = 'all'

  config.train.batch_rows = run.pick(full=512, tiny=16)  # ours: as in pre-training
  tokens = mixtures.tokens(mixtures.ANNEAL)
  config.train.steps = run.pick(full=common.steps(config, tokens), tiny=60)
  config.data.mixture = mixtures.staged(config.train.steps, mixtures.ANNEAL)

  # ours: starts at the rate of pre-training (looped: of loop_adapt) and falls to a tenth.
  peak = run.pick(full={'7b': 3e-4, '14b': 2e-4, '40b': 1.5e-4}, tiny=2e-3)
  if run.size == '40b_loop':
    peak = 5e-5
  config.optim.update(schedule='wsd', peak_lr=peak, warmup=0.0, decay=0.9, floor=0.1)
  return common.finish(config, run)
