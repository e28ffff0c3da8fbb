"""The seal of a checkpoint: the SHA-256 of every other file in its folder, written last.

The seal is the commit. Orbax writes a checkpoint below a temporary name, from every process. When all files are final,
its merge of what the processes wrote included, it asks its TemporaryPath to finalize, on the primary process. `sealing`
writes the seal there and then renames the folder, so arrays, lineage and hashes become visible in one step. Object
stores cannot rename; there the seal itself is the commit.
"""

import concurrent.futures
import hashlib
import json
import pathlib
from collections.abc import Callable, Sequence

import jax
from etils import epath

from iquest_jax import hosts

_READERS = 8  # files hashed at once; hashlib releases the interpreter's lock
ABSENT = FileNotFoundError, NotADirectoryError  # what a missing file is reported as, on a disk and by a bucket


def sealing(
    path_class: type, name: str, complete: Callable[[epath.Path], dict[str, str]], then: Callable[[], None]
) -> type:
  """Orbax's `path_class` with our commit, in the background.

  Calls `complete` with the folder, which adds its last files and returns the hashes of all; writes the seal `name`, renames
  the folder, calls `then`.
  """

  class Sealing(path_class):

    async def finalize(self):
      folder = self.get()
      (folder / name).write_text(to_text(complete(folder)))
      if folder != self.get_final():
        folder.rename(self.get_final())
      then()

  return Sealing


def damage(folder: epath.Path, name: str, parts: Sequence[str] = ('',)) -> str | None:
  """Says, on all processes, which file below `folder` is not as sealed in `name`; None if all are. Each reads its share.

  Args:
    parts: folders in it whose files are compared; all by default. Another file is not read, and may be missing.
  """
  found = hosts.gather(f'checkpoint {folder.name} verified', _damage(folder, name, parts))
  return next(filter(None, found), None)


def _damage(folder: epath.Path, name: str, parts: Sequence[str]) -> str | None:
  """What this process finds."""
  try:
    hashes = from_text((folder / name).read_text())
  except (*ABSENT, ValueError):
    return f'{name} is missing or has changed'
  read = lambda file: any(pathlib.PurePath(file).is_relative_to(part) for part in parts)
  hashes = {file: value for file, value in hashes.items() if read(file)}
  present = set(files(folder, [part for part in parts if (folder / part).exists()])) - {name}
  for file in sorted(hashes.keys() - present):
    return f'{file} is missing'
  for file in sorted(present - hashes.keys()):
    return f'{file} does not belong to this checkpoint'
  names = sorted(hashes, key=hashes.get)  # in an order that has nothing to do with size, so that shares are about equal
  share = names[jax.process_index() :: jax.process_count()]
  actual = file_hashes(folder, share)
  return next((f'{file} has changed since it was saved' for file in share if actual[file] != hashes[file]), None)


def files(folder: epath.Path, parts: Sequence[str] = ('',)) -> list[str]:
  """Names of all files below these parts of `folder`, relative to it, sorted."""
  paths, folders = [], [folder / part for part in parts]
  while folders:
    for entry in folders.pop().iterdir():
      (folders if entry.is_dir() else paths).append(entry)
  return sorted(str(path.relative_to(folder)) for path in paths)


def file_hashes(folder: epath.Path, names: list[str]) -> dict[str, str]:
  """{name: SHA-256 in hex} of files below `folder`; memory does not grow with their size."""
  with concurrent.futures.ThreadPoolExecutor(_READERS) as readers:
    return dict(zip(names, readers.map(lambda name: _file_hash(folder / name), names), strict=True))


def _file_hash(path: epath.Path) -> str:
  with path.open('rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()


def to_text(hashes: dict[str, str]) -> str:
  """A seal: the hashes and their own hash, so that `from_text` detects any changed byte."""
  own = hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()
  return json.dumps({'files': hashes, 'sha256': own}, indent=1, sort_keys=True)


def from_text(text: str) -> dict[str, str]:
  """The hashes in a seal; raises ValueError unless the text is, byte for byte, what `to_text` wrote."""
  try:
    hashes = json.loads(text)['files']
  except (json.JSONDecodeError, KeyError, TypeError) as error:
    raise ValueError('not a seal') from error
  if text != to_text(hashes):
    raise ValueError('the seal has changed')
  return hashes
