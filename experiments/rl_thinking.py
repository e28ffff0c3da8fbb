"""Reinforcement learning of the thinking path: programs are sampled, executed against hidden tests, and reinforced.

  python -m launch.tpu --exp=rl_thinking:size=40b_loop --workdir=DIR

Source: IQuest-Coder-V1 report, section on reinforcement learning: GRPO without KL term, Clip-Higher, the fraction of 20
tests passed as the reward, 16 roll-outs of 64 prompts, a context of 96k, about 500 steps. DAPO (arXiv 2503.14476), whose
Clip-Higher it is, gives the rates.

Expected held-out pass rate of `make demo`: tiny_loop 41.8% -> 57.5%.
"""

from experiments import common


def get_config(arg: str = ''):
  config, run = common.base_of_rl('rl_thinking', arg)

  config.data.context = run.pick(full=98304, tiny=256)  # report: 96k, prompt included
  config.rl.max_tokens = run.pick(full=90112, tiny=96)  # ours: of an answer, which leaves 8k to the prompt
  # The report rewards the pass rate alone. What has weight 0 is only logged.
  config.rl.rewards = {'pass_rate': 1.0, 'code_block': 0.0, 'thinking': 0.0, 'overlong': 0.0}
  config.rl.overlong_cache = run.pick(full=8192, tiny=16)  # ours: the last tokens of an answer, in which 'overlong' falls

  # ours: an update has as many rows as its roll-outs fill, a multiple of this.
  config.train.batch_rows = run.pick(full=16, tiny=32)
  config.train.steps = run.pick(full=500, tiny=24)  # report: about 500

  # DAPO: constant after 20 steps of warm-up. ours at tiny: a rate that falls, since it has few steps.
  peak = run.pick(full=1e-6, tiny=1.5e-4)
  config.optim.update(schedule=run.pick(full='constant', tiny='cosine'), peak_lr=peak, warmup=run.pick(full=0.04, tiny=0.1))
  config.optim.update(decay=run.pick(full=0.0, tiny=0.9), floor=run.pick(full=1.0, tiny=0.1))

  config.eval.every = run.pick(full=25, tiny=6)
  config.checkpoint.every = run.pick(full=10, tiny=10)  # ours: a step takes much longer than in the stages before
  return common.finish(config, run)
