"""`python -m launch.export` as a user runs it: import, export, logits, and the files they refuse."""

import dataclasses
import json
import pathlib
import signal
import time

import numpy as np
import pytest
from safetensors.numpy import load_file

from iquest_jax.text.tokenizer import Tokenizer

from tests import processes
from tests.model import small_models

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


def test_the_tokenizer_goes_with_the_model_and_another_is_refused(export, refused, tmp_path):
  model = dataclasses.replace(small_models.LOOP, vocab=300)
  texts = ['def f(x):\n  return x + 1\n', 'class A: pass\n']
  for name, text in zip('ab', texts):
    small_models.write_checkpoint(tmp_path / name, model)
    Tokenizer.train([text] * 3, 300).save(tmp_path / name / 'tokenizer.json')
  work = f'--workdir={tmp_path / "work"}'
  export('from_hf', tmp_path / 'a', work, '--stage=pretrain')
  export('to_hf', work, '--stage=pretrain', f'--out={tmp_path / "out"}', '--dtype=bfloat16')
  for folder in (tmp_path / 'work/tokenizer', tmp_path / 'out'):
    assert (folder / 'tokenizer.json').read_bytes() == (tmp_path / 'a/tokenizer.json').read_bytes()
  assert load_file(tmp_path / 'out/model.safetensors')['lm_head.weight'].dtype == 'bfloat16'
  export('from_hf', tmp_path / 'out', work, '--stage=anneal')
  error = refused('from_hf', tmp_path / 'b', work, '--stage=midtrain_32k')
  assert 'work/tokenizer/tokenizer.json is another tokenizer than that of' in error
  assert not (tmp_path / 'work/midtrain_32k').exists()
  error = refused('to_hf', work, '--stage=pretrain', f'--out={tmp_path / "other"}', '--architecture=llama')
  assert 'architecture must be left out for a loop' in error and not (tmp_path / 'other').exists()


def kill_once(process, begun):
  """Kills a process as soon as something exists."""
  while process.poll() is None and not begun():
    time.sleep(0.002)
  process.kill()
  process.communicate()
  assert process.returncode == -signal.SIGKILL


def test_a_kill_leaves_neither_half_a_checkpoint_nor_half_an_export(commands, export, tmp_path):
  model = dataclasses.replace(small_models.LOOP, layers=20, d_model=256, d_ff=1024)
  source = small_models.write_checkpoint(tmp_path / 'in', model)
  stage, out = (f'--workdir={tmp_path / "work"}', '--stage=pretrain'), tmp_path / 'out'
  saved = tmp_path / 'work/pretrain/checkpoints'
  start = lambda *arguments: commands.start(['-m', 'launch.export', *map(str, arguments)], fresh=True)
  kill_once(start('from_hf', source, *stage), lambda: list(saved.glob('0.*/params/ocdbt.process_0/d/*')))
  assert [path.name for path in saved.iterdir() if path.name.isdecimal()] == []
  assert not saved.with_name('lineage.json').exists()
  export('from_hf', source, *stage)
  assert [path.name for path in saved.iterdir()] == ['0']
  written = tmp_path / 'out.partial/model.safetensors'
  kill_once(start('to_hf', *stage, f'--out={out}'), lambda: written.exists() and written.stat().st_size > 1_000_000)
  assert not out.exists()
  export('to_hf', *stage, f'--out={out}')
  ours, theirs = load_file(out / 'model.safetensors'), load_file(source / 'model.safetensors')
  assert ours.keys() == theirs.keys() and all(ours[name].tobytes() == theirs[name].tobytes() for name in theirs)
  assert sorted(path.name for path in tmp_path.iterdir()) == ['in', 'out', 'work']


def test_two_processes_import_and_export_what_one_does_and_each_moves_its_part(commands, tmp_path, unused_port):
  source = small_models.write_checkpoint(tmp_path / 'in', small_models.LOOP)
  total = sum(array.nbytes for array in load_file(source / 'model.safetensors').values())
  moved = {count: {name: [] for name in ('tensors', 'pieces', 'rows')} for count in (1, 2)}
  for count in (1, 2):
    stage = (f'--workdir={tmp_path / f"work_{count}"}', '--stage=pretrain')
    for arguments in (('from_hf', source, *stage), ('to_hf', *stage, f'--out={tmp_path / f"out_{count}"}')):
      of_process = [tmp_path / f'moved_{process}' for process in range(count)]
      command = lambda file: ['-m', 'tests.programs.small_pieces', '8000', '6200', str(file), '-m', 'launch.export',
                              *map(str, arguments)]  # fmt: skip
      several = {'JAX_COORDINATOR_ADDRESS': f'localhost:{unused_port}', 'JAX_NUM_PROCESSES': '2'} if count == 2 else {}
      started = [
          commands.start(command(file), **several, **({'JAX_PROCESS_ID': str(process)} if several else {}))
          for process, file in enumerate(of_process)
      ]
      printed = [processes.finish(process).stdout for process in started]
      assert [' -> ' in text for text in printed] == [True, False][:count]
      for file in of_process:
        for name, size in json.loads(file.read_text()).items():
          moved[count][name].append(size)
  out = [{path.name: path.read_bytes() for path in (tmp_path / f'out_{count}').iterdir()} for count in (1, 2)]
  assert out[0] == out[1] and sum(name.endswith('.safetensors') for name in out[0]) > 4
  fingerprints = 'pretrain/checkpoints/0/integrity/fingerprints.json'
  ours, theirs = (json.loads((tmp_path / f'work_{count}' / fingerprints).read_text()) for count in (1, 2))
  assert ours == theirs
  for name, sizes in moved[2].items():
    # Only pieces that lie across files of both, a seventh here, are read by both.
    most = total * (1.15 if name == 'pieces' else 1)
    assert sum(moved[1][name]) == total <= sum(sizes) <= most, name
    assert (sum(sizes) > total) == (name == 'pieces'), name
    assert all(size > total / 4 for size in sizes if size), name


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
