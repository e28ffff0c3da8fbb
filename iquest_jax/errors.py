"""The errors that end a command, and the check of a name that a user gave.

`launch` prints each of them as one line and exits with its status. This module imports nothing of ours, so every other may
import it.
"""

import difflib
from collections.abc import Collection, Iterable


class UserError(Exception):
  """A user error; one line: where, what, the value, the way out."""

  status = 2


class RunStopped(Exception):
  """A run that must stop without a user error; one line."""

  status = 1


class Preempted(RunStopped):
  """A run that was asked to end and may be started again at once; nothing finished is lost."""

  status = 75  # EX_TEMPFAIL of sysexits.h, which schedulers can tell to requeue


class SilentError(RunStopped):
  """A run on hardware that computes wrongly without an error: nothing was saved since, and the line says what to cordon."""

  status = 76


class Stalled(RunStopped):
  """A run without a step for too long; the watchdog, which cannot raise in the main thread, exits with this status."""

  status = 77


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
