"""Rows on disk: what they hold, read without TensorFlow, refused in one line when they do not fit or are damaged."""

import json
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest

from iquest_jax.data.rows.read import Rows
from iquest_jax.errors import UserError
from iquest_jax.text.tokenizer import Tokenizer

from tests.data.small_stage import check, stage
from tests.processes import ROOT


@pytest.fixture(name='folder')
def _folder(prepared):
  """The rows of the stage; not to be changed."""
  return prepared[0].rows(stage().stage)


@pytest.fixture(name='copy')
def _copy(folder, tmp_path):
  return shutil.copytree(folder, tmp_path / 'rows')


def read_all(folder, source='commits', split='train'):
  rows = Rows(folder, source, split, 'THE COMMAND')
  return [rows[i] for i in range(len(rows))]


def test_rows_hold_the_text_of_their_documents(prepared, folder):
  run, manifest = prepared
  tokenizer = Tokenizer.load(run.tokenizer)
  tokens = 0
  for row in read_all(folder, 'reasoning_qa'):
    assert {name: (value.shape, value.dtype) for name, value in row.items()} == {
        'tokens': ((64,), np.int32), 'segment_ids': ((64,), np.int32), 'positions': ((64,), np.int32),
        'loss_weights': ((64,), np.float32),
    }  # fmt: skip
    tokens += np.count_nonzero(row['segment_ids'])
    text = tokenizer.decode(row['tokens'][row['segment_ids'] == 1])
    assert text.startswith('<|im_start|>user\n') and text.endswith('<|im_end|>\n')
  assert tokens == manifest['sources']['reasoning_qa']['train']['tokens']


def test_held_out_rows_come_from_as_many_documents(prepared, folder):
  held_out = read_all(folder, 'file_level', 'held_out')
  assert len({tuple(row['tokens'][:16].tolist()) for row in held_out}) == 3
  assert prepared[1]['sources']['file_level']['held_out']['documents'] >= 3
  assert all((row['positions'] == 0).sum() >= 1 and row['positions'][0] == 0 for row in held_out)


def test_reading_imports_no_tensorflow(folder):
  program = [sys.executable, '-m', 'tests.programs.read_rows', str(folder), 'commits']
  subprocess.run(program, check=True, cwd=ROOT)


def test_the_manifest_is_json_with_sorted_keys(folder):
  text = (folder / 'manifest.json').read_text()
  assert text == json.dumps(json.loads(text), indent=1, sort_keys=True) + '\n'


def test_rows_that_do_not_fit_the_stage_are_refused_in_one_line(prepared, folder, tmp_path):
  manifest = prepared[1]
  assert check(folder, manifest)['context'] == 64
  for changes, reason in (
      ({'context': 128}, 'have context 64, the stage has 128'),
      ({'tokenizer_fingerprint': 'f' * 64}, 'another tokenizer'),
      ({'sources': ('commits', 'code')}, 'no rows of "code"'),
  ):
    with pytest.raises(UserError, match=reason) as error:
      check(folder, manifest, **changes)
    assert 'THE COMMAND' in str(error.value) and '\n' not in str(error.value)
  with pytest.raises(UserError, match='missing.*THE COMMAND'):
    check(tmp_path, manifest)
  (tmp_path / 'manifest.json').write_text('{')
  with pytest.raises(UserError, match='damaged.*THE COMMAND'):
    check(tmp_path, manifest)


@pytest.mark.parametrize('split', ['train', 'held_out'])
def test_a_manifest_that_counts_no_rows_of_a_split_is_refused(prepared, copy, split):
  content = json.loads((copy / 'manifest.json').read_text())
  content['sources']['commits'][split]['rows'] = 0
  (copy / 'manifest.json').write_text(json.dumps(content))
  with pytest.raises(UserError, match=f'"commits" has no {split} rows in .*THE COMMAND'):
    check(copy, prepared[1])
  check(copy, prepared[1], sources=('reasoning_qa',))


def test_a_manifest_without_its_fields_is_refused(prepared, copy):
  for content in ('{}', '[]', '{"tokenizer": "", "context": 64, "sources": {"commits": {}}}', '\ud800'):
    (copy / 'manifest.json').write_text(content, errors='surrogatepass')
    with pytest.raises(UserError, match='manifest.json is damaged .*THE COMMAND'):
      check(copy, prepared[1])


def damage(folder, change, split='train') -> pathlib.Path:
  """Changes the content of the file of one split of "commits"."""
  file = next((folder / 'commits').rglob(f'*{split}.array_record*'))
  file.write_bytes(change(file.read_bytes()))
  return file


def changed(content):
  return content[:200] + bytes([content[200] ^ 1]) + content[201:]  # within the first rows


def test_a_missing_file_is_named_at_the_start(prepared, copy):
  file = damage(copy, lambda content: content)
  file.unlink()
  with pytest.raises(UserError, match=f'{file.name} is missing; prepare them again with THE COMMAND'):
    check(copy, prepared[1])


def test_a_file_of_another_size_is_named_at_the_start(prepared, copy):
  file = damage(copy, lambda content: content[:-1])
  with pytest.raises(UserError, match=f'{file} must have .* bytes, got .* prepare them again with THE COMMAND'):
    check(copy, prepared[1])


@pytest.mark.parametrize('split', ['train', 'held_out'])
def test_a_changed_byte_is_named_as_it_is_read(prepared, copy, split):
  file = damage(copy, changed, split)
  check(copy, prepared[1])  # which reads no rows
  with pytest.raises(UserError, match=f'{file} cannot be read .*prepare the rows again with THE COMMAND') as error:
    read_all(copy, split=split)
  assert '\n' not in str(error.value)


def test_no_changed_byte_is_read_as_another_token(folder, copy):
  """Why checking names and sizes is enough when training starts: ArrayRecord finds the rest, padding aside."""
  file = damage(copy, lambda content: content)
  content, changes = file.read_bytes(), np.random.default_rng(0)
  expected, refused = read_all(folder), 0
  for at in changes.choice(np.flatnonzero(np.frombuffer(content, np.uint8)), 100, replace=False):
    file.write_bytes(content[:at] + bytes([content[at] ^ 1 << changes.integers(8)]) + content[at + 1 :])
    try:
      for row, other in zip(read_all(copy), expected, strict=True):
        assert all(np.array_equal(row[name], values) for name, values in other.items())
    except UserError:
      refused += 1
  assert refused > 90


def test_a_damaged_description_is_named(copy):
  file = damage(copy, lambda content: content)
  for name, content in (('dataset_info.json', '{'), ('dataset_info.json', '{}'), ('features.json', '[]')):
    before = (file.parent / name).read_text()
    (file.parent / name).write_text(content)
    with pytest.raises(UserError, match=f'{file.parent} cannot be read .*THE COMMAND') as error:
      Rows(copy, 'commits', 'train', 'THE COMMAND')
    assert '\n' not in str(error.value)
    (file.parent / name).write_text(before)
