"""Reading a git history: commits with patches, and the search for transitions, each verified with `git apply`."""

import pathlib
import tempfile
from collections.abc import Iterator

from iquest_jax.bench.machine import median_seconds
from iquest_jax.data.build import transitions
from iquest_jax.data.documents import Commit, Transition
from iquest_jax.data.read.repositories import read_repository
from iquest_jax.data.tiny import history

CASES = {'commits': Commit, 'transitions': Transition}


def results() -> Iterator[dict]:
  """Commits per second of a generated repository: 2,000 commits, 12 small files."""
  with tempfile.TemporaryDirectory() as folder:
    history.generated_repository(folder, seed=0, count=2000)
    for case in CASES:
      yield measure(folder, case, commits=2000)


def measure(repository: str | pathlib.Path, case: str, commits: int) -> dict:
  """Times one case over a repository that has `commits` commits, all of them scanned."""
  kind = CASES[case]
  read = lambda: [
      document
      for document in read_repository(repository, (kind,), transitions=transitions.transitions)
      if isinstance(document, kind)
  ]
  return {'case': case, 'commits_per_second': round(commits / median_seconds(read, repeats=3)), 'documents': len(read())}
