"""Patches of one file, as git writes them: their hunks, and the text after them, strictly where they say or not at all."""

import dataclasses
import re

_HUNK = re.compile(r'@@ -(\d+)(?:,(\d+))? \+\d+(?:,\d+)? @@')
_LINE = re.compile(r'.*\n|.+$')


@dataclasses.dataclass
class Hunk:
  """Lines with their ends; `first` is the number, from 0, of the first old one."""

  first: int
  old: list[str] = dataclasses.field(default_factory=list)
  new: list[str] = dataclasses.field(default_factory=list)


def paths(patch: str) -> list[str]:
  """The old path of each file that a patch changes, '' for one that it adds or whose name git quotes."""
  heads = re.findall(r'^diff --git .*\n(?:(?!@@|diff --git ).*\n)*', patch, re.M)
  found = [re.search(r'^--- a/(.+?)\t?$', head, re.M) for head in heads]
  return [match[1] if match else '' for match in found]


def hunks(patch: str) -> list[Hunk]:
  """The hunks of a patch of one file, in order."""
  found, inside, last = [], False, ()
  for line in _LINE.findall(patch):
    if match := _HUNK.match(line):
      # A hunk without old lines stands behind the line that it names.
      found.append(Hunk(int(match[1]) - (match[2] != '0')))
      inside = True
    elif line.startswith('diff '):
      inside = False
    elif inside and line[0] in ' -+':
      last = {' ': (found[-1].old, found[-1].new), '-': (found[-1].old,), '+': (found[-1].new,)}[line[0]]
      for side in last:
        side.append(line[1:])
    elif inside and line[0] == '\\':  # the line before has no end
      for side in last:
        side[-1] = side[-1].removesuffix('\n')
  return found


def added(patch: str) -> list[str]:
  """The lines that a patch of one file adds, without their ends."""
  return [line.rstrip('\n') for hunk in hunks(patch) for line in hunk.new if line not in hunk.old]


def apply(text: str, patch: str) -> str | None:
  """The new text; None if the old lines of a hunk are not where it says.

  A text that is the old lines of the only hunk, as an excerpt is, becomes its new lines.
  """
  lines, made, at = _LINE.findall(text), [], 0
  found = hunks(patch)
  if len(found) == 1 and lines == found[0].old:
    return ''.join(found[0].new)
  for hunk in found:
    end = hunk.first + len(hunk.old)
    if hunk.first < at or lines[hunk.first : end] != hunk.old:
      return None
    made += [*lines[at : hunk.first], *hunk.new]
    at = end
  return ''.join([*made, *lines[at:]]) if found else None
