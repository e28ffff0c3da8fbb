"""Preparation: killed anywhere and restarted, it ends with the same bytes; training refuses what is incomplete."""

import json
import time

import numpy as np
import pytest

from iquest_jax.run_folder import RunFolder

from tests.processes import refusal
from tests.run import helpers as run_helpers
from tests.run.helpers import SAVE_EVERY, VOCAB, killed_at, steps_of, train

SOURCES = ('code', 'facts', 'web_text')
# The stage's own mixture; these steps draw from all of its sources.
CHANGES = {'data.mixture': None, 'train.steps': SAVE_EVERY}


def prepare(workdir):
  return ['-m', 'launch.prepare', '--exp=pretrain:tiny', f'--workdir={workdir}', *run_helpers.overrides(**CHANGES)]


def prepared(workdir):
  """The files of a run folder that are reproducible; TFDS writes the time into some of its own."""
  everything = run_helpers.files(workdir)
  return {path: value for path, value in everything.items() if 'array_record' in path or path.endswith(
      ('manifest.json', 'source.json', 'tokenizer.json', 'documents.jsonl'))}  # fmt: skip


@pytest.fixture(name='straight', scope='module')
def _straight(shared, tmp_path_factory):
  """A run folder that was prepared without interruption."""
  workdir = tmp_path_factory.mktemp('straight')
  shared.run(prepare(workdir))
  return workdir


def finished_sources(workdir):
  """Sources that are finished and wait for the others."""
  names = (path.parent.name for path in workdir.glob('rows/pretrain/next/*/source.json'))
  return sorted(name for name in names if name in SOURCES)


def assert_training_refuses(shared, workdir):
  line = refusal(shared.run(train('pretrain', workdir, **CHANGES), status=2))
  assert f'python -m launch.prepare --exp=pretrain:size=tiny --workdir={workdir}' in line
  assert not (workdir / 'pretrain').exists() or not run_helpers.files(workdir / 'pretrain')


def test_a_full_size_without_documents_is_refused_in_one_line(shared, tmp_path):
  line = refusal(shared.run(['-m', 'launch.prepare', '--exp=midtrain_32k:size=7b', f'--workdir={tmp_path}/run'], status=2))
  assert line.startswith('--documents is missing; size "7b" needs a folder of documents')
  assert not list(tmp_path.iterdir())


def test_training_reads_what_was_prepared(shared, straight):
  manifest = json.loads((straight / 'rows/pretrain/manifest.json').read_text())
  assert sorted(manifest['sources']) == list(SOURCES) and manifest['context'] == run_helpers.CONTEXT
  shared.run(train('pretrain', straight, **CHANGES))
  assert steps_of(straight / 'pretrain') == [SAVE_EVERY]
  losses = run_helpers.losses(straight / 'pretrain')
  assert abs(losses['eval', 0] - np.log(VOCAB)) < 0.1 and losses['eval', SAVE_EVERY] < losses['eval', 0]


def test_preparing_again_changes_nothing(shared, straight):
  before = run_helpers.files(straight)
  shared.run(prepare(straight))
  assert run_helpers.files(straight) == before


def test_a_preparation_killed_at_any_moment_ends_with_the_same_bytes(shared, straight, tmp_path):
  command = prepare(tmp_path)
  shared.run(killed_at('iquest_jax.data.tiny.corpus:write_whole', 3, command), status=-9)
  assert not (tmp_path / 'corpus').exists() and list((tmp_path / 'corpus.partial').iterdir())
  assert_training_refuses(shared, tmp_path)
  shared.run(killed_at('iquest_jax.text.tokenizer:Tokenizer.save', 1, command), status=-9)
  assert not RunFolder(tmp_path).tokenizer.exists()  # trained, but not saved
  assert_training_refuses(shared, tmp_path)
  # The hashes of three sources' documents, then those of the rows of the first.
  shared.run(killed_at('iquest_jax.data.rows.manifest:_sha256', 5, command), status=-9)
  assert finished_sources(tmp_path) == [] and (tmp_path / f'rows/pretrain/next/.incomplete/{SOURCES[0]}').exists()
  assert_training_refuses(shared, tmp_path)
  shared.run(killed_at('iquest_jax.data.rows.write:write_source', 2, command), status=-9)
  assert finished_sources(tmp_path) == [SOURCES[0]]
  run_helpers.kill_when(shared.start(command), lambda: len(finished_sources(tmp_path)) == 2)
  assert not (tmp_path / 'rows/pretrain/manifest.json').exists()
  assert_training_refuses(shared, tmp_path)
  # While the finished ones are moved into place.
  shared.run(killed_at('shutil:rmtree', 5, command), status=-9)
  assert not (tmp_path / 'rows/pretrain/manifest.json').exists()
  assert_training_refuses(shared, tmp_path)
  shared.run(command)
  assert prepared(tmp_path) == prepared(straight) and not list(tmp_path.rglob('*incomplete*'))
  assert not (tmp_path / 'rows/pretrain/next').exists()


@pytest.mark.long
@pytest.mark.parametrize('seed', range(4))
def test_a_preparation_killed_at_random_moments_ends_with_the_same_bytes(shared, straight, tmp_path, seed):
  random = np.random.default_rng(seed)
  for _ in range(3):
    process = shared.start(prepare(tmp_path))
    time.sleep(random.uniform(0.5, 8.0))
    process.kill()
    process.communicate()
  shared.run(prepare(tmp_path))
  assert prepared(tmp_path) == prepared(straight) and not list(tmp_path.rglob('*incomplete*'))
