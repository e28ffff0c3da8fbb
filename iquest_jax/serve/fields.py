"""Checks of single parameters, and the error that a wrong one is answered with."""

import json
from collections.abc import Mapping
from typing import Any

_KINDS = {bool: 'true or false', int: 'an integer', float: 'a number', str: 'a string', dict: 'an object', list: 'a list'}


class Refused(Exception):
  """A request that is answered with an error in OpenAI's form.

  Attributes:
    status: of HTTP.
    param: the parameter that is wrong, or None.
    code: OpenAI's name of the error, or None.
  """

  def __init__(self, message: str, param: str | None = None, status: int = 400, code: str | None = None):
    super().__init__(message)
    self.param, self.status, self.code = param, status, code


def typed(given: Mapping[str, Any], name: str, wanted: type, default: Any, prefix: str = '') -> Any:
  """The parameter of this type, or the default where it is absent or null; `prefix` says where it is, for the error.

  Raises:
    Refused: it has another type.
  """
  value = given.get(name)
  if value is None:
    return default
  allowed = (int, float) if wanted is float else wanted
  if not isinstance(value, allowed) or (isinstance(value, bool) and wanted is not bool):
    raise Refused(f'{prefix}{name} must be {_KINDS[wanted]}, got {kind(value)}', prefix + name)
  return value


def int32(given: Mapping[str, Any], name: str, default: int | None, least: int = 0) -> int | None:
  """An integer from `least` on, or the default; raises Refused for any other."""
  value = typed(given, name, int, default)
  if given.get(name) is not None and not least <= value < 2**31:
    raise Refused(f'{name} must be at least {least} and below 2^31, got {short(value)}', name)
  return value


def unicode_text(text: str, at: str) -> str:
  """Raises Refused for what is not text: JSON can hold half of a character beyond the basic plane."""
  try:
    text.encode()
  except UnicodeEncodeError:
    raise Refused(f'{at} must be Unicode text, got an unpaired surrogate', at) from None
  return text


def kind(value: Any) -> str:
  """What a JSON value is, for an error."""
  return 'a boolean' if isinstance(value, bool) else _KINDS.get(type(value), 'null')


def short(value: Any) -> str:
  """A value in an error of one line."""
  text = value if isinstance(value, str) else json.dumps(value)
  return text if len(text) <= 40 else text[:40] + '...'
