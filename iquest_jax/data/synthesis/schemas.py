"""Calls of tools held against the definitions of the tools: names, required arguments, types, enumerations.

The part of JSON Schema that definitions of tools use. A definition with any other keyword is refused, so that nothing
counts as checked that was not.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

_TYPES = {
    'string': str, 'integer': int, 'number': (int, float), 'boolean': bool, 'array': list, 'object': dict,
}  # fmt: skip
_KNOWN = {'type', 'description', 'properties', 'required', 'items', 'enum', 'additionalProperties', 'minimum', 'maximum'}
_NAME = re.compile(r'[A-Za-z_]\w{0,63}')


def problem_of_tools(tools: Sequence[Any]) -> str:
  """What is wrong with definitions {'name', 'description', 'parameters'}, '' if nothing is."""
  names = set()
  for tool in tools:
    if not isinstance(tool, dict) or not isinstance(tool.get('name'), str) or not _NAME.fullmatch(tool['name']):
      return 'a tool without a proper name'
    if tool['name'] in names:
      return f'two tools {tool["name"]}'
    names.add(tool['name'])
    if not isinstance(tool.get('description'), str) or not tool['description'].strip():
      return f'{tool["name"]} has no description'
    parameters = tool.get('parameters')
    if not isinstance(parameters, dict) or parameters.get('type') != 'object' or tool.keys() - _TOOL:
      return f'{tool["name"]} must have name, description and parameters of type object'
    if wrong := _problem_of_schema(parameters):
      return f'{tool["name"]}: {wrong}'
  return '' if names else 'no tools'


def problem_of_call(call: Any, tools: Sequence[Mapping[str, Any]]) -> str:
  """What is wrong with a call {'name', 'arguments'}, '' if nothing is; definitions must have passed problem_of_tools."""
  if not isinstance(call, dict) or not isinstance(call.get('arguments'), dict):
    return 'not an object with name and arguments'
  for tool in tools:
    if tool['name'] == call.get('name'):
      return _problem_of_value(call['arguments'], tool['parameters'], tool['name'])
  return f'no tool {call.get("name")}'


_TOOL = {'name', 'description', 'parameters'}


def _problem_of_schema(schema: Any) -> str:
  if not isinstance(schema, dict):
    return 'a schema that is not an object'
  if unknown := schema.keys() - _KNOWN:
    return f'keyword {min(unknown)} is not supported'
  if schema.get('type') not in _TYPES:
    return f'type {schema.get("type")} is not supported'
  if not isinstance(schema.get('enum', [0]), list) or not schema.get('enum', [0]):
    return 'an enumeration without values'
  if not all(_is(schema.get(limit, 0), 'number') for limit in ('minimum', 'maximum')):
    return 'a limit that is not a number'
  properties, required = schema.get('properties', {}), schema.get('required', [])
  if not isinstance(properties, dict) or not isinstance(required, list):
    return 'properties and required must be an object and a list'
  if missing := [name for name in required if not isinstance(name, str) or name not in properties]:
    return f'required {missing[0]} is not a property'
  inner = [*properties.values(), *([schema['items']] if 'items' in schema else [])]
  return next(filter(None, map(_problem_of_schema, inner)), '')


def _problem_of_value(value: Any, schema: Mapping[str, Any], where: str) -> str:
  if not _is(value, schema['type']):
    return f'{where} must be of type {schema["type"]}'
  if 'enum' in schema and not any(value == one and type(value) is type(one) for one in schema['enum']):
    return f'{where} is none of its enumeration'
  if _is(value, 'number') and not schema.get('minimum', value) <= value <= schema.get('maximum', value):
    return f'{where} is out of its limits'
  if isinstance(value, list):
    items = schema.get('items')
    return next(filter(None, (_problem_of_value(item, items, f'{where}[]') for item in value if items)), '')
  if isinstance(value, dict):
    properties = schema.get('properties', {})
    if missing := [name for name in schema.get('required', ()) if name not in value]:
      return f'{where} lacks {missing[0]}'
    if unknown := value.keys() - properties:
      return f'{where} has no parameter {min(unknown)}'
    return next(filter(None, (_problem_of_value(value[name], properties[name], f'{where}.{name}') for name in value)), '')
  return ''


def _is(value: Any, kind: str) -> bool:
  """A boolean does not count as a number, nor do infinity and not-a-number, which JSON lacks."""
  if isinstance(value, bool):
    return kind == 'boolean'
  if isinstance(value, float) and kind == 'number':
    return value - value == 0
  return isinstance(value, _TYPES[kind])
