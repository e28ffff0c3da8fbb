"""Process trees and folders as /proc and the file system show them: what a job uses, and how to end it completely."""

import contextlib
import dataclasses
import os
import signal
import stat
import time

_TICKS, _PAGE = os.sysconf('SC_CLK_TCK'), os.sysconf('SC_PAGE_SIZE')


@dataclasses.dataclass(frozen=True)
class Usage:
  """What a tree uses at one moment: `cpu_s` includes ended children, `tasks` counts threads."""

  cpu_s: float = 0.0
  memory_bytes: int = 0
  tasks: int = 0


def children(pid: int) -> list[int]:
  """Returns the children of all threads of a process, zombies included; none if it is gone."""
  found = []
  with contextlib.suppress(OSError):
    for thread in os.listdir(f'/proc/{pid}/task'):
      with contextlib.suppress(OSError), open(f'/proc/{pid}/task/{thread}/children') as file:
        found += map(int, file.read().split())
  return found


def descendants(pid: int) -> list[int]:
  """Returns all processes below `pid`, parents first."""
  tree = children(pid)
  for process in tree:
    tree += children(process)
  return tree


def _stat(pid: int) -> list[str]:
  """Fields of /proc/pid/stat from the third on (state is 0); empty if the process is gone."""
  with contextlib.suppress(OSError), open(f'/proc/{pid}/stat') as file:
    return file.read().rpartition(')')[2].split()
  return []


def usage(pid: int) -> Usage:
  """Returns what the processes below `pid` use; shared pages count once per process."""
  own = _stat(pid)
  ticks = sum(map(int, own[13:15]))  # cutime, cstime
  memory = tasks = 0
  for fields in filter(None, map(_stat, descendants(pid))):
    ticks += sum(map(int, fields[11:15]))  # utime, stime, cutime, cstime
    tasks += int(fields[17])
    memory += int(fields[21]) * _PAGE
  return Usage(ticks / _TICKS, memory, tasks)


def proportional_memory(pid: int) -> int:
  """Returns the resident bytes below `pid`, each shared page counted once; slower than `usage`."""
  total = 0
  for process in descendants(pid):
    try:
      with open(f'/proc/{process}/smaps_rollup') as file:
        total += 1024 * next(int(line.split()[1]) for line in file if line.startswith('Pss:'))
    except (OSError, StopIteration):
      fields = _stat(process)
      total += int(fields[21]) * _PAGE if fields else 0
  return total


def kill_descendants(pid: int) -> None:
  """Kills everything below `pid`, a subreaper or an init process, until nothing alive is left."""
  while True:
    alive = [process for process in descendants(pid) if _stat(process)[:1] not in ([], ['Z'], ['X'])]
    if not alive:
      return
    for process in alive:
      with contextlib.suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)
    time.sleep(0.001)


def disk_usage(folder: str) -> tuple[int, int]:
  """Returns (files, bytes on disk) below `folder`; a tree too deep to walk counts as endlessly many files."""
  files = size = 0
  folders = [folder]
  for path in folders:
    try:
      with os.scandir(path) as entries:
        for entry in entries:
          files += 1
          with contextlib.suppress(FileNotFoundError):
            size += entry.stat(follow_symlinks=False).st_blocks * 512
            if entry.is_dir(follow_symlinks=False):
              folders.append(entry.path)
    except (FileNotFoundError, PermissionError):
      continue
    except OSError:
      return 1 << 62, size
  return files, size


def remove_folder(folder: str) -> None:
  """Removes a folder however deep, unreadable or full of links; nobody may be writing to it."""
  counter = 0
  while True:
    os.chmod(folder, 0o700)
    names = os.listdir(folder)
    if not names:
      return os.rmdir(folder)
    for name in names:
      path = os.path.join(folder, name)
      if not stat.S_ISDIR(os.lstat(path).st_mode):
        os.unlink(path)
        continue
      os.chmod(path, 0o700)
      for inner in os.listdir(path):  # Lifting what is inside one level up keeps paths short at any depth.
        counter += 1
        inner_path = os.path.join(path, inner)
        if stat.S_ISDIR(os.lstat(inner_path).st_mode):
          os.chmod(inner_path, 0o700)  # Renaming a folder writes its '..'.
        os.rename(inner_path, os.path.join(folder, f'.lifted-{counter}'))
      os.rmdir(path)
