"""The stages in order, with the two branches. No other file knows which stage follows which.

  pretrain (-> loop_adapt) -> anneal -> midtrain_32k -> midtrain_128k -> sft_instruct -> rl_instruct
                                                                     \\-> sft_thinking -> rl_thinking

The report's reinforcement learning on repositories (rl_swe) is not implemented yet.
Source: IQuest-Coder-V1 report, overview of the code-flow chain.
"""

from iquest_jax.errors import UserError, check_name
from iquest_jax.model import sizes

# stage -> the stage it continues; '' for the first.
PARENTS = {
    'pretrain': '',
    'loop_adapt': 'pretrain',
    'anneal': 'pretrain',
    'midtrain_32k': 'anneal',
    'midtrain_128k': 'midtrain_32k',
    'sft_instruct': 'midtrain_128k',
    'sft_thinking': 'midtrain_128k',
    'rl_instruct': 'sft_instruct',
    'rl_thinking': 'sft_thinking',
}


def is_loop(size: str) -> bool:
  return sizes.get(size).loops > 1


def stages(size: str) -> tuple[str, ...]:
  """The stages of a size in the order they run; only looped sizes have loop_adapt."""
  looped = is_loop(size)
  return tuple(stage for stage in PARENTS if looped or stage != 'loop_adapt')


def stages_on_rows(size: str) -> tuple[str, ...]:
  """Those of `stages` that train on packed rows; reinforcement learning does not."""
  return tuple(stage for stage in stages(size) if not is_rl(stage))


def parent(stage: str, size: str) -> str:
  """The stage that `stage` continues at this size; '' for the first. Raises UserError if the size has no such stage."""
  check_name('experiment', stage, PARENTS)
  if stage not in stages(size):
    looped = ', '.join(filter(is_loop, sizes.SIZES))
    raise UserError(f'experiment "{stage}": the size must be one of {looped}, got "{size}"')
  return 'loop_adapt' if stage == 'anneal' and is_loop(size) else PARENTS[stage]


def is_rl(stage: str) -> bool:
  """Whether a stage learns from problems or preferences instead of packed rows."""
  return stage.startswith('rl_')


def is_chat(stage: str) -> bool:
  """Whether a stage's model answers messages, so that a suite with both forms is given as a chat."""
  return stage.startswith(('sft_', 'rl_'))
