"""Reinforcement learning of the instruct path: answers are scored by instructions that can be verified.

  python -m launch.tpu --exp=rl_instruct:size=40b --workdir=DIR

Source: IQuest-Coder-V1 report, section on reinforcement learning; it names the path and gives no numbers, so those of
rl_thinking are taken where nothing else is said.

Expected held-out pass rate of `make demo`: tiny_loop 43.3% -> 53.3%.
"""

from experiments import common


def get_config(arg: str = ''):
  config, run = common.base_of_rl('rl_instruct', arg)

  config.rl.problems = run.pick(full=('problems/instructions.jsonl',), tiny=('corpus/instructions/rl.jsonl',))
  config.rl.held_out = run.pick(
      full=('problems/instructions_held_out.jsonl',), tiny=('corpus/instructions/held_out.jsonl',)
  )
  config.data.context = run.pick(full=32768, tiny=256)  # ours: as in sft_instruct
  config.rl.max_tokens = run.pick(full=16384, tiny=96)  # ours
  # ours: the shares of the instructions that an answer keeps to and of the expected tool calls, as far as a prompt has any.
  # What has weight 0 is only logged.
  config.rl.rewards = {'instructions': 1.0, 'tool_values': 1.0, 'tool_schema': 0.0, 'overlong': 0.0}
  config.rl.overlong_cache = run.pick(full=2048, tiny=16)  # ours: the last tokens of an answer, in which 'overlong' falls

  # With rl.objective = 'dpo' it learns from these instead, as for safety rules and calibration. ours: all numbers.
  config.rl.dpo = {
      'pairs': run.pick(full=('problems/preferences.jsonl',), tiny=('corpus/preferences/train.jsonl',)),
      'held_out': run.pick(full=('problems/preferences_held_out.jsonl',), tiny=('corpus/preferences/held_out.jsonl',)),
      'pairs_per_step': run.pick(full=64, tiny=16),
      'beta': 0.1,
  }

  # ours: an update has as many rows as its roll-outs, or pairs, fill, a multiple of this.
  config.train.batch_rows = run.pick(full=64, tiny=32)
  config.train.steps = run.pick(full=200, tiny=10)  # ours

  # DAPO: constant after 20 steps of warm-up.
  peak = run.pick(full=1e-6, tiny=2e-4)
  config.optim.update(schedule='constant', peak_lr=peak, warmup=0.1, decay=0.0, floor=1.0)

  config.eval.every = run.pick(full=25, tiny=5)
  config.checkpoint.every = run.pick(full=10, tiny=10)  # ours: a step takes much longer than in the stages before
  return common.finish(config, run)
