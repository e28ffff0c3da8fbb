"""Files of documents that this project made: beside each lies a report of what was made, with the hash of the file.

Only with it are the `checks` believed that its documents name; from any other file they could be anybody's claim.
"""

import hashlib
import json
import pathlib
from typing import Any

from iquest_jax.data.funnel import Funnel
from iquest_jax.errors import UserError

_SUFFIX = '.funnel.json'


def report_path(path: str | pathlib.Path) -> pathlib.Path:
  """Where the report of a file lies."""
  return pathlib.Path(path).with_suffix(_SUFFIX)


def report(content: str, funnel: Funnel) -> dict[str, Any]:
  """The report of a file with this content: what was made and rejected by which check."""
  return {'funnel': funnel.to_json(), 'sha256': hashlib.sha256(content.encode()).hexdigest()}


def funnel_of(path: str | pathlib.Path) -> Funnel | None:
  """The counts in the report of a file, None if it has none; raises UserError if the report is damaged."""
  found = _read(path)
  return Funnel.from_json(found['funnel']) if found else None


def are_checks_believed(path: str | pathlib.Path) -> bool:
  """Whether a file is as this project made it; raises UserError if its report is damaged."""
  if not (found := _read(path)):
    return False
  with open(path, 'rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest() == found.get('sha256')


def _read(path: str | pathlib.Path) -> dict[str, Any] | None:
  where = report_path(path)
  try:
    found = json.loads(where.read_text())
    Funnel.from_json(found['funnel']).check()
    return found
  except FileNotFoundError:
    return None
  except (OSError, ValueError, KeyError, TypeError, AssertionError) as error:
    raise UserError(f'--sources: {where} is damaged ({error!r}); make the documents again, or remove it') from None
