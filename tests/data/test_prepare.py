"""Preparation: atomic, the same bytes from the same inputs, repeated only for inputs that changed."""

import errno
import os
import resource
import shutil
import signal
import subprocess
import sys
import time

import pytest

from iquest_jax.data import prepare as prepare_lib
from iquest_jax.data import split
from iquest_jax.data.documents import Conversation, File, to_json
from iquest_jax.data.prepare import import_tokenizer, inputs_hash, prepare, prepare_tokenizer
from iquest_jax.data.rows import manifest as manifest_lib
from iquest_jax.errors import UserError
from iquest_jax.run_folder import RunFolder
from iquest_jax.text.tokenizer import Tokenizer

from tests.data.small_stage import check, stage
from tests.processes import ROOT

CODE = ((0, (('code', 1.0),)),)
CHATS = ((0, (('chat_instruct', 1.0),)),)


@pytest.fixture(name='run')
def _run(prepared, tmp_path):
  """A run folder that has only the tokenizer."""
  run = RunFolder(tmp_path / 'run')
  import_tokenizer(stage(), run, prepared[0].tokenizer)
  return run


def test_rows_are_as_many_as_training_needs(prepared):
  run, manifest = prepared
  assert {name: entry['train']['rows'] for name, entry in manifest['sources'].items()} == {
      'reasoning_qa': 12, 'file_level': 4, 'commits': 16,
  }  # fmt: skip
  assert all(entry['held_out']['rows'] == 3 for entry in manifest['sources'].values())
  assert manifest['rates'] == [[0, {'reasoning_qa': 3.0, 'file_level': 1.0}], [2, {'commits': 1.0}]]
  assert manifest['context'] == 64 and manifest['tokenizer'] == Tokenizer.load(run.tokenizer).fingerprint
  assert not list(run.path.rglob('*incomplete*'))


def test_the_same_inputs_give_the_same_bytes(prepared, corpus, tmp_path):
  """In another folder, from documents with other times; the manifest has the hashes of all files."""
  shutil.copytree(corpus, tmp_path / 'corpus', copy_function=shutil.copy)
  assert prepare(stage(), RunFolder(tmp_path / 'run'), tmp_path / 'corpus') == prepared[1]


def test_a_second_preparation_repeats_only_what_changed(corpus, run):
  started = []
  manifest = prepare(stage(), run, corpus)
  assert prepare(stage(), run, corpus, progress=started.append) == manifest and not started
  changed = stage(data__mixture=((0, (('reasoning_qa', 3.0), ('file_level', 1.0))), (2, (('stage1', 1.0),))))
  again = prepare(changed, run, corpus, progress=started.append)
  assert started == ['stage1'] and again['sources']['file_level'] == manifest['sources']['file_level']
  assert prepare(stage(), run, corpus, progress=started.append) == manifest and started == ['stage1']


def _new_version(patch, folder):
  patch.setattr(manifest_lib, 'VERSION', '9.9.9')


def _renamed(patch, folder):
  (folder / 'code' / 'a.jsonl').rename(folder / 'code' / 'b.jsonl')


def _added(patch, folder):
  shutil.copy(folder / 'code' / 'a.jsonl', folder / 'code' / 'b.jsonl')


def _edited(patch, folder):
  """Another text of the same length at the same time."""
  path = folder / 'code' / 'a.jsonl'
  before = path.stat()
  path.write_text(path.read_text().replace('x = 7', 'x = 8'))
  os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


INPUTS = {
    'the stage': {'stage': 'anneal'},
    'the seed': {'seed': 1},
    'the context': {'data__context': 32},
    'the buckets': {'data__buckets': (0.1, 1.0)},
    'the rows of the evaluation': {'eval__rows': 4},
    'the count of rows': {'count': 9},
    'the tokenizer': {'tokenizer': 'other'},
    'the version of formats': _new_version,
    'the name of a file': _renamed,
    'the number of files': _added,
    'the content of a file': _edited,
}


@pytest.mark.parametrize('name', INPUTS)
def test_the_hash_of_a_sources_inputs_depends_on(tmp_path, monkeypatch, name):
  tokenizers = {'': Tokenizer.train(['a'], 300), 'other': Tokenizer.train(['b c' * 9], 300)}
  write_code(tmp_path)

  def hashed(count=8, tokenizer='', **changes):
    return inputs_hash(stage(**changes), 'code', count, tokenizers[tokenizer], tmp_path)

  before, change = hashed(), INPUTS[name]
  shutil.copytree(tmp_path / 'code', tmp_path / 'other source')
  assert hashed(train__steps=5, model__vocab=300, data__rows_dir='elsewhere') == before  # not inputs of a source
  if callable(change):
    change(monkeypatch, tmp_path)
    assert hashed() != before
  else:
    assert hashed(**change) != before


def test_a_kill_leaves_nothing_that_looks_finished(prepared, corpus, run):
  program = [sys.executable, '-m', 'tests.programs.prepare_stage', stage().to_json(), str(run.path), str(corpus)]
  child = subprocess.Popen(program, stdout=subprocess.PIPE, text=True, cwd=ROOT)
  started = [child.stdout.readline().strip(), child.stdout.readline().strip()]
  time.sleep(0.05)
  os.kill(child.pid, signal.SIGKILL)
  child.wait()
  assert all(started)
  folder = run.rows('midtrain_32k')
  assert not (folder / 'manifest.json').exists()
  with pytest.raises(UserError, match='python -m launch.prepare'):
    check(folder, prepared[1], command=manifest_lib.command(stage(), run))
  again = []
  assert prepare(stage(), run, corpus, progress=again.append) == prepared[1] and started[0] not in again


def write_code(folder, held_out=True):
  """Documents of "code", of which some, or none, are held out."""
  files = [File(str(i), 'a.py', f'x = {i}\n' * 5) for i in range(400)]
  (folder / 'code').mkdir(parents=True)
  lines = [to_json(file) for file in files if held_out or not split.is_held_out(file)]
  (folder / 'code' / 'a.jsonl').write_text('\n'.join(lines))


@pytest.mark.parametrize(
    'changes, reason',
    [
        (dict(data__mixture=((0, (('commmits', 1.0),)),)), 'did you mean "commits"'),
        (dict(data__mixture=((1, (('commits', 1.0),)),)), 'must start at step 0'),
        (dict(data__mixture=CODE), '"code" has no held_out rows'),
        (dict(data__mixture=((0, (('facts', 1.0),)),)), 'no .*jsonl.* in .*facts'),
        (dict(data__mixture=CODE, data__buckets=(0.5, 0.5)), r'buckets must be \(from, to\) with .*, got \(0.5, 0.5\)'),
        (dict(data__mixture=CODE, data__buckets=(0.5,)), r'data.buckets must be .*, got \(0.5,\)'),
        (dict(data__mixture=CODE, data__buckets=(0.5, 0.2)), r'data.buckets must be .*, got \(0.5, 0.2\)'),
        (dict(data__mixture=CODE, data__buckets=(0.5, 1.5)), r'data.buckets must be .*, got \(0.5, 1.5\)'),
        (dict(data__mixture=CODE, data__buckets=('a', 'b')), r"data.buckets must be .*, got \('a', 'b'\)"),
        (dict(data__mixture=CODE, data__context=0), 'data.context must be at least 1, got 0'),
        (dict(data__mixture=CODE, model__vocab=100), 'model.vocab must be at least 275 .*, got 100'),
        (dict(data__mixture=CODE, data__buckets=(0.3, 0.3 + 1e-9)), 'no train rows .none dropped.*widen data.buckets'),
        (dict(data__context=8, data__mixture=CHATS), r'"chat_instruct" has no train rows: [\d]+ documents, all longer than '
         'a row of 8 tokens; raise data.context'),
    ],
)  # fmt: skip
def test_a_user_error_is_reported_in_one_line(tmp_path, changes, reason):
  documents = tmp_path / 'documents'
  write_code(documents, held_out=False)
  (documents / 'chat_instruct').mkdir()
  messages = ({'role': 'user', 'content': 'a question of more than eight tokens'},)
  chats = (Conversation(str(i), messages) for i in range(40))
  (documents / 'chat_instruct' / 'a.jsonl').write_text('\n'.join(map(to_json, chats)))
  with pytest.raises(UserError, match=reason) as error:
    prepare(stage(model__vocab=300, **changes) if 'model__vocab' not in changes else stage(**changes),
            RunFolder(tmp_path / 'run'), documents)  # fmt: skip
  assert '\n' not in str(error.value)
  assert not list(tmp_path.rglob('manifest.json'))


def test_a_malformed_document_is_named_through_tensorflow(tmp_path, capfd):
  write_code(tmp_path)
  with open(tmp_path / 'code' / 'a.jsonl', 'a', encoding='utf-8') as file:
    file.write('\nnot json\n')
  run, small = RunFolder(tmp_path / 'run'), stage(model__vocab=300)
  Tokenizer.train(['x = 1'], 300).save(run.tokenizer)
  with pytest.raises(UserError, match=r'a\.jsonl:401: not JSON'):
    prepare(stage(data__mixture=CODE, train__steps=10_000), run, tmp_path)
  (tmp_path / 'chat_instruct').mkdir()
  (tmp_path / 'chat_instruct' / 'a.jsonl').write_text(to_json(File('5', 'a', 'b')))
  with pytest.raises(UserError, match='"5" of "chat_instruct" must be a conversation, got a file'):
    prepare(stage(data__mixture=CHATS), run, tmp_path)
  assert capfd.readouterr().err == '' and prepare_tokenizer(small, run, tmp_path).vocab_size <= 300


def test_a_tokenizer_can_be_imported_and_must_fit(prepared, tmp_path):
  path = prepared[0].tokenizer
  imported = import_tokenizer(stage(), RunFolder(tmp_path / 'a'), path)
  assert imported.fingerprint == Tokenizer.load(path).fingerprint
  assert prepare_tokenizer(stage(), RunFolder(tmp_path / 'a'), tmp_path).fingerprint == imported.fingerprint
  with pytest.raises(UserError, match='at most model.vocab = 300 entries, got 512'):
    import_tokenizer(stage(model__vocab=300), RunFolder(tmp_path / 'b'), path)
  Tokenizer.train(['other'], 300).save(tmp_path / 'other.json')
  with pytest.raises(UserError, match='is not the same tokenizer as'):
    import_tokenizer(stage(), RunFolder(tmp_path / 'a'), tmp_path / 'other.json')


def test_a_tokenizer_is_trained_on_no_held_out_document(tmp_path, monkeypatch):
  write_code(tmp_path)
  seen, trained = [], Tokenizer.train(['a'], 300)
  monkeypatch.setattr(Tokenizer, 'train', lambda texts, size: seen.extend(texts) or trained)
  prepare_tokenizer(stage(), RunFolder(tmp_path / 'run'), tmp_path)
  held_out = {f'x = {i}\n' * 5 for i in range(400) if split.is_held_out(File(str(i), '', ''))}
  assert len(seen) == 400 - len(held_out) and not held_out & set(seen)


def test_a_folder_that_cannot_be_written_is_named(corpus, tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(UserError, match='prepare: .*file'):
    prepare(stage(), RunFolder(tmp_path / 'file' / 'run'), corpus)


def test_a_full_disk_is_reported_in_one_line_and_what_was_finished_stays(corpus, run):
  prepare(stage(data__mixture=((0, (('file_level', 1.0),)),)), run, corpus)
  more = ((0, (('file_level', 1.0),)), (4, (('reasoning_qa', 1.0),)))
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))  # files end there, as on a full disk
  try:
    with pytest.raises(UserError, match='midtrain_32k: File too large; nothing finished is lost') as error:
      prepare(stage(data__mixture=more, train__steps=40), run, corpus)
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
  assert '\n' not in str(error.value)
  started = []
  prepare(stage(data__mixture=more, train__steps=5), run, corpus, progress=started.append)
  assert started == ['reasoning_qa']


def test_a_preparation_that_fails_leaves_the_previous_rows_complete(prepared, corpus, run):
  manifest = prepare(stage(), run, corpus)
  failing = stage(data__context=8, data__mixture=((0, (('file_level', 1.0), ('chat_instruct', 1.0))),))
  with pytest.raises(UserError, match='raise data.context'):
    prepare(failing, run, corpus)
  folder = run.rows('midtrain_32k')
  assert check(folder, manifest, sources=('commits', 'file_level', 'reasoning_qa')) == manifest
  started = []
  assert prepare(stage(), run, corpus, progress=started.append) == manifest and not started


def test_a_disk_full_before_the_manifest_leaves_the_previous_rows_complete(corpus, run, monkeypatch):
  manifest, folder = prepare(stage(), run, corpus), run.rows('midtrain_32k')
  other, write_whole = stage(seed=1), prepare_lib.write_whole

  def full(path, content):
    if path.name == 'manifest.json':
      raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    write_whole(path, content)

  with monkeypatch.context() as patch, pytest.raises(UserError, match='No space left on device'):
    patch.setattr(prepare_lib, 'write_whole', full)
    prepare(other, run, corpus)
  started = []
  assert prepare(stage(), run, corpus, progress=started.append) == manifest and not started
  again = prepare(other, run, corpus, progress=started.append)  # the sources finished then are only moved
  assert not started and again != manifest and not (folder / 'next').exists()
  assert check(folder, again, sources=again['sources']) == again


@pytest.mark.parametrize(
    'name, damage',
    {
        'manifest.json': lambda file: file.write_text('{}'),
        'commits/1.0.0/commits-train.array_record-00000-of-00001': lambda file: file.write_bytes(file.read_bytes()[::-1]),
        'commits/1.0.0/commits-held_out.array_record-00000-of-00001': lambda file: file.unlink(),
        'commits/1.0.0/dataset_info.json': lambda file: file.write_text('{'),
        'commits/source.json': lambda file: file.write_text('[]'),
    }.items(),
)
def test_preparing_again_fixes_damaged_rows(prepared, corpus, tmp_path, name, damage):
  run = RunFolder(shutil.copytree(prepared[0].path, tmp_path / 'run'))
  damage(run.rows('midtrain_32k') / name)
  started = []
  assert prepare(stage(), run, corpus, progress=started.append) == prepared[1]
  assert started == ([] if name == 'manifest.json' else ['commits'])
