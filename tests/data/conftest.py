"""What the tests of data share: a tenth of the tiny corpus, its documents, and rows prepared from them."""

import contextlib
import fcntl
import json
import pathlib

import pytest

from iquest_jax.data import corpus as corpus_lib
from iquest_jax.data import inputs
from iquest_jax.data.executors import Executor
from iquest_jax.data.prepare import prepare
from iquest_jax.data.tiny import corpus as tiny_corpus
from iquest_jax.run_folder import RunFolder

from tests.data.small_stage import stage

SCALE = 0.12


@pytest.fixture(name='shared_run', scope='session')
def _shared_run(session_folder) -> tuple[RunFolder, dict]:
  """(run folder with corpus, documents and rows of `stage()`, manifest); made by the first test process that asks."""
  run = RunFolder(session_folder / 'prepared')
  run.path.mkdir(exist_ok=True)
  with _locked(run.path / 'lock'):
    tiny_corpus.write(run.corpus, scale=SCALE)
    if not (run.path / 'manifest.json').exists():
      documents = corpus_lib.prepare(run, inputs.load(run.corpus / 'sources.toml'), Executor())
      (run.path / 'manifest.json').write_text(json.dumps(prepare(stage(), run, documents, Executor())))
  return run, json.loads((run.path / 'manifest.json').read_text())


@pytest.fixture(name='raw', scope='session')
def _raw(shared_run) -> pathlib.Path:
  """The raw corpus; not to be changed."""
  return shared_run[0].corpus


@pytest.fixture(name='corpus', scope='session')
def _corpus(shared_run) -> corpus_lib.Corpus:
  """Its documents."""
  return corpus_lib.load(shared_run[0])


@pytest.fixture(name='prepared', scope='session')
def _prepared(shared_run):
  """(run folder, manifest) of `stage()`; not to be changed."""
  return shared_run


@contextlib.contextmanager
def _locked(path: pathlib.Path):
  with open(path, 'w') as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    yield
