"""Calls that an assistant wrote as text: into the tags of text/chat.py, and their values into the types of their tool."""

import math
import re
from collections.abc import Mapping
from typing import Any

from iquest_jax.data.read import records

# What is thinking or a call, or contains what only looks like one.
_PART = re.compile(
    r'<think>.*?(?:</think>|\Z)|<thinking>(?P<thinking>.*?)(?P<end></thinking>|\Z)'
    r'|<tool_call>.*?(?:</tool_call>|\Z)|(?P<call><function=[^>\s]+>.*?(?:</function>|\Z))',
    re.DOTALL,
)
_TYPES = {
    'integer': int, 'number': (int, float), 'boolean': bool, 'array': list, 'object': dict, 'null': type(None),
}  # fmt: skip
# As programs in Python print them.
_PYTHON = {'True': 'true', 'False': 'false', 'None': 'null'}


def tagged(text: str) -> str:
  """A reply with <think> for <thinking>, and with <tool_call> around every <function=...>."""
  end = text.find('</think>')
  # Where the prompt opened the thinking, the reply only closes it.
  if end >= 0 and not re.search('<think>|<tool_call>|<function=', text[:end]):
    text = '<think>' + text

  def one(part: re.Match) -> str:
    if part['call'] is not None:
      return f'<tool_call>{part[0]}</tool_call>'
    if part['thinking'] is not None:
      return f'<think>{part["thinking"]}' + ('</think>' if part['end'] else '')
    return part[0]

  return _PART.sub(one, text)


def properties(definition: Mapping[str, Any]) -> dict[str, Any]:
  """JSON schemas of the parameters of a tool; {} if it names none."""
  parameters = records.field(definition, ('parameters', 'input_schema'))
  found = parameters.get('properties') if isinstance(parameters, dict) else None
  return found if isinstance(found, dict) else {}


def value(text: Any, schema: Any) -> Any:
  """A value that was written as text, in the type of its JSON schema; a text where the schema allows one or says nothing.

  Raises:
    ValueError: the text is not a value of that type.
  """
  types = _types(schema)
  if not isinstance(text, str) or not types or 'string' in types:
    return text
  stripped = text.strip()
  found = records.parsed(_PYTHON.get(stripped, stripped))
  # For Python, a boolean is an integer.
  kinds = ['boolean'] if isinstance(found, bool) else [name for name in types if name in _TYPES and name != 'boolean']
  if not any(name in types and isinstance(found, _TYPES[name]) for name in kinds):
    raise ValueError(f'must be of type {" or ".join(types)}, got {text[:40]}')
  if isinstance(found, float) and not math.isfinite(found):
    raise ValueError(f'must be a finite number, got {text[:40]}')
  return found


def _types(schema: Any) -> tuple[str, ...]:
  """Names of the types that a JSON schema allows; () if it does not say."""
  if not isinstance(schema, dict):
    return ()
  named = schema.get('type')
  if isinstance(named, str):
    return (named,)
  if isinstance(named, list):
    return tuple(name for name in named if isinstance(name, str))
  either = records.field(schema, ('anyOf', 'oneOf'))
  if not isinstance(either, list) or not all(map(_types, either)):
    return ()
  return tuple(name for one in either for name in _types(one))
