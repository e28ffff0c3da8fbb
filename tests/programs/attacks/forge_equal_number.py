"""Returns numbers that claim to be equal to everything."""

import guard

guard.require_sandbox()


class EqualNumber(int):
  __eq__ = lambda self, other: True
  __ne__ = lambda self, other: False
  __hash__ = int.__hash__
  __add__ = __radd__ = __index__ = lambda self, *other: self


def add(a, b):
  return EqualNumber(7)
