"""Where every file of a chain is stored, on a disk or on gs://, and the one way to write a file: whole, and synced.

  <workdir>/tokenizer/tokenizer.json
  <workdir>/corpus/sources.toml, ...                the raw corpus of tiny sizes
  <workdir>/documents/corpus.json, ...              clean documents; see data/corpus.py
  <workdir>/preparation.html                       what came in, what was dropped, samples
  <workdir>/report.html                            the whole chain; see report/page.py
  <workdir>/compiled/                              programs of jax; see launch/compilation.py
  <workdir>/rows/<stage>/manifest.json, <source>/   packed rows; data.rows_dir moves the folder
  <workdir>/<stage>/config.json                     the stage's configuration
  <workdir>/<stage>/checkpoints/<step>/             see checkpoint/store.py
  <workdir>/<stage>/lineage.json                    copy of the newest checkpoint's
  <workdir>/<stage>/silent_errors/                  findings about hardware; see train/health/checks.py
  <workdir>/<stage>/metrics.jsonl, events/          one record per line; TensorBoard
  <workdir>/<stage>/lease.json                      which run writes to it; see lease.py
  <workdir>/<stage>/heartbeats/<process>.json       at which step it is; see train/heartbeat.py
  <workdir>/<stage>/profile/                        traces; see train/profile.py
  <workdir>/<stage>/mixture.jsonl                   decisions of the closed loop; see train/closed_loop.py
  <workdir>/<stage>/evaluation/<step>/<suite>/      see eval/run.py
  <workdir>/<stage>/rollouts/<step>.jsonl           trajectories of reinforcement learning; see rl/store.py
  <workdir>/<stage>/measured.jsonl                  pass rates of its prompts; see rl/measured.py
  <workdir>/<stage>/problems.jsonl                  how reference solutions did; see rl/problems.py

What ends in .jsonl and grows is a file on a disk, and a folder of parts on gs://; see journal.py. Corpus, documents and
rows are written on disks alone. Rows may be read from gs://; see data/rows/fetch.py.
"""

import dataclasses
import os
import pathlib
import re

from etils import epath

from iquest_jax import bucket
from iquest_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class StageFolder:
  """The folder of one stage: `<workdir>/<stage>`."""

  path: epath.Path

  def __post_init__(self):
    object.__setattr__(self, 'path', epath.Path(self.path))

  name = property(lambda self: self.path.name)
  config = property(lambda self: self.path / 'config.json')
  checkpoints = property(lambda self: self.path / 'checkpoints')
  lineage = property(lambda self: self.path / 'lineage.json')
  silent_errors = property(lambda self: self.path / 'silent_errors')
  metrics = property(lambda self: self.path / 'metrics.jsonl')
  mixture = property(lambda self: self.path / 'mixture.jsonl')
  events = property(lambda self: self.path / 'events')
  heartbeats = property(lambda self: self.path / 'heartbeats')
  lease = property(lambda self: self.path / 'lease.json')
  profile = property(lambda self: self.path / 'profile')
  evaluation = property(lambda self: self.path / 'evaluation')
  rollouts = property(lambda self: self.path / 'rollouts')
  measured = property(lambda self: self.path / 'measured.jsonl')
  problems = property(lambda self: self.path / 'problems.jsonl')


@dataclasses.dataclass(frozen=True)
class RunFolder:
  """The folder of one chain of one size; every host must see it. Creates nothing.

  Attributes:
    path: absolute; a relative one is resolved.

  Raises:
    UserError: the path is empty, or has a scheme other than gs://, or names no bucket.
  """

  path: epath.Path

  def __post_init__(self):
    text = os.fspath(self.path)
    if not text:
      raise UserError('--workdir is missing; name the folder of the chain, as in --workdir=runs/first')
    object.__setattr__(self, 'path', located('--workdir', text))

  tokenizer = property(lambda self: self.path / 'tokenizer' / 'tokenizer.json')
  report = property(lambda self: self.path / 'report.html')
  compiled = property(lambda self: self.path / 'compiled')
  # What a preparation makes: on a disk with all that pathlib can do.
  corpus = property(lambda self: _prepared(self.path / 'corpus'))
  documents = property(lambda self: _prepared(self.path / 'documents'))
  preparation = property(lambda self: _prepared(self.path / 'preparation.html'))

  def rows(self, stage: str, rows_dir: str = '') -> pathlib.Path | epath.Path:
    """Packed rows of a stage; `rows_dir` (data.rows_dir) replaces the default folder."""
    return _prepared(located('data.rows_dir', rows_dir) if rows_dir else self.path / 'rows' / stage)

  def stage(self, name: str) -> StageFolder:
    return StageFolder(self.path / name)

  def preparing(self) -> tuple[str, str]:
    """(the --workdir in which to prepare, the command that then copies it; '' on a disk)."""
    if not bucket.is_bucket(self.path):
      return os.fspath(self.path), ''
    return 'runs/first', f'gcloud storage rsync --recursive runs/first {self.path}'

  def check_on_disk(self) -> None:
    """Raises UserError if the folder is on gs://, where nothing is prepared."""
    workdir, copy = self.preparing()
    if copy:
      raise UserError(
          f'--workdir: {self.path}: documents and rows are prepared on a disk; use a local folder, as in '
          f'--workdir={workdir}, then {copy}'
      )


def _prepared(path: epath.Path) -> pathlib.Path | epath.Path:
  return path if bucket.is_bucket(path) else pathlib.Path(path)


def located(flag: str, text: str | os.PathLike) -> epath.Path:
  """The absolute path of a folder on a disk or on gs://; `flag` is where it was given.

  Raises:
    UserError: it has another scheme, or names no bucket.
  """
  text = os.fspath(text)
  # pathlib turns gs://bucket into gs:/bucket.
  scheme = re.match(r'([A-Za-z][\w+.-]*):/+', text)
  if not scheme:
    path = epath.Path(os.path.abspath(text))
    if os.fspath(path) != os.path.abspath(text):
      raise UserError(f'{flag}: {os.path.abspath(text)} means {path} to etils; mount it elsewhere, or name {path}')
    return path
  if scheme[1] != 'gs':
    raise UserError(
        f'{flag}: {text} is on "{scheme[1]}", which is not supported; name a folder on gs://, or mount it and name the '
        'mounted folder'
    )
  if not (rest := text[scheme.end() :].strip('/')):
    raise UserError(f'{flag}: {text} names no bucket; write gs://BUCKET/FOLDER')
  bucket.connect()
  return epath.Path(bucket.SCHEME + rest)


def size_and_time(path: str | os.PathLike) -> tuple[int, float]:
  """(bytes, when it was last written, in seconds by the clock of the storage) of a file.

  NFS and gs:// have clocks of their own; Lustre takes that of the host which writes.
  """
  if bucket.is_bucket(path):
    found = epath.Path(path).stat()
    return found.length, found.mtime
  found = os.stat(path)  # epath's fails where the owner of a file has no name, as in many containers
  return found.st_size, found.st_mtime


def write_whole(path: str | os.PathLike, content: str | bytes, partial: str = 'partial') -> None:
  """Writes a file so that readers see the old content or the new one, never a part, even after a crash of the machine.

  Args:
    partial: ending of the name that the file has until it is whole; one of its own where others may write the same file.

  Raises:
    OSError: the disk is full or refuses, or the bucket does; the old file is untouched.
  """
  content = content.encode() if isinstance(content, str) else content
  if bucket.is_bucket(path):
    bucket.write(path, content)
    return
  path = pathlib.Path(path)
  partial = path.with_name(f'{path.name}.{partial}')
  with open(partial, 'wb') as file:
    file.write(content)
    file.flush()
    os.fsync(file.fileno())
  os.replace(partial, path)
  folder = os.open(path.parent, os.O_RDONLY)
  try:
    os.fsync(folder)  # the rename itself
  finally:
    os.close(folder)
