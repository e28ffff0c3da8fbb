"""Python values as JSON lines between the candidate and the grader. Never pickle: decoding builds plain data only.

Subclasses of the built-in containers and numbers travel as their base type, so that an overridden `__eq__` of the
candidate never reaches a comparison. Other objects travel as the number of a handle, if the sender keeps handles.
"""

import json
import os
from collections.abc import Callable

LONGEST_LINE = 16 << 20
_BY_TAG = {'tuple': tuple, 'set': set, 'frozenset': frozenset, 'bytearray': bytearray}


def encode(value: object, handle: Callable[[object], int] | None = None) -> object:
  """Returns `value` as JSON data, everything but None, bool, int, float, str and list with a tag.

  Raises:
    TypeError: a value has no such form and there are no handles.
    RecursionError: the value is nested too deeply or contains itself.
  """
  if value is None or value is True or value is False:
    return value
  for kind in (int, float, str):
    if isinstance(value, kind):
      plain = kind.__add__(value, kind())
      return plain if kind is not int or abs(plain) < 1 << 63 else {'$': 'int', 'v': hex(plain)}
  if isinstance(value, list):
    return [encode(item, handle) for item in list.__iter__(value)]
  if isinstance(value, dict):
    return {'$': 'dict', 'v': [[encode(k, handle), encode(v, handle)] for k, v in dict.items(value)]}
  if isinstance(value, (tuple, set, frozenset)):
    tag = next(kind for kind in (tuple, set, frozenset) if isinstance(value, kind))
    return {'$': tag.__name__, 'v': [encode(item, handle) for item in tag.__iter__(value)]}
  if type(value) in (bytes, bytearray):
    return {'$': type(value).__name__, 'v': value.hex()}
  if type(value) is complex:
    return {'$': 'complex', 'v': [value.real, value.imag]}
  if type(value) is range:
    return {'$': 'range', 'v': [encode(part) for part in (value.start, value.stop, value.step)]}
  if handle is None:
    raise TypeError(f'a value of type {type(value).__name__} cannot be sent')
  return {'$': 'handle', 'v': handle(value)}


def decode(data: object, handle: Callable[[int], object] | None = None) -> object:
  """Returns the value that `encode` was given, handles resolved by `handle`.

  Raises:
    ValueError: the data is not of that form.
  """
  if isinstance(data, list):
    return [decode(item, handle) for item in data]
  if not isinstance(data, dict):
    return data
  try:
    tag, content = data['$'], data['v']
    if tag == 'handle' and handle is not None:
      return handle(int(content))
    if tag == 'int':
      return int(content, 16)
    if tag == 'dict':
      return {decode(k, handle): decode(v, handle) for k, v in content}
    if tag in ('bytes', 'bytearray'):
      return bytes.fromhex(content) if tag == 'bytes' else bytearray.fromhex(content)
    if tag == 'complex':
      return complex(*content)
    if tag == 'range':
      return range(*[decode(part) for part in content])
    return _BY_TAG[tag](decode(item, handle) for item in content)
  except (KeyError, TypeError, ValueError) as error:
    raise ValueError(f'not a value: {error!r}'[:200]) from None


class Channel:
  """Messages as JSON lines over two pipes."""

  def __init__(self, read: int, write: int):
    self._reader, self._write = os.fdopen(read, 'rb'), write

  def send(self, message: dict) -> None:
    """Raises OSError if the other side is gone."""
    data = memoryview(json.dumps(message).encode() + b'\n')
    while data:
      data = data[os.write(self._write, data) :]

  def receive(self) -> dict | None:
    """Returns the next message, or None at the end.

    Raises:
      ValueError: the line is too long or not a message.
      RecursionError: the message is nested too deeply.
    """
    line = self._reader.readline(LONGEST_LINE)
    if not line.endswith(b'\n'):
      if len(line) == LONGEST_LINE:
        raise ValueError(f'a message of more than {LONGEST_LINE} bytes')
      return None
    message = json.loads(line)
    if not isinstance(message, dict):
      raise ValueError('not a message')
    return message
