"""`python -m launch.export` as a user runs it: import, export, logits, and the files they refuse."""

import json
import pathlib

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests import processes

TESTS = pathlib.Path(__file__).parents[1]
LOOP = TESTS / 'golden' / 'loop_tiny'


@pytest.fixture
def export(commands):
  return lambda *arguments: commands.run(['-m', 'launch.export', *map(str, arguments)])


@pytest.fixture
def refused(commands):
  """`refused(*arguments)`: the error of a call, which must print nothing to stdout."""

  def run(*arguments):
    done = commands.run(['-m', 'launch.export', *map(str, arguments)], status=2)
    assert not done.stdout
    return processes.refusal(done)

  return run


def test_help_names_the_sub_commands(export):
  text = export('--help').stdout
  assert all(name in text for name in ('from_hf', 'to_hf', 'logits', '--tokens'))


def test_import_and_export_are_bit_exact_and_replace_nothing(export, refused, tmp_path):
  stage = (f'--workdir={tmp_path / "work"}', '--stage=midtrain_32k')
  export('from_hf', LOOP, *stage)
  lineage = json.loads((tmp_path / 'work' / 'midtrain_32k' / 'lineage.json').read_text())
  assert lineage['imported'] == 'loop_tiny' and lineage['finished'] and lineage['size'] == 'imported'
  assert (lineage['model']['loops'], lineage['model']['loop_window']) == (2, 16)
  files = sorted((path, path.read_bytes()) for path in (tmp_path / 'work').rglob('*') if path.is_file())
  assert 'already holds checkpoints; choose another --workdir or --stage' in refused('from_hf', LOOP, *stage)
  assert files == sorted((path, path.read_bytes()) for path in (tmp_path / 'work').rglob('*') if path.is_file())
  export('to_hf', *stage, f'--out={tmp_path / "out"}')
  ours, theirs = (load_file(folder / 'model.safetensors') for folder in (tmp_path / 'out', LOOP))
  assert ours.keys() == theirs.keys() and all(ours[name].tobytes() == theirs[name].tobytes() for name in theirs)
  data = max((tmp_path / 'work/midtrain_32k/checkpoints/0/params').rglob('*'), key=lambda path: path.stat().st_size)
  content = bytearray(data.read_bytes())
  content[len(content) // 2] ^= 1
  data.write_bytes(content)
  assert f'{data.name} has changed since it was saved' in refused('to_hf', *stage, f'--out={tmp_path / "other"}')
  assert sorted(path.name for path in tmp_path.iterdir()) == ['out', 'work']


def test_logits_are_those_of_the_published_implementation(export, tmp_path):
  golden = np.load(LOOP / 'golden.npz')
  np.save(tmp_path / 'tokens.npy', golden['input_ids'])
  export('logits', LOOP, f'--tokens={tmp_path / "tokens.npy"}', f'--out={tmp_path / "logits"}')
  logits = np.load(tmp_path / 'logits')
  assert logits.dtype == np.float32
  np.testing.assert_allclose(logits, golden['logits'], rtol=0, atol=2e-5)


def test_an_export_of_a_stage_without_a_checkpoint_is_refused(refused, tmp_path):
  error = refused('to_hf', f'--workdir={tmp_path}', '--stage=pretrain', f'--out={tmp_path / "out"}')
  assert 'pretrain/checkpoints: no checkpoint' in error and not list(tmp_path.iterdir())


def test_tokens_that_do_not_fit_the_model_are_refused(refused, tmp_path):
  path = tmp_path / 'tokens.npy'
  logits = lambda: refused('logits', LOOP, f'--tokens={path}', f'--out={tmp_path / "logits.npy"}')
  assert 'is not a .npy file' in logits()
  np.save(path, np.zeros((2, 3)))
  assert 'must be int32 [B, T], one document per row, got float64 [2, 3]' in logits()
  np.save(path, np.int32([[0, 96]]))
  assert 'must be below the vocabulary size' in logits()
  assert [file.name for file in tmp_path.iterdir()] == ['tokens.npy']
