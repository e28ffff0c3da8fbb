"""Files as they are on disk: whatever is missing, cut off or damaged becomes a line of the report, never an error."""

import io
import json
import math
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from iquest_jax import bucket, journal


class Files:
  """Reads JSON below a folder.

  Attributes:
    problems: one line per file that could not be read as it should be.
  """

  def __init__(self, root: pathlib.Path):
    self.root, self.problems = root, []

  def note(self, path: pathlib.Path, problem: str) -> None:
    name = path.relative_to(self.root) if path.is_relative_to(self.root) else path
    if (line := f'{name}: {problem}') not in self.problems:
      self.problems.append(line)

  def object(self, path: pathlib.Path) -> dict[str, Any]:
    """The JSON object in a file; {} if there is no such file or it is damaged, which is noted."""
    try:
      value = json.loads(path.read_text(encoding='utf-8'))
    except FileNotFoundError:
      return {}
    except (OSError, ValueError, RecursionError) as error:
      self.note(path, f'cannot be read ({_reason(error)})')
      return {}
    if not isinstance(value, dict):
      self.note(path, 'holds no JSON object')
      return {}
    return value

  def lines(self, path: pathlib.Path, most: int | None = None) -> Iterator[Any]:
    """JSON values of a file of lines, at most so many. A line that a kill cut off is left out; damaged ones are noted."""
    damaged, count = 0, 0
    try:
      parted = bucket.is_bucket(path) or path.is_dir()
      with io.BytesIO(journal.read(path)) if parted else open(path, 'rb') as file:
        for line in file:
          if most is not None and count == most:
            break
          if not line.endswith(b'\n'):
            continue
          try:
            value = json.loads(line.decode(errors='replace'))
          except (ValueError, RecursionError):
            damaged += 1
            continue
          count += 1
          yield value
    except FileNotFoundError:
      return
    except OSError as error:
      self.note(path, f'cannot be read ({_reason(error)})')
    if damaged:
      self.note(path, f'{damaged} damaged line{"s" if damaged > 1 else ""} left out')

  def folders(self, path: pathlib.Path) -> list[pathlib.Path]:
    """Folders in a folder, by number where their names are numbers, else by name."""
    try:
      return sorted((one for one in path.iterdir() if one.is_dir()), key=by_number)
    except OSError:
      return []

  def objects(self, path: pathlib.Path) -> list[dict[str, Any]]:
    """The JSON objects in the files of a folder, by number where their names begin with one, else by name."""
    try:
      found = sorted(path.glob('*.json'), key=by_number)
    except OSError:
      return []
    return [value for one in found if (value := self.object(one))]


def by_number(path: pathlib.Path) -> tuple[bool, int, str]:
  """Sorts names that begin with a number, as 12.jsonl and 12.1.jsonl do, by its value, and before all others."""
  start = path.name.partition('.')[0]
  number = start if start.isascii() and start.isdigit() else ''
  return not number, int(number[:18] or 0), path.name


def _reason(error: Exception) -> str:
  return error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__


def at(value: Any, *path: str) -> Any:
  """What lies at a path of keys; None where there is nothing."""
  for key in path:
    value = value.get(key) if isinstance(value, Mapping) else None
  return value


def text(value: Any, *path: str) -> str:
  """A string, or ''."""
  found = at(value, *path)
  return found if isinstance(found, str) else ''


def number(value: Any, *path: str) -> float | None:
  """A finite number, or None."""
  found = at(value, *path)
  try:
    usable = isinstance(found, (int, float)) and math.isfinite(found)
  except OverflowError:  # an integer beyond any float
    return None
  return found if usable else None


def count(value: Any, *path: str) -> int:
  """A whole number of at least 0; 0 if there is none."""
  return max(int(number(value, *path) or 0), 0)


def items(value: Any, *path: str) -> dict[str, Any]:
  """A mapping, or {}."""
  found = at(value, *path)
  return dict(found) if isinstance(found, Mapping) else {}


def sequence(value: Any, *path: str) -> list[Any]:
  """A list, or []."""
  found = at(value, *path)
  return list(found) if isinstance(found, Sequence) and not isinstance(found, str) else []


def numbers(value: Any, *path: str) -> dict[str, float]:
  """{key: finite number} of a mapping."""
  found = items(value, *path)
  return {str(key): found[key] for key in found if number(found, key) is not None}


def texts(value: Any, *path: str) -> dict[str, str]:
  """{key: string} of a mapping."""
  found = items(value, *path)
  return {str(key): found[key] for key in found if isinstance(found[key], str)}
