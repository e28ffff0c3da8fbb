"""Reads unified diffs as git writes them: which files they change, where, and the code before and after."""

import dataclasses
import re

_HUNK = re.compile(r'@@ -(\d+)(?:,(\d+))? ')


@dataclasses.dataclass
class FileChange:
  """What a patch does to one file.

  Attributes:
    old_path, new_path: '' where the file does not exist, and for paths that git quotes.
    old, new: the lines of the hunks before and after.
    ranges: (first, count) of the old lines that each hunk covers; lines count from 1.
  """

  old_path: str = ''
  new_path: str = ''
  old: list[str] = dataclasses.field(default_factory=list)
  new: list[str] = dataclasses.field(default_factory=list)
  ranges: list[tuple[int, int]] = dataclasses.field(default_factory=list)


def changes(patch: str) -> list[FileChange]:
  """The files of a patch, in its order."""
  found: list[FileChange] = []
  inside = False
  for line in re.findall(r'.+\n?', patch):
    # A removed line '-- x' looks like the header '--- x': headers count only between a 'diff' line and the first hunk.
    if line.startswith('diff '):
      found.append(FileChange())
      inside = False
    elif not found:
      continue
    elif match := _HUNK.match(line):
      found[-1].ranges.append((int(match[1]), int(match[2] or 1)))
      inside = True
    elif inside and line[0] in ' -+':
      if line[0] != '+':
        found[-1].old.append(line[1:])
      if line[0] != '-':
        found[-1].new.append(line[1:])
    elif line.startswith('--- a/'):
      found[-1].old_path = _path(line)
    elif line.startswith('+++ b/'):
      found[-1].new_path = _path(line)
  return found


def _path(line: str) -> str:
  # git ends a name that has spaces with a tab.
  return line[6:].removesuffix('\n').removesuffix('\t')
