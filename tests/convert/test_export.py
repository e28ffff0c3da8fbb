"""`python -m launch.export` as a person runs it: three sub-commands, one line and status 2 for a mistake."""

import json
import pathlib
import subprocess
import sys
import time

import numpy as np
from safetensors.numpy import load_file

TESTS = pathlib.Path(__file__).parents[1]
LOOP = TESTS / 'golden' / 'loop_tiny'


def export(*args):
  command = [sys.executable, '-m', 'launch.export', *map(str, args)]
  return subprocess.run(command, capture_output=True, text=True, cwd=TESTS.parent, check=False)


def refused(*args):
  """stderr of a call that must end with status 2, one line and nothing on stdout."""
  done = export(*args)
  assert done.returncode == 2 and done.stdout == '' and done.stderr.count('\n') == 1, done
  return done.stderr


def test_help_is_quick_and_names_the_sub_commands():
  began = time.monotonic()
  done = export('--help')
  assert time.monotonic() - began < 2
  assert done.returncode == 0 and all(name in done.stdout for name in ('from_hf', 'to_hf', 'logits', '--tokens'))


def test_a_checkpoint_passes_through_a_run_folder_bit_for_bit_and_is_never_replaced(tmp_path):
  stage = (f'--workdir={tmp_path / "work"}', '--stage=midtrain_32k')
  assert export('from_hf', LOOP, *stage).returncode == 0
  told = json.loads((tmp_path / 'work' / 'midtrain_32k' / 'lineage.json').read_text())
  assert told['imported'] == 'loop_tiny' and told['finished'] and told['size'] == 'imported'
  assert (told['model']['loops'], told['model']['loop_window']) == (2, 16)
  files = sorted((path, path.read_bytes()) for path in (tmp_path / 'work').rglob('*') if path.is_file())
  assert 'holds checkpoints; choose another --workdir or --stage' in refused('from_hf', LOOP, *stage)
  assert files == sorted((path, path.read_bytes()) for path in (tmp_path / 'work').rglob('*') if path.is_file())
  assert export('to_hf', *stage, f'--out={tmp_path / "out"}').returncode == 0
  ours, theirs = (load_file(folder / 'model.safetensors') for folder in (tmp_path / 'out', LOOP))
  assert ours.keys() == theirs.keys() and all(ours[name].tobytes() == theirs[name].tobytes() for name in theirs)
  data = max((tmp_path / 'work/midtrain_32k/checkpoints/0/params').rglob('*'), key=lambda path: path.stat().st_size)
  content = bytearray(data.read_bytes())
  content[len(content) // 2] ^= 1
  data.write_bytes(content)
  assert f'{data.name} has changed since it was saved' in refused('to_hf', *stage, f'--out={tmp_path / "other"}')
  assert sorted(path.name for path in tmp_path.iterdir()) == ['out', 'work']


def test_logits_of_a_published_checkpoint_are_written(tmp_path):
  golden = np.load(LOOP / 'golden.npz')
  np.save(tmp_path / 'tokens.npy', golden['input_ids'])
  done = export('logits', LOOP, f'--tokens={tmp_path / "tokens.npy"}', f'--out={tmp_path / "logits"}')
  assert done.returncode == 0
  logits = np.load(tmp_path / 'logits')
  assert logits.dtype == np.float32
  np.testing.assert_allclose(logits, golden['logits'], rtol=0, atol=2e-5)


def test_mistakes_on_the_command_line_are_one_line(tmp_path):
  assert 'did you mean "from_hf"' in refused('from_hff', LOOP)
  assert 'takes one folder, MODEL; got none' in refused('from_hf')
  assert '--workdir is missing' in refused('from_hf', LOOP)
  assert '--dtype has no meaning here' in refused('logits', LOOP, '--tokens=a', '--out=b', '--dtype=bfloat16')
  assert 'did you mean "midtrain_32k"' in refused('from_hf', LOOP, f'--workdir={tmp_path}', '--stage=midtrain_32')
  nowhere = refused('to_hf', f'--workdir={tmp_path}', '--stage=pretrain', f'--out={tmp_path / "out"}')
  assert 'pretrain/checkpoints: there is no checkpoint' in nowhere
  assert not list(tmp_path.iterdir())


def test_tokens_that_are_no_rows_of_this_model_are_refused(tmp_path):
  path = tmp_path / 'tokens.npy'
  logits = lambda: refused('logits', LOOP, f'--tokens={path}', f'--out={tmp_path / "logits.npy"}')
  assert 'is not a .npy file' in logits()
  np.save(path, np.zeros((2, 3)))
  assert 'is not int32 [B, T]' in logits()
  np.save(path, np.int32([[0, 96]]))
  assert 'tokens go from 0 to 96; ' in logits()
  assert [file.name for file in tmp_path.iterdir()] == ['tokens.npy']
