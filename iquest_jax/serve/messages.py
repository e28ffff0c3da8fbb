"""Messages and tools as clients send them, to those of text/chat.py."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from iquest_jax.serve.fields import Refused, short, typed, unicode_text
from iquest_jax.text.chat import Message


def read_messages(given: Sequence[Any]) -> list[Message]:
  """Messages as text/chat.py takes them; results are put into the order of their calls, since it writes no ids."""
  messages, turn, places = [], 0, {}
  for number, message in enumerate(given):
    at = f'messages[{number}]'
    if not isinstance(message, dict) or not isinstance(message.get('role'), str):
      raise Refused(f'{at} must be an object with a role', at)
    role = 'system' if message['role'] == 'developer' else message['role']
    one, place = {'role': role, 'content': _content(message, at)}, -1
    if role == 'assistant':
      calls = typed(message, 'tool_calls', list, None, f'{at}.') or []
      one['thinking'] = unicode_text(typed(message, 'reasoning_content', str, None, f'{at}.') or '', at)
      one['tool_calls'] = [_call(call, f'{at}.tool_calls[{n}]') for n, call in enumerate(calls)]
      places = {str(call.get('id')): n for n, call in enumerate(calls)}
    if role == 'tool':
      place = places.get(str(message.get('tool_call_id')), len(places))
    else:
      turn = number
    messages.append(((turn, place), one))
  return [one for _, one in sorted(messages, key=lambda message: message[0])]


def _content(message: Mapping[str, Any], at: str) -> str:
  content = message.get('content')
  if isinstance(content, list):
    parts = [part.get('text') if isinstance(part, dict) and part.get('type') == 'text' else None for part in content]
    content = ''.join(parts) if all(isinstance(part, str) for part in parts) else parts
  if content is None and message['role'] == 'assistant':
    content = ''
  if not isinstance(content, str):
    raise Refused(f'{at}.content must be a string or a list of parts of type text', f'{at}.content')
  return unicode_text(content, f'{at}.content')


def _call(call: Any, at: str) -> dict[str, Any]:
  try:
    name, arguments = call['function']['name'], call['function']['arguments']
    arguments = json.loads(arguments)
  except (KeyError, TypeError, ValueError, RecursionError):
    name, arguments = None, None
  if not isinstance(name, str) or not isinstance(arguments, dict):
    raise Refused(f'{at} must have a function with a name and arguments, a string with a JSON object', at)
  unicode_text(json.dumps([name, arguments], ensure_ascii=False), at)
  return {'name': name, 'arguments': arguments}


def read_tools(given: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
  """The definitions as they were given; none if the assistant may not call them."""
  choice, tools = given.get('tool_choice', 'auto'), typed(given, 'tools', list, [])
  if choice not in ('auto', 'none'):
    raise Refused(f'tool_choice must be "auto" or "none", got {short(choice)}', 'tool_choice')
  for number, tool in enumerate(tools):
    function = tool.get('function', tool) if isinstance(tool, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get('name'), str):
      raise Refused(f'tools[{number}] must be an object with a function that has a name', 'tools')
  unicode_text(json.dumps(tools, ensure_ascii=False), 'tools')
  return () if choice == 'none' else tuple(tools)
