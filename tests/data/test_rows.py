"""Rows on disk: prepared whole or not at all, made again only when their input changed, read without TensorFlow."""

import errno
import itertools
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
from ml_collections import ConfigDict

from iquest_jax.data import documents, repos, sources
from iquest_jax.data.documents import Document, is_held_out
from iquest_jax.data.prepare import import_tokenizer, prepare, prepare_tokenizer
from iquest_jax.data.rows import read
from iquest_jax.errors import UserError
from iquest_jax.run_folder import RunFolder
from iquest_jax.text.tokenizer import Tokenizer


def stage(**changes):
  config = ConfigDict({
      'stage': 'midtrain_32k',
      'size': 'tiny',
      'seed': 0,
      'model': {'vocab': 512},
      'data': {
          'context': 64,
          'rows_dir': '',
          'buckets': (0.0, 1.0),
          'mixture': ((0, (('reasoning_qa', 3.0), ('file_level', 1.0))), (2, (('commits', 1.0),))),
      },
      'train': {'steps': 4, 'batch_rows': 8},
      'eval': {'rows': 3},
  })
  for key, value in changes.items():
    section, _, field = key.rpartition('__')
    (config[section] if section else config)[field] = value
  return config


@pytest.fixture(scope='module', autouse=True)
def _history(tmp_path_factory):
  """A history of the tests' own: a commit to the project beside a running test must not change its input."""
  folder = tmp_path_factory.mktemp('project')
  repos.generated_repository(folder, seed=5, commits_wanted=60)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(repos, '_SOURCE_ROOT', folder)
    yield


@pytest.fixture(name='prepared', scope='module')
def _prepared(tmp_path_factory, _history):
  workdir = tmp_path_factory.mktemp('run')
  return workdir, prepare(stage(), workdir)


def test_rows_are_there_in_the_numbers_training_needs(prepared):
  workdir, manifest = prepared
  assert {name: entry['train']['rows'] for name, entry in manifest['sources'].items()} == {
      'reasoning_qa': 12, 'file_level': 4, 'commits': 16,
  }  # fmt: skip
  assert all(entry['held_out']['rows'] == 3 for entry in manifest['sources'].values())
  assert manifest['rates'] == [[0, {'reasoning_qa': 3.0, 'file_level': 1.0}], [2, {'commits': 1.0}]]
  assert manifest['context'] == 64 and manifest['tokenizer'] == Tokenizer.load(RunFolder(workdir).tokenizer).fingerprint
  assert not list(workdir.rglob('*incomplete*'))


def test_rows_hold_the_text_of_their_documents(prepared):
  workdir, manifest = prepared
  tokenizer = Tokenizer.load(RunFolder(workdir).tokenizer)
  read = read.Rows(workdir / 'rows' / 'midtrain_32k', 'reasoning_qa', 'train', 'THE COMMAND')
  tokens = 0
  for row in (read[i] for i in range(len(read))):
    assert {name: (value.shape, value.dtype) for name, value in row.items()} == {
        'tokens': ((64,), np.int32), 'segment_ids': ((64,), np.int32), 'positions': ((64,), np.int32),
        'loss_weights': ((64,), np.float32),
    }  # fmt: skip
    tokens += np.count_nonzero(row['segment_ids'])
    text = tokenizer.decode(row['tokens'][row['segment_ids'] == 1])
    assert text.startswith('<|im_start|>user\n') and text.endswith('<|im_end|>\n')
  assert tokens == manifest['sources']['reasoning_qa']['train']['tokens']


def test_held_out_rows_come_from_as_many_documents(prepared):
  held_out = read.Rows(prepared[0] / 'rows' / 'midtrain_32k', 'file_level', 'held_out', 'THE COMMAND')
  assert len({tuple(held_out[i]['tokens'][:16].tolist()) for i in range(3)}) == 3
  assert prepared[1]['sources']['file_level']['held_out']['documents'] >= 3
  assert all((held_out[i]['positions'] == 0).sum() >= 1 and held_out[i]['positions'][0] == 0 for i in range(3))


def test_the_same_input_gives_the_same_bytes(prepared, tmp_path):
  assert prepare(stage(), tmp_path)['sources'] == prepared[1]['sources']  # with the hashes of all files


def test_a_second_run_makes_only_what_changed(prepared):
  workdir, manifest = prepared
  made = []
  assert prepare(stage(), workdir, progress=made.append) == manifest and not made
  changed = stage(data__mixture=((0, (('reasoning_qa', 3.0), ('file_level', 1.0))), (2, (('stage1', 1.0),))))
  again = prepare(changed, workdir, progress=made.append)
  assert made == ['stage1'] and again['sources']['file_level'] == manifest['sources']['file_level']
  assert prepare(stage(), workdir, progress=made.append) == manifest and made == ['stage1']


def test_reading_imports_no_tensorflow(prepared):
  workdir, _ = prepared
  program = f"""
      import sys
      from iquest_jax.data import loader, rows
      assert len(read.Rows({str(workdir / 'rows' / 'midtrain_32k')!r}, 'commits', 'train', '')[0]['tokens']) == 64
      assert not {{'tensorflow', 'seqio'}} & sys.modules.keys()
  """
  subprocess.run([sys.executable, '-c', textwrap.dedent(program)], check=True)


def test_a_kill_leaves_nothing_that_looks_finished(prepared, tmp_path):
  import_tokenizer(stage(), tmp_path, RunFolder(prepared[0]).tokenizer)
  program = f"""
      import json
      import pathlib
      from ml_collections import ConfigDict
      from iquest_jax.data import repos
      from iquest_jax.data.prepare import prepare
      repos._SOURCE_ROOT = pathlib.Path({str(repos._SOURCE_ROOT)!r})
      config = ConfigDict(json.loads({stage().to_json()!r}))
      prepare(config, {str(tmp_path)!r}, progress=lambda source: print(source, flush=True))
  """
  child = subprocess.Popen([sys.executable, '-c', textwrap.dedent(program)], stdout=subprocess.PIPE, text=True)
  started = [child.stdout.readline().strip(), child.stdout.readline().strip()]
  time.sleep(0.05)
  os.kill(child.pid, signal.SIGKILL)
  child.wait()
  assert all(started)
  folder = tmp_path / 'rows' / 'midtrain_32k'
  assert not (folder / 'manifest.json').exists()
  with pytest.raises(UserError, match='python -m launch.prepare'):
    _check(folder, prepared[1], command=rows.command(stage(), tmp_path))
  made = []
  manifest = prepare(stage(), tmp_path, progress=made.append)
  assert started[0] not in made and set(manifest['sources']) == {'reasoning_qa', 'file_level', 'commits'}


def _check(folder, manifest, **changes):
  wanted = dict(sources=('commits',), context=64, tokenizer_fingerprint=manifest['tokenizer'], command='THE COMMAND')
  return manifest.check_manifest(folder, **{**wanted, **changes})


def test_rows_that_do_not_fit_are_told_in_one_line(prepared, tmp_path):
  workdir, manifest = prepared
  folder = workdir / 'rows' / 'midtrain_32k'
  assert _check(folder, manifest)['context'] == 64
  for changes, reason in (
      ({'context': 128}, 'have context 64, the stage has 128'),
      ({'tokenizer_fingerprint': 'f' * 64}, 'another tokenizer'),
      ({'sources': ('commits', 'code')}, 'no rows of "code"'),
  ):
    with pytest.raises(UserError, match=reason) as error:
      _check(folder, manifest, **changes)
    assert 'THE COMMAND' in str(error.value) and '\n' not in str(error.value)
  with pytest.raises(UserError, match='missing.*THE COMMAND'):
    _check(tmp_path, manifest)
  (tmp_path / 'manifest.json').write_text('{')
  with pytest.raises(UserError, match='damaged.*THE COMMAND'):
    _check(tmp_path, manifest)


def _documents(folder, held_out):
  """Documents of a source of which some, or none, are held out."""
  ids = [str(i) for i in range(400) if held_out or not is_held_out(Document(str(i), ''))]
  (folder / 'code').mkdir(parents=True)
  lines = [Document(i, 'code', (('a.py', f'x = {i}\n' * 5),)).to_json() for i in ids]
  (folder / 'code' / 'a.jsonl').write_text('\n'.join(lines))


_CODE = ((0, (('code', 1.0),)),)


def test_documents_of_ones_own_are_read_at_any_size(tmp_path):
  _documents(tmp_path / 'documents', held_out=True)
  manifest = prepare(stage(size='7b', data__mixture=_CODE), tmp_path, str(tmp_path / 'documents'))
  assert manifest['sources']['code']['train']['rows'] == 32


@pytest.mark.parametrize(
    'changes, documents, reason',
    [
        (dict(size='7b'), False, 'needs documents of your own'),
        (dict(data__mixture=((0, (('commmits', 1.0),)),)), False, 'did you mean "commits"'),
        (dict(data__mixture=((1, (('commits', 1.0),)),)), False, 'must start at step 0'),
        (dict(data__mixture=_CODE), True, '"code" has no held_out rows'),
        (dict(data__mixture=((0, (('facts', 1.0),)),)), True, 'no .*jsonl.* in .*facts'),
        (dict(data__mixture=_CODE, data__buckets=(0.5, 0.5)), True, r'data.buckets is \(0.5, 0.5\)'),
        (dict(data__buckets=(0.5,)), False, r'data.buckets is \(0.5,\)'),
        (dict(data__context=8, data__mixture=((0, (('chat_instruct', 1.0),)),)), False,
         '"chat_instruct" has no train rows: 10,000 documents, all longer than a row of 8 tokens; raise data.context'),
        (dict(data__buckets=(0.5, 0.2)), False, r'data.buckets is \(0.5, 0.2\)'),
        (dict(data__buckets=(0.5, 1.5)), False, r'data.buckets is \(0.5, 1.5\)'),
        (dict(data__buckets=('a', 'b')), False, r"data.buckets is \('a', 'b'\)"),
        (dict(data__buckets=(0.3, 0.3 + 1e-9), data__mixture=((0, (('chat_instruct', 1.0),)),)), False,
         '"chat_instruct" has no train rows .none dropped.*widen data.buckets'),
        (dict(data__context=0), False, 'data.context is 0; at least 1'),
        (dict(model__vocab=100), False, 'too small'),
    ],
)  # fmt: skip
def test_a_mistake_is_told_in_one_line(tmp_path, changes, documents, reason):
  if documents:
    _documents(tmp_path / 'documents', held_out=False)
  with pytest.raises(UserError, match=reason) as error:
    prepare(stage(**changes), tmp_path / 'run', str(tmp_path / 'documents') if documents else '')
  assert '\n' not in str(error.value)
  assert not list(tmp_path.rglob('manifest.json'))


def test_a_malformed_document_is_named_through_tensorflow(tmp_path, capfd):
  _documents(tmp_path, held_out=True)
  with open(tmp_path / 'code' / 'a.jsonl', 'a', encoding='utf-8') as file:
    file.write('\nnot json\n')
  prepare_tokenizer(stage(model__vocab=300), tmp_path / 'run')
  with pytest.raises(UserError, match=r'a\.jsonl:401: not JSON'):
    prepare(stage(data__mixture=_CODE, train__steps=10_000), tmp_path / 'run', str(tmp_path))
  (tmp_path / 'chat_instruct').mkdir()
  (tmp_path / 'chat_instruct' / 'a.jsonl').write_text(Document('5', '', (('a', 'b'),)).to_json())
  with pytest.raises(UserError, match='"5" of "chat_instruct" has no messages'):
    prepare(stage(data__mixture=((0, (('chat_instruct', 1.0),)),)), tmp_path / 'run', str(tmp_path))
  assert capfd.readouterr().err == ''


def test_a_tokenizer_can_be_imported_and_must_fit(prepared, tmp_path):
  workdir, _ = prepared
  imported = import_tokenizer(stage(), tmp_path / 'a', RunFolder(workdir).tokenizer)
  assert imported.fingerprint == Tokenizer.load(RunFolder(workdir).tokenizer).fingerprint
  assert prepare_tokenizer(stage(), tmp_path / 'a').fingerprint == imported.fingerprint
  with pytest.raises(UserError, match='512 entries, size "tiny" has room for 300'):
    import_tokenizer(stage(model__vocab=300), tmp_path / 'b', RunFolder(workdir).tokenizer)
  Tokenizer.train(['other'], 300).save(tmp_path / 'other.json')
  with pytest.raises(UserError, match='is another tokenizer'):
    import_tokenizer(stage(), tmp_path / 'a', tmp_path / 'other.json')


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(UserError, match='prepare: .*file'):
    prepare(stage(), tmp_path / 'file' / 'run')


def test_a_disk_that_takes_no_more_is_told_in_one_line_and_what_was_finished_stays(prepared, tmp_path):
  import_tokenizer(stage(), tmp_path, RunFolder(prepared[0]).tokenizer)
  prepare(stage(data__mixture=((0, (('file_level', 1.0),)),)), tmp_path)
  more = ((0, (('file_level', 1.0),)), (4, (('reasoning_qa', 1.0),)))
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))  # files end there, as on a full disk
  try:
    with pytest.raises(UserError, match='midtrain_32k: File too large; nothing finished is lost') as error:
      prepare(stage(data__mixture=more, train__steps=500), tmp_path)
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
  assert '\n' not in str(error.value)
  made = []
  prepare(stage(data__mixture=more, train__steps=5), tmp_path, progress=made.append)
  assert made == ['reasoning_qa']


def test_a_preparation_that_fails_leaves_the_rows_before_whole(prepared, tmp_path):
  import_tokenizer(stage(), tmp_path, RunFolder(prepared[0]).tokenizer)
  manifest = prepare(stage(), tmp_path)
  failing = stage(data__context=8, data__mixture=((0, (('file_level', 1.0), ('chat_instruct', 1.0))),))
  with pytest.raises(UserError, match='raise data.context'):
    prepare(failing, tmp_path)
  folder = tmp_path / 'rows' / 'midtrain_32k'
  assert _check(folder, manifest, sources=('commits', 'file_level', 'reasoning_qa')) == manifest
  made = []
  assert prepare(stage(), tmp_path, progress=made.append) == manifest and not made


def test_a_generator_that_runs_dry_ends_and_keeps_the_rows_it_gave(tmp_path, monkeypatch):
  """After the first documents none fits a row: waiting for the next would be for ever."""

  def chats(seed):
    long, short = ({'role': 'assistant', 'content': text} for text in ('word ' * 100, 'yes'))
    yield from (Document(str(i), '', messages=(short,)) for i in range(400))
    yield from (Document(str(i), '', messages=(long,)) for i in itertools.count())

  monkeypatch.setitem(sources.BUILT_IN, 'chat_instruct', chats)
  monkeypatch.setattr(documents, 'PATIENCE', 500)
  config = stage(data__mixture=((0, (('chat_instruct', 1.0),)),), train__steps=1000)
  entry = prepare(config, tmp_path)['sources']['chat_instruct']['train']
  assert 0 < entry['rows'] < 8000 and entry['documents'] > 300 and entry['drops'] == {'longer than a row': 500}


def test_a_disk_that_is_full_before_the_manifest_leaves_the_rows_before_whole(prepared, tmp_path, monkeypatch):
  import_tokenizer(stage(), tmp_path, RunFolder(prepared[0]).tokenizer)
  manifest, folder = prepare(stage(), tmp_path), tmp_path / 'rows' / 'midtrain_32k'
  other, write_json = stage(seed=1), rows.write_json

  def full(path, content):
    if path.name == 'manifest.json':
      raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    write_json(path, content)

  with monkeypatch.context() as patch, pytest.raises(UserError, match='No space left on device'):
    patch.setattr(rows, 'write_json', full)
    prepare(other, tmp_path)
  made = []
  assert prepare(stage(), tmp_path, progress=made.append) == manifest and not made
  again = prepare(other, tmp_path, progress=made.append)  # what was finished then has only to take its place
  assert not made and again != manifest and not (folder / 'next').exists()
  assert _check(folder, again, sources=again['sources']) == again


def _damage(prepared, folder, damage, split='train'):
  """A copy of the rows in which one file of "commits" is changed."""
  shutil.copytree(prepared[0], folder)
  file = next((folder / 'rows' / 'midtrain_32k' / 'commits').rglob(f'*{split}.array_record*'))
  file.write_bytes(damage(file.read_bytes()))
  return folder / 'rows' / 'midtrain_32k', file


def _changed(content):
  return content[:200] + bytes([content[200] ^ 1]) + content[201:]  # within the first rows


def test_a_file_of_another_size_is_named_at_the_start(prepared, tmp_path):
  folder, file = _damage(prepared, tmp_path / 'run', lambda content: content[:-1])
  with pytest.raises(UserError, match=f'{file} has .* bytes, not the .* prepare them again by THE COMMAND'):
    _check(folder, prepared[1])


@pytest.mark.parametrize('split', ['train', 'held_out'])
def test_a_changed_byte_is_named_as_it_is_read(prepared, tmp_path, split):
  folder, file = _damage(prepared, tmp_path / 'run', _changed, split)
  _check(folder, prepared[1])  # which reads no rows
  with pytest.raises(UserError, match=f'{file} cannot be read .*prepare the rows again by THE COMMAND') as error:
    read = read.Rows(folder, 'commits', split, 'THE COMMAND')
    assert all(read[i] for i in range(len(read)))
  assert '\n' not in str(error.value)


def test_no_changed_byte_is_read_as_another_token(prepared, tmp_path):
  """What makes it enough that a start checks names and sizes: ArrayRecord finds the rest, padding aside."""
  folder, file = _damage(prepared, tmp_path / 'run', lambda content: content)
  content, changes = file.read_bytes(), np.random.default_rng(0)
  read = read.Rows(folder, 'commits', 'train', '')
  whole, found = [read[i] for i in range(len(read))], 0
  for at in changes.choice(np.flatnonzero(np.frombuffer(content, np.uint8)), 100, replace=False):
    file.write_bytes(content[:at] + bytes([content[at] ^ 1 << changes.integers(8)]) + content[at + 1 :])
    try:
      read = read.Rows(folder, 'commits', 'train', '')
      for i, row in enumerate(whole):
        assert all(np.array_equal(read[i][name], values) for name, values in row.items())
    except UserError:
      found += 1
  assert found > 90


def test_a_description_that_is_damaged_is_named(prepared, tmp_path):
  damages = (('dataset_info.json', '{'), ('dataset_info.json', '{}'), ('features.json', '[]'))
  for number, (name, content) in enumerate(damages):
    folder, file = _damage(prepared, tmp_path / str(number), lambda content: content)
    (file.parent / name).write_text(content)
    with pytest.raises(UserError, match=f'{file.parent} cannot be read .*THE COMMAND') as error:
      read.Rows(folder, 'commits', 'train', 'THE COMMAND')
    assert '\n' not in str(error.value)


def test_the_command_that_is_named_mends_what_is_damaged(prepared, tmp_path):
  workdir, manifest = prepared
  for number, (name, damage) in enumerate({
      'manifest.json': lambda file: file.write_text('{}'),
      'commits/1.0.0/commits-train.array_record-00000-of-00001': lambda file: file.write_bytes(_changed(file.read_bytes())),
      'commits/1.0.0/commits-held_out.array_record-00000-of-00001': lambda file: file.unlink(),
      'commits/1.0.0/dataset_info.json': lambda file: file.write_text('{'),
      'commits/source.json': lambda file: file.write_text('[]'),
  }.items()):  # fmt: skip
    shutil.copytree(workdir, tmp_path / str(number))
    damage(tmp_path / str(number) / 'rows' / 'midtrain_32k' / name)
    made = []
    assert prepare(stage(), tmp_path / str(number), progress=made.append) == manifest
    assert made == ([] if name == 'manifest.json' else ['commits'])


def test_rows_that_are_no_longer_there_are_named(prepared, tmp_path):
  folder = tmp_path / 'rows'
  shutil.copytree(prepared[0] / 'rows' / 'midtrain_32k', folder)
  file = next((folder / 'commits').rglob('*array_record*'))
  file.unlink()
  with pytest.raises(UserError, match=f'{file.name} is missing; prepare them again by THE COMMAND'):
    _check(folder, prepared[1])
  for content in ('{}', '[]', '{"tokenizer": "", "context": 64, "sources": {"commits": {}}}', '\ud800'):
    (folder / 'manifest.json').write_text(content, errors='surrogatepass')
    with pytest.raises(UserError, match='manifest.json is damaged .*THE COMMAND'):
      _check(folder, prepared[1])


def test_the_manifest_is_json_with_sorted_keys(prepared):
  text = (prepared[0] / 'rows' / 'midtrain_32k' / 'manifest.json').read_text()
  assert text == json.dumps(json.loads(text), indent=1, sort_keys=True) + '\n'
