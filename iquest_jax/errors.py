"""The two ways a command ends early, and the hint that goes with an unknown name.

Imports nothing of ours, so every room may use it: `launch` prints either as one line and exits with its status.
"""

import difflib
from collections.abc import Iterable


class UserError(Exception):
  """A person's mistake, told in one line: where, what, the value, the way out."""


class RunStopped(Exception):
  """A run that must not go on although nobody made a mistake: one line, exit status 1."""


def nearest(name: str, options: Iterable[str]) -> str:
  """Returns '; did you mean "x"?' for the closest of `options`, or the options themselves when none is close."""
  options = sorted(options)
  close = difflib.get_close_matches(name, options, n=1, cutoff=0.5)
  if close:
    return f'; did you mean "{close[0]}"?'
  return f'; there are: {", ".join(options)}'
