"""ChatML, and which of it is learned: what the assistant says and that it stops there.

Source: the released chat template. `<|im_start|>{role}\\n{content}<|im_end|>\\n` a message.
"""

import json
from collections.abc import Sequence
from typing import Any

from iquest_jax.text import tokenizer
from iquest_jax.text.example import Segment, Structure


def segments(messages: Sequence[dict[str, Any]]) -> list[Segment]:
  """The segments of a conversation: weight 1 on the assistant's content and its closing token, 0 elsewhere."""
  parts: list[Segment] = []
  for message in messages:
    role, content = rendered(message)
    weight = float(role == 'assistant')
    parts += [
        (Structure(tokenizer.IM_START), 0.0),
        (f'{role}\n', 0.0),
        (content, weight),
        (Structure(tokenizer.IM_END), weight),
        ('\n', 0.0),
    ]
  return parts


def rendered(message: dict[str, Any]) -> tuple[str, str]:
  """Role and content as they stand in the text: calls as JSON in <tool_call>, a tool's answer as a user's message."""
  if message['role'] == 'tool':
    return 'user', f'<tool_response>\n{message["content"]}\n</tool_response>'
  written = (json.dumps(call, ensure_ascii=False) for call in message.get('tool_calls', ()))
  calls = [f'<tool_call>\n{call}\n</tool_call>' for call in written]
  return message['role'], '\n'.join([*filter(None, [message['content']]), *calls])
