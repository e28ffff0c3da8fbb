"""The two errors that end a command, and the check of a name that a user gave.

`launch` prints either error as one line and exits with its status. This module imports nothing of ours, so every other may
import it.
"""

import difflib
from collections.abc import Collection, Iterable


class UserError(Exception):
  """A user error, exit status 2; one line: where, what, the value, the way out."""


class RunStopped(Exception):
  """A run that must stop without a user error, exit status 1; one line."""


def check_name(what: str, name: str, options: Collection[str]) -> None:
  """Raises UserError, as in `what "name" does not exist; did you mean ...`, unless `name` is one of the options."""
  if name not in options:
    raise UserError(f'{what} "{name}" does not exist{nearest(name, options)}')


def nearest(name: str, options: Iterable[str]) -> str:
  """Returns '; did you mean "x"?' for the closest of `options`, or a list of all options if none is close."""
  options = sorted(options)
  close = difflib.get_close_matches(name, options, n=1, cutoff=0.5)
  if close:
    return f'; did you mean "{close[0]}"?'
  return f'; must be one of: {", ".join(options)}'
