"""For programs that run another one with something changed: `python -m tests.programs.X ... -m MODULE FLAGS`."""

import importlib
import runpy
import sys
from collections.abc import Callable, Sequence


def replace(place: str, around: Callable[[Callable], Callable]) -> None:
  """Replaces the function at 'module:name' or 'module:Class.name' by what `around` makes of it."""
  module, _, path = place.partition(':')
  owner = importlib.import_module(module)
  *path, name = path.split('.')
  for part in path:
    owner = getattr(owner, part)
  setattr(owner, name, around(getattr(owner, name)))


def run(arguments: Sequence[str]) -> None:
  """Runs `-m MODULE FLAGS` in this process as `python -m MODULE FLAGS` would."""
  _, module, *flags = arguments
  sys.argv = [module, *flags]
  runpy.run_module(module, run_name='__main__', alter_sys=True)
