"""Reading a git history: commits with patches, and the search for transitions, each verified with `git apply`."""

import pathlib
import tempfile
from collections.abc import Iterator

from iquest_jax.bench.machine import median_seconds
from iquest_jax.data.build import transitions
from iquest_jax.data.documents import Commit, Transition
from iquest_jax.data.read.repositories import read_repository
from iquest_jax.data.tiny import history

KINDS = {'commit': Commit, 'transition': Transition}


def results() -> Iterator[dict]:
  """Commits per second of a generated repository: 2,000 commits, 12 small files."""
  with tempfile.TemporaryDirectory() as folder:
    history.generated_repository(folder, seed=0, count=2000)
    for kind in KINDS:
      yield measure(folder, kind, commits=2000)


def measure(repository: str | pathlib.Path, kind: str, commits: int) -> dict:
  """Times the reading of one kind of document from a repository of `commits` commits, all of them scanned."""
  search = transitions.transitions
  read = lambda: [
      document
      for document in read_repository(repository, (KINDS[kind],), transitions=search)
      if isinstance(document, KINDS[kind])
  ]
  return {'kind': kind, 'commits_per_second': round(commits / median_seconds(read, repeats=3)), 'documents': len(read())}
