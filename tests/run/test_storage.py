"""A run on a bucket keeps the promises of one on a disk: killed it resumes bit-equal, and what fails is one line."""

import json
import os
import pathlib
import sys

import fsspec
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from iquest_jax import bucket, journal
from iquest_jax.checkpoint.store import Checkpoints
from iquest_jax.errors import UserError
from iquest_jax.run_folder import RunFolder, write_whole
from iquest_jax.train import metrics

from tests.emulator import Emulator, Fault
from tests.processes import refusal
from tests.run import helpers as run_helpers
from tests.run.helpers import STEPS, kill_when, train

RUN = 'gs://bucket/run'
SEAL = 'integrity/files.json'


@pytest.fixture(scope='module')
def emulator():
  """The bucket that this process and commands see; few tries, so that what fails does so soon."""
  emulator = Emulator()
  with pytest.MonkeyPatch.context() as patch:
    for name, value in emulator.environment.items():
      patch.setenv(name, value)
    patch.setitem(fsspec.config.conf, 'gcs', {'token': 'anon'})  # the variable is read when fsspec is imported
    patch.setattr(bucket, 'TRIES', 2)
    bucket.connect.cache_clear()
    epath.backend.fsspec_backend._get_filesystem.cache_clear()
    bucket.connect()
    yield emulator
  emulator.close()


@pytest.fixture(autouse=True)
def served(emulator):
  """Serves everything, from an empty bucket."""
  emulator.fault, emulator.before, emulator.refused = None, lambda line: None, 0
  if (folder := epath.Path(RUN)).exists():
    folder.rmtree()


def upload(folder: pathlib.Path) -> None:
  """Copies a local folder to the bucket, as `gcloud storage rsync` does."""
  bucket.connect().put(str(folder), RUN, recursive=True)


def download(folder: pathlib.Path) -> pathlib.Path:
  """A copy of the run's folder on this disk, with its growing files joined."""
  bucket.connect().get(RUN, str(folder), recursive=True)
  for path in folder.glob('*/metrics.jsonl'):
    parts = journal.read(f'{RUN}/{path.parent.name}/metrics.jsonl')
    path.rename(path.with_name('parts'))
    path.write_bytes(parts)
  return folder


def test_a_stage_killed_in_the_middle_of_a_save_resumes_bit_equal_and_imports_no_tensorflow(shared, emulator, tmp_path):
  upload(shared.template)
  command = train('anneal', RUN, **{'data.cache_dir': str(tmp_path / 'cache')})
  reached = []
  emulator.before = lambda line: reached.append(line) if 'checkpoints%2F6%2F' in line and 'upload' in line else None
  kill_when(shared.start(command, fresh=True), lambda: len(reached) > 8)
  folder = RunFolder(RUN).stage('anneal')
  assert Checkpoints(folder).steps() == [3] and (folder.checkpoints / '6').exists()
  assert [record['step'] for record in metrics.read(folder) if record['kind'] == 'train'] >= [1, 2, 3]

  imported = tmp_path / 'imported'
  shared.run(['-m', 'tests.programs.imported', str(imported), *command], fresh=True)
  assert 'gcsfs' in imported.read_text().split() and 'tensorflow' not in imported.read_text().split()
  local = download(tmp_path / 'run')
  run_helpers.assert_same_run(local / 'anneal', shared.straight / 'anneal')
  assert Checkpoints(folder).steps() == [9, 12]
  verified = shared.run(['-m', 'launch.chain', 'verify', f'--workdir={RUN}', '--size=tiny'], fresh=True)
  assert 'verified 2 stages' in verified.stdout
