"""Finds what there is to read: the files and repositories of every input, parted into shards that one task reads each.

A shard is named by the hash of its contents and of everything else its documents depend on. A file is hashed by a task, and
again only when its size or time has changed; a repository is known by its current commit and the objects it has.
"""

import concurrent.futures
import dataclasses
import glob
import hashlib
import itertools
import os
import pathlib
from collections.abc import Sequence

from iquest_jax.data import collect, produced
from iquest_jax.data import evaluation as evaluation_lib
from iquest_jax.data.clean import licence
from iquest_jax.data.executors import Executor, Progress, Task, key_of
from iquest_jax.data.inputs import Input, Inputs
from iquest_jax.data.read import compressed, git
from iquest_jax.errors import UserError

# Repositories are spread over so many groups by their names; a task reads the repositories of a group.
_GROUPS = 4096
# Generated samples that a task makes.
_GENERATED = 2000
# Each waits for a process of git.
_THREADS = 16
# Repositories are looked for so many folders below the path of an input, as in OWNER/NAME.
_DEPTH = 3


@dataclasses.dataclass(frozen=True)
class Shard:
  """What one task collects.

  Attributes:
    paths: (name, path) of files or repositories; names are relative to the input. collect.collect says what
      they are if it is generated.
    key: hash of contents and settings.
  """

  input: Input
  settings: collect.Settings
  paths: tuple[tuple[str, str], ...]
  key: str

  def task(self, folder: pathlib.Path) -> Task:
    """The task that collects it into a folder."""
    arguments = (self.input, self.paths, self.settings, str(folder))
    return Task(collect.collect, arguments, folder / collect.RESULT, sum(map(_size, self.paths)))


def shards(inputs: Inputs, folder: pathlib.Path, executor: Executor, progress: Progress) -> list[Shard]:
  """The shards of all inputs in a fixed order; hashes of files are kept in `folder`/hashes.

  Raises:
    UserError: an input has no files or repositories, or the texts of `evaluation` are missing.
  """
  evaluation = []
  for pattern in inputs.evaluation:
    if not (paths := compressed.input_files(pattern)):
      raise UserError(f'--sources: evaluation finds no JSONL or Parquet at {pattern}; name the files of the benchmarks')
    evaluation += paths
  found = {given: _paths(given) for given in inputs.inputs if given.read != 'generated'}
  files = [path for given, paths in found.items() if given.read != 'git' for _, path in paths]
  reports = [report for path in files if (report := produced.report_path(path)).is_file()]
  contents = _hash_files([*files, *evaluation, *reports], folder / 'hashes', executor, progress)
  benchmarks = [(path.name, contents[path]) for path in evaluation]
  index = folder / 'evaluation' / f'{key_of(benchmarks)}.npz'
  evaluation_lib.save(list(map(str, evaluation)), index)
  licences, meaning = inputs.licences or (*licence.PERMISSIVE, ''), inputs.semantic
  settings = collect.Settings(inputs.seed, inputs.held_out, licences, tuple(map(str, evaluation)), str(index), meaning)
  shared = (collect.VERSION, inputs.held_out, licences, benchmarks, dataclasses.asdict(meaning) if meaning else None)
  result = []
  for given in inputs.inputs:
    # What its documents depend on, beside what is read.
    own = dataclasses.asdict(given) | {'kinds': [kind.__name__ for kind in (*given.kinds, *given.reads)]}
    del own['path'], own['sources']
    if given.quality:
      del own['quality']['model']  # where it lies; its hash is there too
    if given.make or given.generator:
      own['seed'] = inputs.seed
    if given.generator:
      del own['count']
      ends = range(0, given.count, _GENERATED)
      parts = [[(str(start), str(min(start + _GENERATED, given.count)))] for start in ends]
      heads = {end: end for part in parts for _, end in part}
    elif given.read == 'git':
      paths = found[given]
      heads = _heads([path for _, path in paths])
      parts = _grouped(paths)
    else:
      paths = [path for _, path in found[given]]
      heads = {path: [contents[path], contents.get(produced.report_path(path))] for path in paths}
      parts = [[pair] for pair in found[given]]
    for part in parts:
      key = key_of(shared, own, [(name, heads[path]) for name, path in part])
      result.append(Shard(given, settings, tuple((name, str(path)) for name, path in part), key))
  return result


def _size(named: tuple[str, str]) -> int:
  """Bytes of a file; of a repository, those of its packs."""
  path = pathlib.Path(named[1])  # a number if the shard is generated; no file has that name
  if path.is_file():
    return path.stat().st_size
  packs = itertools.chain(path.glob('.git/objects/pack/*.pack'), path.glob('objects/pack/*.pack'))
  return sum(pack.stat().st_size for pack in packs)


def _paths(given: Input) -> list[tuple[str, pathlib.Path]]:
  """(name, path), sorted by name."""
  paths = _repositories(given.path) if given.read == 'git' else compressed.input_files(given.path)
  if not paths:
    what = 'git repositories' if given.read == 'git' else f'files that "{given.read}" reads'
    raise UserError(f'--sources: input "{given.name}" finds no {what} at {given.path}')
  return sorted((os.path.relpath(path, _root(given.path)), path) for path in paths)


def _root(pattern: pathlib.Path) -> pathlib.Path:
  """The folder that names are relative to: of a glob, the part before its first wildcard; whatever is found there."""
  parts = itertools.takewhile(lambda part: not glob.has_magic(part), pattern.parts)
  root = pathlib.Path(*parts)
  return root.parent if root == pattern and (root.is_file() or git.is_repository(root)) else root


def _repositories(pattern: pathlib.Path) -> list[pathlib.Path]:
  """Repositories at a path or glob, or in folders below it; links are not followed below it."""
  found, folders = [], [(pathlib.Path(path), 0) for path in glob.glob(str(pattern))]
  while folders:
    folder, depth = folders.pop()
    if git.is_repository(folder):
      found.append(folder)
    elif depth < _DEPTH and folder.is_dir():
      folders += [(pathlib.Path(entry), depth + 1) for entry in os.scandir(folder) if entry.is_dir(follow_symlinks=False)]
  return found


def _head(path: pathlib.Path) -> str:
  """What identifies a repository: its commit, where a shallow clone ends, its packs and the number of loose objects.

  Objects count because a repository that lacks some may be repaired. One that cannot be read is counted by the task that
  reads it.
  """
  objects = next((folder for folder in (path / '.git' / 'objects', path / 'objects') if folder.is_dir()), path)
  packs = sorted(pack.name for pack in objects.glob('pack/*.pack'))
  loose = sum(1 for _ in objects.glob('??/*'))
  try:
    with git.Store(path) as store:
      return key_of(store.head, sorted(store.boundary), packs, loose)
  except git.GitError:
    return key_of('', packs, loose)


def _grouped(paths: Sequence[tuple[str, pathlib.Path]]) -> list[list[tuple[str, pathlib.Path]]]:
  groups: dict[int, list] = {}
  for name, path in paths:
    number = int(hashlib.sha256(name.encode('utf-8', 'surrogateescape')).hexdigest()[:8], 16) % _GROUPS
    groups.setdefault(number, []).append((name, path))
  return [groups[number] for number in sorted(groups)]


def _heads(paths: Sequence[pathlib.Path]) -> dict[pathlib.Path, str]:
  with concurrent.futures.ThreadPoolExecutor(_THREADS) as threads:
    return dict(zip(paths, threads.map(_head, paths)))


def _hash_files(
    paths: Sequence[pathlib.Path], folder: pathlib.Path, executor: Executor, progress: Progress
) -> dict[pathlib.Path, str]:
  """SHA-256 of files; the result of each task is kept under the hash of path, size and time."""
  tasks = []
  for path in paths:
    stat = path.stat()
    name = key_of(str(path), stat.st_size, stat.st_mtime_ns)
    tasks.append(Task(_hash_file, (str(path),), folder / f'{name}.json', stat.st_size))
  results = executor.run('hash', tasks, folder.parent, progress) if tasks else []
  return {path: result['sha256'] for path, result in zip(paths, results)}


def _hash_file(path: str) -> dict[str, str]:
  with open(path, 'rb') as file:
    return {'sha256': hashlib.file_digest(file, 'sha256').hexdigest()}
