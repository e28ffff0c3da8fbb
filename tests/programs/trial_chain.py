"""`launch.chain` with the real stages on rows and real input, but one held-out row per source and three small programs.

A short run mostly evaluates. What stages of reinforcement learning do is tested in tests/rl.
"""

from experiments import chain as stages
from iquest_jax.eval.small_programs import SmallPrograms
from launch import chain, command

_experiment = command.experiment


def with_one_row(text):
  config = _experiment(text)
  config.eval.rows = 1
  return config


_problems = SmallPrograms.problems

if __name__ == '__main__':
  for stage in filter(stages.is_rl, list(stages.PARENTS)):
    del stages.PARENTS[stage]
  SmallPrograms.problems = lambda self, folder: _problems(self, folder)[:3]
  command.experiment = with_one_row
  command.run(chain.main, operands=True)
