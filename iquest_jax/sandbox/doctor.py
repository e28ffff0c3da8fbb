"""What this machine can isolate and run."""

import dataclasses
import os
import sys

from iquest_jax.sandbox import bubblewrap, landlock, languages


@dataclasses.dataclass(frozen=True)
class Check:
  """One line of the report: `kind` is 'isolation' or 'language'; `missing` is empty if it works."""

  kind: str
  name: str
  missing: str
  note: str = ''


def examine() -> list[Check]:
  """Returns what works here and what is missing for the rest. Starts one empty sandbox, runs no program."""
  root = os.geteuid() == 0
  checks = [
      Check('isolation', 'bubblewrap', bubblewrap.missing(), 'under an unprivileged uid' if root else ''),
      Check('isolation', 'landlock', landlock.missing(), f'ABI {landlock.abi()}; weaker, see sandbox/landlock.py'),
  ]
  everyone = root and bool(checks[0].missing)
  for name, language in languages.LANGUAGES.items():
    lacking = languages.missing(name, everyone)
    paths = ', '.join(languages.tool_path(tool, everyone) for tool in language.tools)
    checks.append(Check('language', name, f'{", ".join(lacking)} not installed' if lacking else '', paths))
  return checks


def render(checks: list[Check]) -> str:
  """Returns the report: one line per check, then the isolation that is used."""
  lines = [f'{c.kind:9}  {c.name:10}  {"no: " + c.missing if c.missing else "yes  " + c.note}'.rstrip() for c in checks]
  usable = [c.name for c in checks if c.kind == 'isolation' and not c.missing]
  used = f'programs run under {usable[0]}' if usable else 'no program can run: install bubblewrap or use Linux 6.2 or newer'
  return '\n'.join([*lines, f'{used} (Python {sys.version.split()[0]})'])
