"""ChatML: messages to segments, and an assistant's text back to thinking, content and tool calls.

A message is {'role', 'content'}; an assistant's may have 'thinking' and 'tool_calls' ({'name', 'arguments'}, ...). It
is rendered as `<|im_start|>{role}\\n{content}<|im_end|>\\n`. Source: the released chat template. Other libraries render
the same by convert/chat_template.py.
"""

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from iquest_jax.errors import UserError
from iquest_jax.text import tokenizer
from iquest_jax.text.example import Segment, SpecialToken

Message = Mapping[str, Any]
# ours: the sentence; the tags with one definition per line are the released template's.
TOOLS = 'You may call these tools:\n<tools>\n{}\n</tools>'
ROLES = ('system', 'user', 'assistant', 'tool')

# ours: an argument that contains the closing tag must not close the call; in JSON "\/" is "/".
CLOSING_AS_JSON = r'<\/tool_call>'

# A span ends at its closing tag, or at the end of the text if it was cut off. One newline on each side is layout.
_SPAN = re.compile(
    r'<think>\n?(?P<thinking>.*?)\n?(?P<end></think>\n?|\Z)'
    r'|\n?<tool_call>(?P<call>.*?)(?P<call_end></tool_call>|\Z)',
    re.DOTALL,
)
_FUNCTION = re.compile(r'<function=([^>\s]+)>(.*)</function>', re.DOTALL)
_PARAMETER = re.compile(r'<parameter=([^>\s]+)>\n?(.*?)\n?</parameter>', re.DOTALL)


@dataclasses.dataclass(frozen=True)
class Reply:
  """What an assistant said.

  Attributes:
    content: the text without thinking and tool calls.
    thinking: the text inside <think>; several spans are joined by newlines.
    tool_calls: {'name': ..., 'arguments': {...}} per well-formed call. Values of the XML form are strings.
    problems: one line per malformed call and per tag that is not closed.
  """

  content: str
  thinking: str = ''
  tool_calls: tuple[dict[str, Any], ...] = ()
  problems: tuple[str, ...] = ()


def segments(
    messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = (), learn_all: bool = False
) -> list[Segment]:
  """The segments of a conversation: weight 1 on the assistant's content and its closing token, 0 elsewhere.

  With `learn_all`, weight 1 on everything but the turns of tools, whose results no model should learn to invent.

  Definitions of `tools` are written into the system turn, which is added if there is none. An assistant's content is
  encoded apart from its header, because a prompt ends there. That of the others is encoded with it: then the tokens are
  those of the whole text, although it begins with white space.

  Raises:
    UserError: a role does not exist, or a system message is not the first.
  """
  for number, message in enumerate(messages):
    if message['role'] not in ROLES:
      raise UserError(f'chat: role of message {number} must be one of {", ".join(ROLES)}, got "{message["role"]}"')
    if message['role'] == 'system' and number:
      raise UserError(f'chat: a system message must be the first, got one as message {number}; move it')
  if tools:
    system = [messages[0]['content']] if messages and messages[0]['role'] == 'system' else []
    listed = TOOLS.format('\n'.join(json.dumps(tool, ensure_ascii=False) for tool in tools))
    messages = [{'role': 'system', 'content': '\n\n'.join([*system, listed])}, *messages[len(system) :]]
  parts: list[Segment] = []
  for message in messages:
    role, content = rendered(message)
    frame = float(learn_all and message['role'] != 'tool')
    weight = float(role == 'assistant') or frame
    parts += [(SpecialToken(tokenizer.IM_START), frame)]
    if role == 'assistant':
      parts += [(f'{role}\n', frame), (content, weight)]
    else:
      parts += [(f'{role}\n{content}', weight)]
    parts += [(SpecialToken(tokenizer.IM_END), weight), ('\n', frame)]
  return parts


def prompt(messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()) -> list[Segment]:
  """The segments of a conversation that the assistant is to continue; they end with its opened turn."""
  return [*segments(messages, tools), (SpecialToken(tokenizer.IM_START), 0.0), ('assistant\n', 0.0)]


def rendered(message: Message) -> tuple[str, str]:
  """Role and content as they appear in the text: calls as JSON in <tool_call>, a tool's answer in a user turn."""
  if message['role'] == 'tool':
    return 'user', f'<tool_response>\n{message["content"]}\n</tool_response>'
  thinking = f'<think>\n{message["thinking"]}\n</think>\n' if message.get('thinking') else ''
  written = (json.dumps(call, ensure_ascii=False) for call in message.get('tool_calls', ()))
  calls = [f'<tool_call>\n{call.replace("</tool_call>", CLOSING_AS_JSON)}\n</tool_call>' for call in written]
  return message['role'], thinking + '\n'.join([*filter(None, [message['content']]), *calls])


def parse(text: str) -> Reply:
  """Parses what an assistant said; never raises. Tool calls may be JSON or `<function=NAME><parameter=KEY>value...`."""
  thinking, calls, problems = [], [], []
  for span in _SPAN.finditer(text):
    if not (span['end'] or span['call_end']):
      problems.append(f'<{"think" if span["call"] is None else "tool_call"}> is not closed')
    if span['call'] is None:
      thinking.append(span['thinking'])
    elif span['call_end']:
      try:
        calls.append(_call(span['call'].strip()))
      except (ValueError, RecursionError) as error:
        problems.append(f'malformed tool call: {error}')
  return Reply(_SPAN.sub('', text), '\n'.join(thinking), tuple(calls), tuple(problems))


def _call(text: str) -> dict[str, Any]:
  """A call in either form; raises ValueError with the reason."""
  if text.startswith('<function='):
    function = _FUNCTION.fullmatch(text)
    # What follows the last closing tag first: tags that nothing closes would be searched for from each of them.
    if not function or function[2].rpartition('</parameter>')[2].strip() or _PARAMETER.sub('', function[2]).strip():
      raise ValueError('not <function=NAME><parameter=KEY>value</parameter></function>')
    return {'name': function[1], 'arguments': dict(_PARAMETER.findall(function[2]))}
  call = json.loads(text)
  if not isinstance(call, dict) or not isinstance(call.get('name'), str) or not isinstance(call.get('arguments'), dict):
    raise ValueError('not an object with "name" and "arguments"')
  return {'name': call['name'], 'arguments': call['arguments']}
