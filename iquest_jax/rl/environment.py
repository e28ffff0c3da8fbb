"""Environments: what a model is asked, and what is answered to what it says, until the episode is over."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from iquest_jax.rl.tools import Tool, ToolError
from iquest_jax.rl.types import Prompt
from iquest_jax.text.chat import Message, Reply

Asked = tuple[Sequence[Message], Sequence[Mapping[str, Any]]]


class Environment(Protocol):
  """One episode at a time. Its answers depend on the prompt and the replies alone, so that an episode can be replayed.

  Attributes:
    max_turns: replies after which an episode is over, whatever the last one says.
  """

  max_turns: int

  def reset(self, prompt: Prompt) -> Asked:
    """Begins an episode; returns the messages and the definitions of the tools that the model is given."""

  def step(self, reply: Reply) -> tuple[Message, ...] | None:
    """The turns that follow a reply, such as results of tools; None if the episode is over.

    Raises:
      Exception: the environment is broken; the episode ends by 'error' and earns nothing.
    """

  def close(self) -> None:
    """Ends the episode, also one that is not over, and frees what it holds."""


class SingleTurn:
  """The simplest environment: one reply, after which the episode is over."""

  max_turns = 1

  def reset(self, prompt: Prompt) -> Asked:
    return prompt.messages, prompt.tools

  def step(self, reply: Reply) -> None:
    return None

  def close(self) -> None:
    pass


class ToolUse:
  """Executes the tool calls of each reply; the first reply without a call is the answer.

  What is wrong with a call is answered as its result, for the model to correct.
  """

  def __init__(self, tools: Sequence[Tool], max_turns: int):
    """Takes the tools whose definitions the prompts hold."""
    self._tools, self.max_turns = {tool.name: tool for tool in tools}, max_turns

  def reset(self, prompt: Prompt) -> Asked:
    return prompt.messages, prompt.tools

  def step(self, reply: Reply) -> tuple[Message, ...] | None:
    # A reply that is malformed elsewhere, as by a thought that is not closed, did not end by itself either.
    results = [*map(self._result, reply.tool_calls), *(f'error: {problem}' for problem in reply.problems)]
    return tuple({'role': 'tool', 'content': result} for result in results) or None

  def _result(self, call: Mapping[str, Any]) -> str:
    if call['name'] not in self._tools:
      return f'error: tool "{call["name"]}" does not exist; choose from {", ".join(self._tools)}'
    try:
      return self._tools[call['name']](call['arguments'])
    except ToolError as error:
      return f'error: {error}'

  def close(self) -> None:
    pass
