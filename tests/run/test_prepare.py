"""Preparation: killed anywhere and restarted, it ends with the same bytes; training refuses what is incomplete."""

import json
import pathlib
import time

import numpy as np
import pytest

from iquest_jax.run_folder import RunFolder

from tests.data import raw
from tests.processes import refusal
from tests.run import helpers as run_helpers
from tests.run.helpers import SAVE_EVERY, VOCAB, killed_at, steps_of, train

SOURCES = ['code', 'facts', 'transitions', 'web_text']
# The stage's own mixture; these steps draw from all of its sources.
CHANGES = {'data.mixture': None, 'train.steps': SAVE_EVERY}


@pytest.fixture(name='raw_sources', scope='module')
def _raw_sources(tmp_path_factory):
  return raw.write(tmp_path_factory.mktemp('raw'))


@pytest.fixture(name='command', scope='module')
def _command(raw_sources):
  """The command that prepares a run folder, in one process so that it can be killed within a task."""
  overrides = run_helpers.overrides(**CHANGES)
  return lambda workdir: [
      '-m', 'launch.prepare', '--exp=pretrain:tiny', f'--workdir={workdir}', f'--sources={raw_sources}', '--workers=1',
      *overrides,
  ]  # fmt: skip


@pytest.fixture(name='straight', scope='module')
def _straight(shared, command, tmp_path_factory):
  """A run folder that was prepared without interruption."""
  workdir = tmp_path_factory.mktemp('straight')
  shared.run(command(workdir))
  return workdir


def prepared(workdir):
  """Every file of a run folder, logs and caches of hashes aside."""
  left_out = ('.lock', 'tasks.lock', 'prepare.lock')
  files = run_helpers.files(workdir)
  return {path: value for path, value in files.items() if 'hashes/' not in path and pathlib.Path(path).name not in left_out}


def assert_training_refuses(shared, workdir):
  line = refusal(shared.run(train('pretrain', workdir, **CHANGES), status=2))
  assert f'python -m launch.prepare --exp=pretrain:size=tiny --workdir={workdir}' in line
  assert not (workdir / 'pretrain').exists() or not run_helpers.files(workdir / 'pretrain')


def test_a_full_size_without_sources_is_refused_in_one_line(shared, tmp_path):
  line = refusal(shared.run(['-m', 'launch.prepare', '--exp=midtrain_32k:size=7b', f'--workdir={tmp_path}/run'], status=2))
  assert line.endswith('corpus.json is missing; run python -m launch.prepare with --sources')


def test_training_reads_what_was_prepared(shared, straight):
  manifest = json.loads((straight / 'rows/pretrain/manifest.json').read_text())
  assert sorted(manifest['sources']) == SOURCES and manifest['context'] == run_helpers.CONTEXT
  assert (straight / 'preparation.html').read_text().startswith('<!')
  shared.run(train('pretrain', straight, **CHANGES))
  assert steps_of(straight / 'pretrain') == [SAVE_EVERY]
  losses = run_helpers.losses(straight / 'pretrain')
  assert abs(losses['eval', 0] - np.log(VOCAB)) < 0.1 and losses['eval', SAVE_EVERY] < losses['eval', 0]


def test_preparing_again_changes_nothing(shared, command, straight):
  before = run_helpers.files(straight)
  shared.run(command(straight))
  assert run_helpers.files(straight) == before


KILLS = {
    'while inputs are collected': ('iquest_jax.data.collect:_Output.counts', 2),
    'while duplicates are joined': ('iquest_jax.data.clean.clusters:merge', 1),
    'while documents are dealt': ('iquest_jax.data.deal:deal', 3),
    'before the documents count': ('iquest_jax.data.corpus:_sweep', 1),
    'before the tokenizer is saved': ('iquest_jax.text.tokenizer:Tokenizer.save', 1),
    'while rows are packed': ('iquest_jax.data.rows.write:stamp', 2),
    'while segments are sealed': ('iquest_jax.data.rows.write:seal_segment', 2),
    'before the manifest is swapped': ('iquest_jax.data.rows.manifest:write', 1),
}


def test_a_preparation_killed_at_any_moment_ends_with_the_same_bytes(shared, command, straight, tmp_path):
  for function, call in KILLS.values():
    shared.run(killed_at(function, call, command(tmp_path)), status=-9)
    assert not (tmp_path / 'rows/pretrain/manifest.json').exists()
  assert RunFolder(tmp_path).tokenizer.exists()
  assert_training_refuses(shared, tmp_path)
  # The swap has happened; what is no longer needed is still there.
  shared.run(killed_at('iquest_jax.data.rows.write:sweep', 1, command(tmp_path)), status=-9)
  shared.run(command(tmp_path))
  trained = {path for path in prepared(straight) if path.startswith('pretrain/')}
  assert prepared(tmp_path) == {path: value for path, value in prepared(straight).items() if path not in trained}


@pytest.mark.long
@pytest.mark.parametrize('seed', range(4))
def test_a_preparation_killed_at_random_moments_ends_with_the_same_bytes(shared, command, straight, tmp_path, seed):
  random = np.random.default_rng(seed)
  for _ in range(3):
    process = shared.start(command(tmp_path))
    time.sleep(random.uniform(0.5, 8.0))
    process.kill()
    process.communicate()
  shared.run(command(tmp_path))
  trained = {path for path in prepared(straight) if path.startswith('pretrain/')}
  assert prepared(tmp_path) == {path: value for path, value in prepared(straight).items() if path not in trained}
