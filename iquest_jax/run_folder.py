"""Where every file of a chain is stored, and the one way to write a file: atomically and synced.

  <workdir>/tokenizer/tokenizer.json
  <workdir>/corpus/sources.toml, ...                the raw corpus of tiny sizes
  <workdir>/documents/corpus.json, ...              clean documents; see data/corpus.py
  <workdir>/preparation.html                       what came in, what was dropped, samples
  <workdir>/report.html                            the whole chain; see report/page.py
  <workdir>/rows/<stage>/manifest.json, <source>/   packed rows; data.rows_dir moves the folder
  <workdir>/<stage>/config.json                     the stage's configuration
  <workdir>/<stage>/checkpoints/<step>/             see checkpoint/store.py
  <workdir>/<stage>/lineage.json                    copy of the newest checkpoint's
  <workdir>/<stage>/metrics.jsonl, events/          one record per line; TensorBoard
  <workdir>/<stage>/heartbeats/<process>.json       at which step it is; see train/heartbeat.py
  <workdir>/<stage>/profile/                        traces; see train/profile.py
  <workdir>/<stage>/mixture.jsonl                   decisions of the closed loop; see train/closed_loop.py
  <workdir>/<stage>/evaluation/<step>/<suite>/      see eval/run.py
  <workdir>/<stage>/rollouts/<step>.jsonl           trajectories of reinforcement learning; see rl/store.py
  <workdir>/<stage>/measured.jsonl                  pass rates of its prompts; see rl/measured.py
  <workdir>/<stage>/problems.jsonl                  how reference solutions did; see rl/problems.py
"""

import dataclasses
import os
import pathlib
import re

from iquest_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class StageFolder:
  """The folder of one stage: `<workdir>/<stage>`."""

  path: pathlib.Path

  name = property(lambda self: self.path.name)
  config = property(lambda self: self.path / 'config.json')
  checkpoints = property(lambda self: self.path / 'checkpoints')
  lineage = property(lambda self: self.path / 'lineage.json')
  metrics = property(lambda self: self.path / 'metrics.jsonl')
  mixture = property(lambda self: self.path / 'mixture.jsonl')
  events = property(lambda self: self.path / 'events')
  evaluation = property(lambda self: self.path / 'evaluation')
  rollouts = property(lambda self: self.path / 'rollouts')
  measured = property(lambda self: self.path / 'measured.jsonl')
  problems = property(lambda self: self.path / 'problems.jsonl')


  heartbeats = property(lambda self: self.path / 'heartbeats')
  profile = property(lambda self: self.path / 'profile')
@dataclasses.dataclass(frozen=True)
class RunFolder:
  """The folder of one chain of one size; every host must see it. Creates nothing.

  Attributes:
    path: absolute; a relative one is resolved.

  Raises:
    UserError: the path is empty or has a scheme such as gs://.
  """

  path: pathlib.Path

  def __post_init__(self):
    text = os.fspath(self.path)
    if not text:
      raise UserError('--workdir is missing; name the folder of the chain, as in --workdir=runs/first')
    # pathlib turns gs://bucket into the local folder gs:/bucket.
    if scheme := re.match(r'([A-Za-z][\w+.-]*):/', text):
      raise UserError(
          f'--workdir: {text} is on "{scheme[1]}", which is not supported yet; mount the bucket and name the mounted folder'
      )
    object.__setattr__(self, 'path', pathlib.Path(os.path.abspath(text)))

  tokenizer = property(lambda self: self.path / 'tokenizer' / 'tokenizer.json')
  corpus = property(lambda self: self.path / 'corpus')
  documents = property(lambda self: self.path / 'documents')
  preparation = property(lambda self: self.path / 'preparation.html')
  report = property(lambda self: self.path / 'report.html')

  def rows(self, stage: str, rows_dir: str = '') -> pathlib.Path:
    """Packed rows of a stage; `rows_dir` (data.rows_dir) replaces the default folder."""
    return pathlib.Path(rows_dir) if rows_dir else self.path / 'rows' / stage

  def stage(self, name: str) -> StageFolder:
    return StageFolder(self.path / name)


def write_whole(path: str | os.PathLike, content: str | bytes) -> None:
  """Writes a file so that readers see the old content or the new one, never a part, even after a crash of the machine.

  Raises:
    OSError: the disk is full or refuses; the old file is untouched.
  """
  path = pathlib.Path(path)
  partial = path.with_name(path.name + '.partial')
  with open(partial, 'wb') as file:
    file.write(content.encode() if isinstance(content, str) else content)
    file.flush()
    os.fsync(file.fileno())
  os.replace(partial, path)
  folder = os.open(path.parent, os.O_RDONLY)
  try:
    os.fsync(folder)  # the rename itself
  finally:
    os.close(folder)
