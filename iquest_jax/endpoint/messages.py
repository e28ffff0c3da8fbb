"""Messages in both directions: this project's form, with thinking and calls in tags, and the form of the interface."""

import contextlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from iquest_jax.text import chat
from iquest_jax.text.chat import Message


def to_server(messages: Sequence[Message]) -> list[dict[str, Any]]:
  """Messages as the interface has them: calls apart from the content, results tied to them by an id."""
  converted, waiting = [], []
  for number, message in enumerate(messages):
    role, content = message['role'], message['content']
    calls = list(message.get('tool_calls', ()))
    if role == 'assistant' and not calls:
      reply = chat.parse(content)
      content, calls = reply.content, list(reply.tool_calls)
    one = {'role': role, 'content': content}
    if role == 'tool' and waiting:
      one['tool_call_id'] = waiting.pop(0)
    if calls:
      waiting = [f'call_{number}_{index}' for index in range(len(calls))]
      one['tool_calls'] = [
          {
              'id': key,
              'type': 'function',
              'function': {'name': call['name'], 'arguments': json.dumps(call['arguments'], ensure_ascii=False)},
          }
          for key, call in zip(waiting, calls)
      ]
    converted.append(one)
  return converted


def tools_to_server(tools: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
  """Definitions of tools, each in its envelope."""
  return [tool if 'function' in tool else {'type': 'function', 'function': tool} for tool in tools]


def from_server(message: Mapping[str, Any]) -> str:
  """What the model said as one text, thinking and calls in their tags, as this project's models write it.

  Raises:
    KeyError, TypeError, ValueError, AttributeError: it is not a message.
  """
  calls = []
  for call in message.get('tool_calls') or ():
    function, arguments = call['function'], call['function']['arguments']
    with contextlib.suppress(ValueError, RecursionError):  # what the model got wrong is graded, not refused
      arguments = json.loads(arguments) if isinstance(arguments, str) else arguments
    calls.append({'name': function['name'], 'arguments': arguments})
  thinking = message.get('reasoning_content') or message.get('reasoning') or ''
  content = message.get('content') or ''
  if not (isinstance(thinking, str) and isinstance(content, str)):
    raise TypeError('content that is not text')
  return chat.rendered({'role': 'assistant', 'content': content, 'thinking': thinking, 'tool_calls': calls})[1]
