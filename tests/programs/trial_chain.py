"""`launch.chain` with the real stages and input, but one held-out row per source: a short run mostly evaluates."""

from launch import chain, command

_experiment = command.experiment


def with_one_row(text):
  config = _experiment(text)
  config.eval.rows = 1
  return config


if __name__ == '__main__':
  command.experiment = with_one_row
  command.run(chain.main, operands=True)
