"""One roll-out in progress: tokens of the engine in, what is appended to its slot out, and a trajectory in the end.

Ids only grow: the next prompt is the last one, what was sampled, and the encoded observation. Nothing that was sampled is
decoded and encoded again, so the trainer sees the ids that the sampler saw.
"""

import dataclasses

import numpy as np

from iquest_jax.errors import UserError
from iquest_jax.infer import text
from iquest_jax.infer.engine import Request, Token
from iquest_jax.infer.sampler import Sampling
from iquest_jax.rl.environment import Environment
from iquest_jax.rl.types import Prompt, Trajectory, Turn
from iquest_jax.text import chat, example
from iquest_jax.text.chat import Message
from iquest_jax.text.tokenizer import IM_END, Tokenizer


@dataclasses.dataclass(frozen=True)
class Extend:
  """Append `tokens` to the slot, then draw at most `length` tokens: the arguments of Engine.extend."""

  tokens: tuple[int, ...]
  length: int


class Episode:
  """The state of one roll-out. Any number may be in progress, each with an environment of its own.

  Attributes:
    trajectory: the result, without rewards; None until the episode is over.
  """

  def __init__(
      self,
      tokenizer: Tokenizer,
      environment: Environment,
      prompt: Prompt,
      *,
      sample: int,
      version: int,
      max_tokens: int,
  ):
    """Resets the environment and encodes the prompt.

    Args:
      sample: index in the group.
      version: optimizer step of the sampling parameters.
      max_tokens: most ids after the prompt, sampled and observed together.
    """
    self._tokenizer, self._environment, self._prompt = tokenizer, environment, prompt
    self._sample, self._version, self._left = sample, version, max_tokens
    self._turns: list[Turn] = []
    self._earlier: list[str] = []  # the replies of these turns
    self._tokens: list[int] = []  # of the reply that is being sampled
    self._logps: list[float] = []
    self.trajectory: Trajectory | None = None
    messages, tools = environment.reset(prompt)
    self._prompt_tokens = tuple(text.turn(tokenizer, messages, tools).tolist())

  def request(self, id: int, seed: int, noise: int) -> Request:
    """What to begin with. The slot is held, so that it can be extended; release it when the episode is over.

    Args:
      id: of the request, unique in the engine.
      seed, noise: what the random numbers follow from.
    """
    # Only at temperature 1, with nothing cut off, is the sampler's log-probability that of the drawn distribution.
    prompt, sampling = np.asarray(self._prompt_tokens, np.int32), Sampling(temperature=1.0, seed=seed)
    return Request(id, prompt, self._left, sampling, self._tokenizer.ends, hold=True, noise=noise)

  @property
  def may_continue(self) -> bool:
    """Whether the environment's answer to the reply that is being sampled may lead to another reply."""
    return len(self._turns) + 1 < self._environment.max_turns

  def observe(self, token: Token) -> Extend | Trajectory | None:
    """Takes the next token of the slot; None if the engine is to draw on.

    Only a token with an end makes the environment answer, which may take its time: the caller may wait in a thread.

    Raises:
      UserError: the environment cannot work on this machine at all.
    """
    self._tokens.append(token.token)
    self._logps.append(token.logp)
    self._left -= 1
    if not token.end:
      return None
    said = self._tokens[:-1] if token.end == 'stop' else self._tokens
    answer = self._tokenizer.decode(said)
    if token.end == 'length':
      return self._over('length', answer)
    try:
      messages = self._environment.step(chat.parse(answer))
    except UserError:
      raise
    except Exception as error:  # whatever an environment does, the other episodes go on
      return self._over('error', answer, {'error': f'{type(error).__name__}: {error}'})
    # A conversation continues only if the model closed its turn.
    if messages is None or token.token != self._tokenizer.id(IM_END):
      return self._over('stop', answer)
    if len(self._turns) + 1 == self._environment.max_turns:
      return self._over('turns', answer)
    observation = observed(self._tokenizer, messages)
    if len(observation) >= self._left:
      return self._over('length', answer)
    self._close_turn(observation)
    self._earlier.append(answer)
    self._left -= len(observation)
    return Extend(observation, self._left)

  def _close_turn(self, observation: tuple[int, ...] = ()) -> None:
    self._turns.append(Turn(tuple(self._tokens), tuple(self._logps), observation))
    self._tokens, self._logps = [], []

  def _over(self, end: str, answer: str, notes: dict | None = None) -> Trajectory:
    self._close_turn()
    self._environment.close()
    self.trajectory = Trajectory(
        self._prompt.id, self._sample, self._version, self._prompt_tokens, tuple(self._turns), end, answer,
        notes=notes or {}, earlier=tuple(self._earlier),
    )  # fmt: skip
    return self.trajectory


def observed(tokenizer: Tokenizer, messages: tuple[Message, ...]) -> tuple[int, ...]:
  """The ids between the token that closed the model's turn and its next turn, which they open."""
  return tuple(example.build(tokenizer, [('\n', 0.0), *chat.prompt(messages)]).tokens.tolist())
