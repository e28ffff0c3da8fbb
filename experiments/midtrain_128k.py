"""Mid-training at 128k (Base-Stage2): long agent trajectories, commits and whole repositories.

  python -m launch.tpu --exp=midtrain_128k:size=40b_loop --workdir=DIR

Expected seconds per step on v5p-512: 7b 5.9, 14b 11.6, 40b 32.7, 40b_loop 65.3 (compiled, not run).
Expected held-out loss of `make demo`: tiny_loop 2.345 -> 1.727.
Source: IQuest-Coder-V1 report, section on mid-training, stage 2.2 of the mixture table (300B tokens).
"""

from experiments import common, mixtures


def get_config(arg: str = ''):
  config, run = common.base('midtrain_128k', arg)

  config.data.context = run.pick(full=131072, tiny=512)
  config.data.learn = 'all'  # ours: of a chat, every token but tool results; the report does not say

  config.train.batch_rows = run.pick(full=32, tiny=4)  # ours: 4 Mi tokens per step, as before
  tokens = mixtures.tokens(mixtures.MIDTRAIN_128K)
  config.train.steps = run.pick(full=common.steps(config, tokens), tiny=80)
  config.data.mixture = mixtures.staged(config.train.steps, mixtures.MIDTRAIN_128K)

  # ours: continues at the rate of stage 2.1 and decays over the last third.
  peak = run.pick(full={'7b': 1e-4, '14b': 7e-5, '40b': 5e-5}, tiny=2e-3)
  config.optim.update(schedule='wsd', peak_lr=peak, warmup=run.pick(full=0.01, tiny=0.1), decay=0.33, floor=0.1)
  return common.finish(config, run)
