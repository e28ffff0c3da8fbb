"""Pre-training: general text first, then broad code. A looped size trains the dense model that is folded later.

  python -m launch.tpu --exp=pretrain:size=7b --workdir=DIR

Expected seconds per step on v5p-512: 7b 3.2, 14b 6.2, 40b 17.5 (compiled, not run).
Expected held-out loss of `make demo`: tiny_loop 6.941 -> 4.176.
Source: IQuest-Coder-V1 report, section on pre-training (12T+ tokens, general -> code).
"""

from experiments import common, mixtures


def get_config(arg: str = ''):
  config, run = common.base('pretrain', arg)

  config.model.loops = 1

  config.data.context = run.pick(full=8192, tiny=128)  # ours: the report gives no pre-training context
  config.data.learn = 'all'

  config.train.batch_rows = run.pick(full=512, tiny=16)  # ours: 4 Mi tokens per step, usual at this scale
  tables = (mixtures.PRETRAIN_GENERAL, mixtures.PRETRAIN_CODE | ({} if run.tiny else mixtures.PAIRS))
  config.train.steps = run.pick(full=common.steps(config, mixtures.tokens(*tables)), tiny=240)
  config.data.mixture = mixtures.staged(config.train.steps, *tables)

  # ours: usual peak rates for these widths; no decay, since the anneal stage is the decay.
  peak = run.pick(full={'7b': 3e-4, '14b': 2e-4, '40b': 1.5e-4}, tiny=4e-3)
  config.optim.update(schedule='constant', peak_lr=peak, warmup=run.pick(full=0.001, tiny=0.1), decay=0.0, floor=1.0)
  return common.finish(config, run)
