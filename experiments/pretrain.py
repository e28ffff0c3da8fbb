"""Pre-training: general text first, then broad code. Looped sizes train the dense model they are folded from.

  python -m launch.tpu --exp=pretrain:size=7b --workdir=DIR

Source: IQuest-Coder-V1 report, section on pre-training (12T+ tokens, general -> code).
"""

import dataclasses

from experiments import common, mixtures
from iquest_jax.model import sizes


def get_config(arg: str = ''):
  run = common.arguments(arg)
  config = common.base('pretrain', run)

  config.model = dataclasses.asdict(sizes.dense(sizes.get(run.size)))

  config.data.context = run.pick(full=8192, tiny=128)  # ours: the report gives no pre-training context

  config.train.batch_rows = run.pick(full=512, tiny=16)  # ours: 4 Mi tokens a step, usual at this scale
  tables = (mixtures.PRETRAIN_GENERAL, mixtures.PRETRAIN_CODE)
  config.train.steps = run.pick(full=common.steps(mixtures.tokens(*tables), 512, 8192), tiny=240)
  config.data.mixture = mixtures.staged(config.train.steps, *tables)

  # ours: peak rates as usual for these widths; no decay here, since the anneal stage is the decay.
  peak = run.pick(full={'7b': 3e-4, '14b': 2e-4, '40b': 1.5e-4}, tiny=4e-3)
  config.optim.update(common.schedule('constant', peak, warmup=run.pick(full=0.001, tiny=0.1), decay=0.0, floor=1.0))
  return common.finish(config, run)
