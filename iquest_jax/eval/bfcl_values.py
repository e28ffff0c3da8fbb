"""The rules by which BFCL accepts a call: names, required and unknown parameters, types, and the values among the allowed.

Source: the AST checker of the package `bfcl-eval`. In the Java and JavaScript categories a value is written in the
language and converted here; text inside quotes or brackets is never split, where the package splits at every comma.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from iquest_jax.eval import literals

# What a type of a definition is in Python, by language, and as JSON Schema has it.
TYPES = {
    'python': dict(string=str, integer=int, float=float, boolean=bool, array=list, tuple=list, dict=dict, any=str),
    'java': dict(
        byte=int, short=int, integer=int, long=int, float=float, double=float, boolean=bool, char=str, String=str, any=str,
        Array=list, ArrayList=list, Queue=list, Stack=list, Set=set, HashMap=dict, Hashtable=dict,
    ),
    'javascript': dict(String=str, integer=int, float=float, Bigint=int, Boolean=bool, dict=dict, array=list, any=str),
}  # fmt: skip
SCHEMA = {'dict': 'object', 'float': 'number', 'tuple': 'array', 'any': 'string'}
_OPEN, _CLOSE = '([{<', ')]}>'
# Per language and type: how a number is written, its suffix left out of the group.
_NUMBERS = {
    'java': {
        'byte': r'(-?\d+)', 'short': r'(-?\d+)', 'integer': r'(-?\d+)', 'long': r'(-?\d+)[lL]',
        'float': r'(-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)[fF]', 'double': r'(-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)',
    },
    'javascript': {'integer': r'(-?\d+)', 'Bigint': r'(-?\d+)n', 'float': r'(-?\d+(?:\.\d+)?)'},
}  # fmt: skip


def mismatch(call: Mapping[str, Any], function: Mapping[str, Any], allowed: Mapping[str, Any], language: str) -> str:
  """Why a call is not accepted; empty if it is.

  Args:
    call: {'name', 'positional', 'arguments'}.
    function: the definition: 'name' and 'parameters' with 'properties' and 'required'.
    allowed: values per parameter; '' among them says that the parameter may be left out.
  """
  arguments, parameters = call['arguments'], function['parameters']
  if call['name'] != function['name']:
    return f'calls {call["name"]}, not {function["name"]}'
  if call['positional']:
    return f'{call["name"]}: arguments without names'
  for name in parameters['required']:
    if name not in arguments:
      return f'{call["name"]}: required parameter {name} is missing'
  for name, value in arguments.items():
    if name not in parameters['properties'] or name not in allowed:
      return f'{call["name"]}: unexpected parameter {name}'
    if not _accepts(value, parameters['properties'][name], allowed[name], language):
      return f'{call["name"]}: {name} is {repr(value)[:100]}, allowed {repr(allowed[name])[:100]}'
  for name, values in allowed.items():
    if name not in arguments and '' not in values:
      return f'{call["name"]}: parameter {name} is missing'
  return ''


def _accepts(value: Any, described: Mapping[str, Any], allowed: Sequence[Any], language: str) -> bool:
  kind, types = described['type'], TYPES[language]
  expected, inner, item_kind = types[kind], None, (described.get('items') or {}).get('type')
  if expected is list and item_kind and kind in ('array', 'tuple', 'Array', 'ArrayList'):
    inner = types[item_kind]
  if language != 'python':
    if not isinstance(value, str):
      return False
    try:
      value = converted(value, kind, item_kind or '', language)
    except (RecursionError, ValueError):  # Brackets without end, and numbers of thousands of digits.
      return False
  elif expected is float and type(value) is int:
    value = float(value)
  fits, variable = _fits(value, allowed, expected, inner)
  if not fits:
    return False
  if variable or expected not in (dict, str, list):
    return value in allowed
  if expected is dict:
    return any(_same_dict(value, one) for one in allowed)
  if expected is str:
    return _plain(value) in [_plain(one) for one in allowed if isinstance(one, str)]
  if inner is dict:
    return any(len(value) == len(one) and all(map(_same_dict, value, one)) for one in allowed)
  return [_plain(item) for item in value] in [[_plain(item) for item in one] for one in allowed]


def _fits(value: Any, allowed: Sequence[Any], expected: type, inner: type | None) -> tuple[bool, bool]:
  """Whether a value has an accepted type, and whether it counts as the name of a variable.

  Allowed values of another type than the parameter's are names of variables, so their type is accepted, too.
  """
  stated = next((type(one) for one in allowed if one != ''), None)
  if type(value) is expected:
    variable = stated not in (None, expected)
    if inner is None:
      return True, variable
    lists = (all(_fits(item, one, inner, None)[0] for item in value) if type(one) is list else True for one in allowed)
    return any(lists), variable
  return (type(value) is stated, True)


def _plain(value: Any) -> Any:
  """A string without blanks, case and some punctuation, so that 'April 1, 2024' is 'april 1 2024'; others as they are."""
  return re.sub(r'[ ,./\-_*^]', '', value).lower().replace("'", '"') if isinstance(value, str) else value


def _same_dict(value: Any, allowed: Any) -> bool:
  """Whether a dict has allowed values under the keys of `allowed`, {key: values}, and no others."""
  if not isinstance(value, dict) or not isinstance(allowed, dict):
    return False
  known = all(key in allowed and _plain(item) in [_plain(one) for one in allowed[key]] for key, item in value.items())
  return known and all(key in value or '' in values for key, values in allowed.items())


def converted(text: str, kind: str, item_kind: str, language: str) -> Any:
  """The value of a literal of Java or JavaScript; the text itself if it is not of that kind, such as a variable's name."""
  if len(text) > literals.LONGEST:
    return text
  if number := _NUMBERS[language].get(kind):
    found = re.fullmatch(number, text)
    return TYPES[language][kind](found[1]) if found else text
  if kind in ('boolean', 'Boolean'):
    return text == 'true' if text in ('true', 'false') else text
  if kind == 'String' and language == 'javascript':
    return _unquoted(text)
  if kind in ('array', 'Array', 'ArrayList'):
    items = _items(text.strip(), kind)
    if kind == 'ArrayList' and item_kind in ('String', 'char'):
      return text if items is None else list(map(_unquoted, items))
    return text if items is None else [_item(item, item_kind, language) for item in items]
  if kind in ('dict', 'HashMap'):
    pairs = _pairs(text.strip(), language)
    return text if pairs is None else {_unquoted(key): _of_pair(item, language) for key, item in pairs}
  return text


def _item(text: str, kind: str, language: str) -> Any:
  if not kind or text.startswith(('[', '{')):
    return _guessed(text, language)
  return converted(text, kind, '', language)


def _of_pair(text: str, language: str) -> Any:
  """A value in a dict: in JavaScript one in quotes is read once more without them, as the package does."""
  nested = text.startswith(('[', '{')) or language == 'java'
  return _guessed(text if nested else text.strip('\'"'), language)


def _guessed(text: str, language: str) -> Any:
  """The value of a literal whose type is not stated."""
  if text in ('true', 'false'):
    return text == 'true'
  if _unquoted(text) != text:
    return _unquoted(text)
  if text[:1] == '[' and text[-1:] == ']':
    return [_guessed(item, language) for item in _pieces(text[1:-1])]
  if text[:1] == '{' and text[-1:] == '}':
    return {_unquoted(key): _of_pair(item, language) for key, item in _pairs(text, language) or ()}
  for kind in ('long', 'float') if language == 'java' else ():
    if isinstance(number := converted(text, kind, '', language), (int, float)):
      return number
  for number in (int, float):
    try:
      return number(text)
    except ValueError:
      continue
  return text


def _items(text: str, kind: str) -> list[str] | None:
  """The texts of an array's elements: [...], new Array(...), new int[]{...}, new ArrayList<>(...) or with {{ add(); }}."""
  if kind == 'array':
    found = re.fullmatch(r'\[(.*)\]|new\s+Array\s*\((.*)\)', text, re.DOTALL)
    return found and _pieces(found[1] if found[1] is not None else found[2])
  if kind == 'Array':
    found = re.search(r'new\s+\w+\s*\[\]\s*\{(.*)\}', text, re.DOTALL)
    return found and _pieces(found[1])
  listed, added = r'\(\s*(?:Arrays\.asList\((.*)\))?\s*\)', r'(?:\s*\{\{(.*)\}\})?'
  found = re.search(r'new\s+ArrayList\s*<\w*>\s*' + listed + added, text, re.DOTALL)
  if not found or found[1] or not found[2]:
    return found and _pieces(found[1] or '')
  return [argument for statement in _pieces(found[2], ';') for argument in _arguments(statement, 'add')]


def _pairs(text: str, language: str) -> list[tuple[str, str]] | None:
  """The texts of keys and values: {a: 1}, or new HashMap<>() with put() in braces."""
  if language == 'java':
    found = re.search(r'new\s+HashMap\s*<.*?>\s*\(\s*\)(?:\s*\{\s*\{?(.*?)\}?\s*\})?\s*;?$', text, re.DOTALL)
    return found and [tuple(pair) for part in _pieces(found[1] or '', ';') if len(pair := _arguments(part, 'put')) == 2]
  if not (text.startswith('{') and text.endswith('}')):
    return None
  pairs = [_pieces(pair, ':') for pair in _pieces(text[1:-1])]
  return [(pair[0], ':'.join(pair[1:])) for pair in pairs] if all(len(pair) > 1 for pair in pairs) else None


def _arguments(statement: str, method: str) -> list[str]:
  found = re.fullmatch(rf'{method}\((.*)\)', statement, re.DOTALL)
  return _pieces(found[1]) if found else []


def _unquoted(text: str) -> str:
  return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in '\'"' else text


def _pieces(text: str, separator: str = ',') -> list[str]:
  """The parts of a text between separators that are in no quotes and no brackets, stripped; no empty ones."""
  pieces, depth, quote, start = [], 0, '', 0
  for at, letter in enumerate(text):
    if quote:
      quote = '' if letter == quote and text[at - 1] != '\\' else quote
    elif letter in '\'"':
      quote = letter
    elif letter in _OPEN + _CLOSE:
      depth += 1 if letter in _OPEN else -1
    elif letter == separator and depth <= 0:
      pieces.append(text[start:at])
      start = at + 1
  return [piece.strip() for piece in (*pieces, text[start:]) if piece.strip()]


def typed(call: dict[str, Any], functions: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
  """A call whose arguments were written as bare text, those of other types than strings read as JSON where they are."""
  properties = next((f['parameters']['properties'] for f in functions if f['name'] == call['name']), {})
  arguments = {}
  for name, value in call['arguments'].items():
    arguments[name] = value
    if isinstance(value, str) and TYPES['python'].get(properties.get(name, {}).get('type'), str) is not str:
      try:
        arguments[name] = json.loads(value)
      except (ValueError, RecursionError):
        continue
  return call | {'arguments': arguments}
