"""The nouns of reinforcement learning: prompts, turns, trajectories and groups, as plain frozen records."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from iquest_jax.data.documents import Problem

# How a trajectory ends: by itself, out of tokens, out of turns, or because the environment broke.
ENDS = ('stop', 'length', 'turns', 'error')


@dataclasses.dataclass(frozen=True)
class Prompt:
  """One task of a problem set, and what its answers are scored by.

  Attributes:
    id: unique in its set.
    messages: what the model is asked, as in text/chat.py.
    tools: definitions of the tools that it may call.
    executes: names of those of them whose calls are executed and answered, as in rl/tools.py: all or none.
    problem: a program's hidden tests and reference solution, which never occur in `messages`; None where none is asked for.
    checks: the verifiable instructions of the messages, as in text/instructions.py.
    difficulty: one of data/documents.DIFFICULTIES, '' if unknown.
  """

  id: str
  messages: tuple[Mapping[str, Any], ...]
  tools: tuple[Mapping[str, Any], ...] = ()
  problem: Problem | None = None
  checks: tuple[Mapping[str, Any], ...] = ()
  difficulty: str = ''
  executes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Turn:
  """What the model sampled, then what the environment answered.

  Attributes:
    tokens: the sampled ids, the stop token included.
    logps: log-probability of each under the sampling parameters at temperature 1, float32 values.
    observation: ids that were appended to the live slot after them, up to the next sampled one.
  """

  tokens: tuple[int, ...]
  logps: tuple[float, ...]
  observation: tuple[int, ...] = ()

  def __post_init__(self):
    if len(self.tokens) != len(self.logps):
      raise ValueError(f'a turn of {len(self.tokens)} sampled tokens has {len(self.logps)} log-probabilities')


@dataclasses.dataclass(frozen=True)
class Trajectory:
  """One roll-out of a prompt: its ids are the prompt's, then those of every turn, sampled and observed.

  Attributes:
    prompt_id: id of the prompt.
    sample: index in the group.
    version: optimizer step of the parameters that sampled it.
    prompt_tokens: ids of the encoded prompt.
    end: one of ENDS.
    text: the decoded last answer, without the stop token.
    rewards: reward by component, unweighted.
    reward: their weighted sum.
    notes: what else is known, as values of JSON: the verdict, whether tests were memorised.
    earlier: the decoded answers before the last one, in order.
  """

  prompt_id: str
  sample: int
  version: int
  prompt_tokens: tuple[int, ...]
  turns: tuple[Turn, ...]
  end: str
  text: str
  rewards: Mapping[str, float] = dataclasses.field(default_factory=dict)
  reward: float = 0.0
  notes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  earlier: tuple[str, ...] = ()

  def __post_init__(self):
    if self.end not in ENDS:
      raise ValueError(f'a trajectory ends by one of {", ".join(ENDS)}, got {self.end!r}')

  @property
  def tokens(self) -> tuple[int, ...]:
    """All ids, in order."""
    return self.prompt_tokens + tuple(token for turn in self.turns for token in turn.tokens + turn.observation)

  @property
  def sampled(self) -> tuple[bool, ...]:
    """For each of `tokens` whether the model sampled it; only these carry a gradient."""
    turns = (flag for turn in self.turns for flag in [True] * len(turn.tokens) + [False] * len(turn.observation))
    return (False,) * len(self.prompt_tokens) + tuple(turns)

  @property
  def logps(self) -> tuple[float, ...]:
    """The log-probability of each of `tokens`; 0 where the model sampled nothing."""
    turns = (logp for turn in self.turns for logp in turn.logps + (0.0,) * len(turn.observation))
    return (0.0,) * len(self.prompt_tokens) + tuple(turns)


@dataclasses.dataclass(frozen=True)
class Group:
  """The roll-outs of one prompt, in order of `sample`: the advantages of each are relative to the others."""

  prompt: Prompt
  trajectories: tuple[Trajectory, ...]
