"""Chats in the form of OpenAI's messages, tool calls included, to conversations.

  {"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": null, "tool_calls": [
      {"id": "1", "type": "function", "function": {"name": "run", "arguments": "{\\"command\\": \\"ls\\"}"}}]},
    {"role": "tool", "tool_call_id": "1", "content": "a.py"}, ...], "tools": [...], "id": "..."}

`content` may be a list of parts of text; `reasoning_content`, as servers of open models name it, is thinking; a developer
is a system. A chat may carry `tests` that the code of its last answer must pass, as a problem does. Results are put into
the order of their calls, since text/chat.py writes no ids.
Source: OpenAI's reference of chat completions and of the format for fine-tuning.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from iquest_jax.data.documents import ROLES, Conversation, Drop, content_id
from iquest_jax.data.read import records

_FIELDS = ('repo', 'tests', 'function', 'difficulty', 'checks')
_COLUMNS = ('id', 'messages', 'tools', *_FIELDS)
THINKING = ('thinking', 'reasoning_content')


class _Malformed(ValueError):
  """The rule of a Drop, and what it saw."""


def read_chats(path: str | os.PathLike) -> Iterator[Conversation | Drop]:
  """The chats of a file of .jsonl, .jsonl.gz, .jsonl.zst or .parquet; a malformed line is a Drop in its place.

  Raises:
    UserError: the file is missing, a folder, or unreadable.
  """
  for where, record in records.records(path, _COLUMNS):
    yield record if isinstance(record, Drop) else read(record, where)


def read(record: Mapping[str, Any], where: str = '') -> Conversation | Drop:
  """The conversation of a record, whose calls are in OpenAI's form or in that of text/chat.py, or why it is none.

  Args:
    record: `messages` and `tools` may be JSON text; without `id`, it is a hash of them.
    where: what the evidence of a Drop begins with.
  """
  id = records.id_of(record, ('id',))
  try:
    messages, tools = records.parsed(record.get('messages')), records.parsed(record.get('tools'))
  except ValueError as error:
    return Drop('chat: messages or tools are not JSON', f'{where}: {error}')
  try:
    turns, tools = _messages(messages), _tools(tools)
    chat = Conversation(id or content_id(json.dumps([turns, tools], sort_keys=True)), tuple(turns), tools)
    return records.with_fields(chat, record, _FIELDS, where)
  except _Malformed as error:
    rule, evidence = error.args
    return Drop(rule, ': '.join(filter(None, (where, evidence))))


def _messages(given: Any) -> list[dict[str, Any]]:
  if not isinstance(given, list) or not all(isinstance(message, dict) for message in given):
    raise _Malformed('chat: messages are not a list of objects', '')
  if not given:
    raise _Malformed('chat: empty', '')
  messages, calls, results = [], [], {}
  for number, message in enumerate(given):
    role, at = message.get('role'), f'message {number}'
    role = 'system' if role == 'developer' else role
    if role not in ROLES:
      raise _Malformed('chat: unknown role', f'{at}: {str(role)[:40]}')
    if role == 'system' and number:
      raise _Malformed('chat: system message not first', at)
    if role != 'tool':
      messages += _answered(calls, results, at)
      calls, results = [], {}
    if role == 'tool':
      place = _call_of(message, calls, results, at)
      results[place] = {'role': role, 'content': _content(message, at)}
    elif role == 'assistant':
      messages.append(_assistant(message, at))
      calls = [call.get('id') for call in message.get('tool_calls') or ()]
    else:
      messages.append({'role': role, 'content': _content(message, at)})
  # A chat may end with calls whose results nobody wrote down, but not with some of them.
  messages += _answered(calls, results, 'the end') if results else []
  if not any(message['role'] == 'assistant' for message in messages):
    raise _Malformed('chat: no turn of the assistant', '')
  return messages


def _assistant(message: Mapping[str, Any], at: str) -> dict[str, Any]:
  if message.get('function_call'):
    raise _Malformed('chat: function_call instead of tool_calls', at)
  if message.get('weight') == 0:
    raise _Malformed('chat: a turn that must not be learned', at)
  turn = {'role': 'assistant', 'content': _content(message, at)}
  if thinking := records.field(message, THINKING):
    if not isinstance(thinking, str):
      raise _Malformed('chat: content that is not text', f'{at}: thinking')
    turn['thinking'] = thinking
  calls = message.get('tool_calls') or []
  if not isinstance(calls, list):
    raise _Malformed('chat: malformed tool call', at)
  if calls:
    turn['tool_calls'] = [_call(call, at) for call in calls]
  if not turn['content'].strip() and len(turn) == 2:
    raise _Malformed('chat: an empty turn of the assistant', at)
  return turn


def _call(call: Any, at: str) -> dict[str, Any]:
  function = (call.get('function') or call) if isinstance(call, dict) else None
  if not isinstance(function, dict) or not isinstance(function.get('name'), str) or not function['name']:
    raise _Malformed('chat: malformed tool call', at)
  try:
    arguments = records.parsed(function.get('arguments'))
  except ValueError as error:
    raise _Malformed('chat: arguments are not a JSON object', f'{at}: {error}') from None
  if not isinstance(arguments, dict):
    raise _Malformed('chat: arguments are not a JSON object', f'{at}: {type(arguments).__name__}')
  return {'name': function['name'], 'arguments': arguments}


def text_of(content: Any) -> str | None:
  """The text of a turn, whole or in parts; None if it is something else."""
  if isinstance(content, list):
    texts = [part.get('text') if isinstance(part, dict) and part.get('type') == 'text' else part for part in content]
    content = ''.join(texts) if all(isinstance(text, str) for text in texts) else None
  return content if isinstance(content, str) else None


def _content(message: Mapping[str, Any], at: str) -> str:
  content = message.get('content')
  if content is None and message.get('role') in ('assistant', 'tool'):
    return ''
  if (text := text_of(content)) is None:
    raise _Malformed('chat: content that is not text', at)
  return text


def _call_of(message: Mapping[str, Any], calls: Sequence[Any], results: Mapping[int, Any], at: str) -> int:
  """Which of the calls before it a result answers: the one of its id, without an id the next."""
  id = message.get('tool_call_id')
  for place, call in enumerate(calls):
    if place not in results and (id is None or id == call):
      return place
  raise _Malformed('chat: tool result without its call', at)


def _answered(calls: Sequence[Any], results: Mapping[int, dict[str, Any]], at: str) -> list[dict[str, Any]]:
  if len(results) < len(calls):
    raise _Malformed('chat: call without its result', f'before {at}')
  return [results[place] for place in range(len(calls))]


def tools_of(given: Any) -> tuple[dict[str, Any], ...] | None:
  """Definitions of tools, () for None; None if they are something else."""
  if given is None:
    return ()
  return tuple(given) if isinstance(given, list) and all(map(_is_definition, given)) else None


def _tools(given: Any) -> tuple[dict[str, Any], ...]:
  if (tools := tools_of(given)) is None:
    raise _Malformed('chat: malformed tools', '')
  return tools


def _is_definition(tool: Any) -> bool:
  function = (tool.get('function') or tool) if isinstance(tool, dict) else None
  return isinstance(function, dict) and isinstance(function.get('name'), str)
