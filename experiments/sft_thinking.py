"""Thinking tuning (first half of the thinking path): answers after reasoning in <think>, long contexts.

  python -m launch.tpu --exp=sft_thinking --workdir=DIR

Expected seconds per step on v5p-512: 7b 5.9, 14b 11.6, 40b 32.7, 40b_loop 65.3 (compiled, not run).
Expected held-out loss of `make demo`: tiny_loop 3.470 -> 1.931.
Source: IQuest-Coder-V1 report, section on supervised fine-tuning; the thinking path branches after stage 2.2.
"""

from experiments import common, mixtures


def get_config(arg: str = ''):
  config, run = common.base('sft_thinking', arg)

  config.data.context = run.pick(full=131072, tiny=512)  # ours: reasoning and trajectories keep the full context
  config.data.learn = 'assistant'  # of a chat, the assistant's turns only

  config.train.batch_rows = run.pick(full=32, tiny=4)  # ours: 4 Mi tokens per step, as before
  tokens = 5000 * 2**22  # ours: about 21B packed tokens; unpublished
  # At tiny, a checkpoint that solves about a third of small_programs, so that something is left to rl_thinking.
  config.train.steps = run.pick(full=common.steps(config, tokens), tiny=90)
  phases = [phase | ({} if run.tiny else mixtures.SFT_TASKS) for phase in mixtures.SFT_THINKING]
  config.data.mixture = mixtures.staged(config.train.steps, *phases)
  # The report names the benchmarks' scores; a source's own held-out loss needs no answers. ours: twelve decisions or more.
  config.data.closed_loop.every = run.pick(full=250, tiny=0)
  config.data.closed_loop.benchmarks = tuple((source, 'held_out') for source in mixtures.sources(*phases))
  config.eval.every = run.pick(full=250, tiny=45)

  # ours: the report only names the shape.
  peak = run.pick(full={'7b': 2e-5, '14b': 2e-5, '40b': 1e-5}, tiny=1.5e-3)
  config.optim.update(schedule='cosine', peak_lr=peak, warmup=run.pick(full=0.03, tiny=0.1), decay=0.7, floor=0.1)

  config.eval.suites += run.pick(full=common.BENCHMARKS, tiny=('small_programs',))
  return common.finish(config, run)
