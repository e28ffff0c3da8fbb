"""Dense to loop: fold the pre-trained dense checkpoint, then continue pre-training in loop form.

  python -m launch.tpu --exp=loop_adapt:size=40b_loop --workdir=DIR

Expected seconds per step on v5p-512: 40b_loop 34.9 (compiled, not run).
Expected held-out loss of `make demo`: tiny_loop 4.203 -> 4.033.
Source: IQuest-Coder-V1 report, section on LoopCoder: the looped model is not trained from scratch.
"""

from experiments import common, mixtures


def get_config(arg: str = ''):
  config, run = common.base('loop_adapt', arg)

  config.init.transform = 'dense_to_loop'
  config.init.fold = 'copy'  # ours: the depth is equal, so the fold only adds gates; the rule is unpublished

  config.data.context = run.pick(full=8192, tiny=128)  # ours: as in pre-training
  config.data.learn = 'all'

  config.train.batch_rows = run.pick(full=512, tiny=16)  # ours: as in pre-training
  tokens = 0.1 * mixtures.tokens(mixtures.PRETRAIN_CODE)  # ours: a tenth of the code phase; unpublished
  config.train.steps = run.pick(full=common.steps(config, tokens), tiny=80)
  config.data.mixture = mixtures.staged(config.train.steps, mixtures.PRETRAIN_CODE)

  # ours: a third of the pre-training rate, since the second pass is new to the weights.
  peak = run.pick(full={'40b': 5e-5}, tiny=2e-3)
  config.optim.update(schedule='constant', peak_lr=peak, warmup=run.pick(full=0.01, tiny=0.1), decay=0.0, floor=1.0)
  return common.finish(config, run)
