"""What the tests of data share: a corpus with a git history of its own, and rows prepared from it."""

import pathlib

import pytest

from iquest_jax.data.prepare import prepare
from iquest_jax.data.tiny import corpus as tiny_corpus
from iquest_jax.data.tiny import history
from iquest_jax.run_folder import RunFolder

from tests.data.small_stage import stage


@pytest.fixture(name='checkout', scope='session')
def _checkout(tmp_path_factory) -> pathlib.Path:
  """A repository in the role of the project's checkout, whose own history grows while tests run."""
  folder = tmp_path_factory.mktemp('checkout')
  history.generated_repository(folder, seed=5, count=60)
  return folder


@pytest.fixture(name='corpus', scope='session')
def _corpus(tmp_path_factory, checkout) -> pathlib.Path:
  folder = tmp_path_factory.mktemp('run') / 'corpus'
  tiny_corpus.write(folder, checkout=checkout)
  return folder


@pytest.fixture(name='prepared', scope='session')
def _prepared(tmp_path_factory, corpus):
  """(run folder, manifest) of `stage()`; not to be changed."""
  run = RunFolder(tmp_path_factory.mktemp('prepared'))
  return run, prepare(stage(), run, corpus)
