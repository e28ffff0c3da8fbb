"""Thinking tuning (first half of the thinking path): answers preceded by reasoning in <think>, long contexts.

  python -m launch.tpu --exp=sft_thinking --workdir=DIR

Source: IQuest-Coder-V1 report, section on supervised fine-tuning; the thinking path branches after stage 2.2.
"""

from experiments import common, mixtures


def get_config(arg: str = ''):
  run = common.arguments(arg)
  config = common.base('sft_thinking', run)

  config.data.context = run.pick(full=131072, tiny=512)  # ours: reasoning and trajectories keep the full context

  config.train.batch_rows = run.pick(full=32, tiny=4)  # ours: 4 Mi tokens a step, as before
  config.train.steps = run.pick(full=5000, tiny=60)  # ours: about 21B packed tokens; unpublished
  config.data.mixture = mixtures.staged(config.train.steps, *mixtures.SFT_THINKING)

  # ours: the report names the shape only.
  peak = run.pick(full={'7b': 2e-5, '14b': 2e-5, '40b': 1e-5}, tiny=1.5e-3)
  config.optim.update(common.schedule('cosine', peak, warmup=run.pick(full=0.03, tiny=0.1), decay=0.7, floor=0.1))
  return common.finish(config, run)
