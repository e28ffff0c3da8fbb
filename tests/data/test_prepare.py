"""Preparation of a stage: the same bytes at any width, rows only appended, one swap, and only what changed is repeated."""

import errno
import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys

import pytest
from ml_collections import ConfigDict

from iquest_jax.data import corpus as corpus_lib
from iquest_jax.data import prepare as prepare_lib
from iquest_jax.data.documents import Conversation, File, texts
from iquest_jax.data.executors import Executor
from iquest_jax.data.prepare import import_tokenizer, prepare, prepare_tokenizer
from iquest_jax.data.rows import lock
from iquest_jax.data.rows import manifest as manifest_lib
from iquest_jax.data.rows.read import Rows
from iquest_jax.data.shards import ShardWriter
from iquest_jax.errors import UserError
from iquest_jax.run_folder import RunFolder
from iquest_jax.text.tokenizer import Tokenizer

from tests.data.small_stage import check, stage
from tests.processes import ROOT

CODE = ((0, (('code', 1.0),)),)
CHATS = ((0, (('chat_instruct', 1.0),)),)
ONE = Executor(workers=1)


@pytest.fixture(name='run')
def _run(prepared, tmp_path):
  """A run folder that has only the tokenizer."""
  run = RunFolder(tmp_path / 'run')
  import_tokenizer(stage(), run, prepared[0].tokenizer)
  return run


def documents(folder, **sources) -> corpus_lib.Corpus:
  """A corpus of given documents, {source: documents}: a tenth is held out, the others lie in shards of 100."""
  groups, table = [], {}
  for number, (source, given) in enumerate(sources.items()):
    parts = [given[::10], *([document for n, document in enumerate(given) if n % 10][start::4] for start in range(4))]
    shards = []
    for name, part in enumerate(parts):
      path = folder / 'documents' / source / f'{name}.jsonl.zst'
      with ShardWriter(path) as writer:
        for document in part:
          writer.write(document)
      digest = hashlib.sha256(path.read_bytes()).hexdigest()
      relative = str(path.relative_to(folder / 'documents'))
      shards.append({'path': relative, 'documents': len(part), 'bytes': path.stat().st_size, 'sha256': digest})
    groups.append(corpus_lib.Group(source, type(given[0]).__name__.lower(), tuple(shards[1:]), shards[0]))
    table[source] = (number,)
  return corpus_lib.Corpus(folder / 'documents', tuple(groups), table, {})


def code(count=400):
  return [File(str(i), 'a.py', f'x = {i}\n' * 5) for i in range(count)]


def counted(tasks):
  """A progress that notes how many tasks were run."""
  return lambda step, done: tasks.append(done.total_tasks)


def rows_of(run, source, split='train', stage_name='midtrain_32k'):
  rows = Rows(run.rows(stage_name), source, split, 'THE COMMAND')
  return [tuple(rows[n]['tokens'].tolist()) for n in range(len(rows))]


def hashes(folder):
  paths = sorted(path for path in folder.rglob('*') if path.is_file() and path.name not in ('.lock', 'tasks.lock'))
  return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def test_rows_are_at_least_as_many_as_training_needs(prepared):
  run, manifest = prepared
  for name, needed in {'reasoning_qa': 12, 'file_level': 4, 'commits': 16}.items():
    assert len(rows_of(run, name)) >= needed and len(rows_of(run, name, 'held_out')) >= 3
  assert manifest['context'] == 64 and manifest['tokenizer'] == Tokenizer.load(run.tokenizer).fingerprint


def test_rows_suffice_for_what_a_closed_loop_may_decide(tmp_path, run):
  given = documents(tmp_path, code=code(2000), file_level=code(2000))
  changes = dict(data__mixture=((0, (('code', 1.0), ('file_level', 1.0))),), train__steps=160, eval__every=1)
  loop = dict(every=1, benchmarks=(('code', 'held_out'),), rise=8.0, decay=0.5, cap=8.0, tolerance=0.0)
  configured = prepare(stage(**changes), run, given, ONE)
  manifest = prepare(stage(**changes, data__closed_loop=ConfigDict(loop)), run, given, ONE)
  rows = lambda manifest, source: manifest['sources'][source]['train']['rows']
  # 640 of 1280 rows as configured; 8/9 of them if its score falls at once, but for the first step.
  assert 640 <= rows(configured, 'code') < 1135 <= rows(manifest, 'code')
  assert manifest['shares']['code']['rows'] == 0.5
  with pytest.raises(UserError, match='closed_loop.benchmarks: source "cod" does not exist; did you mean "code"'):
    loop = ConfigDict(loop | {'benchmarks': (('cod', 'held_out'),)})
    prepare(stage(**changes, data__closed_loop=loop), run, given, ONE)


@pytest.mark.parametrize('workers', [2, 3])
def test_the_same_documents_give_the_same_bytes_at_any_width(prepared, corpus, run, workers):
  assert prepare(stage(), run, corpus, Executor(workers=workers)) == prepared[1]
  assert hashes(run.rows('midtrain_32k')) == hashes(prepared[0].rows('midtrain_32k'))


def test_a_second_preparation_repeats_only_what_changed(corpus, run):
  manifest, tasks = prepare(stage(), run, corpus, ONE), []
  assert prepare(stage(), run, corpus, ONE, counted(tasks)) == manifest and not tasks
  changed = stage(data__mixture=((0, (('reasoning_qa', 3.0), ('file_level', 1.0))), (2, (('stage1', 1.0),))))
  again = prepare(changed, run, corpus, ONE, counted(tasks))
  assert tasks and again['sources']['file_level'] == manifest['sources']['file_level']


def test_more_steps_append_rows_and_change_no_earlier_one(tmp_path, run):
  given = documents(tmp_path, code=code(4000))
  short, long = (stage(data__mixture=CODE, train__steps=steps) for steps in (2, 200))
  first = prepare(short, run, given, ONE)
  before = rows_of(run, 'code')
  second = prepare(long, run, given, ONE)
  assert rows_of(run, 'code')[: len(before)] == before and len(rows_of(run, 'code')) >= 200 * 8 > len(before)
  assert manifest_lib.is_extension_of(second, manifest_lib.rows_hash(first))
  # Prepared at once, the rows are the same; only the segments differ.
  straight = RunFolder(tmp_path / 'straight')
  import_tokenizer(stage(), straight, run.tokenizer)
  prepare(long, straight, given, ONE)
  assert rows_of(straight, 'code') == rows_of(run, 'code')
  # Fewer steps than there are rows need nothing.
  assert prepare(short, run, given, ONE)['sources'] == second['sources']


CHANGES = {
    'the stage': {'stage': 'anneal'},
    'the seed': {'seed': 1},
    'the context': {'data__context': 32},
    'the buckets': {'data__buckets': (0.1, 1.0)},
    'what is learned': {'data__learn': 'assistant'},
    'the tokenizer': {},
    'the version of formats': {},
    'the documents': {},
}


@pytest.mark.parametrize('name', CHANGES)
def test_rows_are_made_again_where_they_depend_on(tmp_path, run, monkeypatch, name):
  given, first = documents(tmp_path, code=code()), stage(data__mixture=CODE)
  prepare(first, run, given, ONE)
  tasks = []
  unrelated = stage(data__mixture=CODE, train__steps=3, model__vocab=600, eval__rows=2)
  prepare(unrelated, run, given, ONE, counted(tasks))
  assert not tasks
  if name == 'the tokenizer':
    Tokenizer.train(['b c' * 9], 300).save(run.tokenizer)
  elif name == 'the version of formats':
    monkeypatch.setattr(manifest_lib, 'VERSION', '9.9.9')
  elif name == 'the documents':
    given = documents(tmp_path / 'other', code=code(401))
  changed = stage(data__mixture=CODE, **CHANGES[name])
  prepare(changed, run, given, ONE, counted(tasks))
  assert tasks


@pytest.mark.parametrize(
    'changes, reason',
    [
        (dict(data__mixture=((0, (('commmits', 1.0),)),)), 'did you mean "commits"'),
        (dict(data__mixture=((1, (('commits', 1.0),)),)), 'must start at step 0'),
        (dict(data__mixture=((0, (('facts', 1.0),)),)), r'documents: .* has none for "facts"; name it in an \[\[input\]\]'),
        (dict(data__mixture=CODE, data__learn='some'), 'data.learn must be one of all, assistant, got "some"'),
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
  messages = ({'role': 'user', 'content': 'a question of more than eight tokens'},)
  chats = [Conversation(str(i), messages) for i in range(40)]
  given = documents(tmp_path, code=code(), chat_instruct=chats)
  config = stage(**{'model__vocab': 300} | changes)
  with pytest.raises(UserError, match=reason) as error:
    prepare(config, RunFolder(tmp_path / 'run'), given, ONE)
  assert '\n' not in str(error.value)
  assert not list(tmp_path.rglob('manifest.json'))


def test_a_tokenizer_can_be_imported_and_must_fit(prepared, tmp_path):
  path = prepared[0].tokenizer
  imported = import_tokenizer(stage(), RunFolder(tmp_path / 'a'), path)
  assert imported.fingerprint == Tokenizer.load(path).fingerprint
  assert prepare_tokenizer(stage(), RunFolder(tmp_path / 'a'), None).fingerprint == imported.fingerprint
  with pytest.raises(UserError, match='at most model.vocab = 300 entries, got 512'):
    import_tokenizer(stage(model__vocab=300), RunFolder(tmp_path / 'b'), path)
  Tokenizer.train(['other'], 300).save(tmp_path / 'other.json')
  with pytest.raises(UserError, match='is not the same tokenizer as'):
    import_tokenizer(stage(), RunFolder(tmp_path / 'a'), tmp_path / 'other.json')


def test_a_tokenizer_is_trained_on_no_held_out_document(tmp_path, monkeypatch):
  given = documents(tmp_path, code=code())
  seen, trained = [], Tokenizer.train(['a'], 300)
  monkeypatch.setattr(Tokenizer, 'train', lambda texts, size: seen.extend(texts) or trained)
  prepare_tokenizer(stage(), RunFolder(tmp_path / 'run'), given)
  held_out = {text for document in given.read(given.held_out('code')) for text in texts(document)}
  assert len(seen) == 360 and len(held_out) == 40 and not held_out & set(seen)


def test_a_folder_that_cannot_be_written_is_named(corpus, tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(UserError, match='prepare: .*file'):
    prepare(stage(), RunFolder(tmp_path / 'file' / 'run'), corpus, ONE)


def test_a_full_disk_is_reported_in_one_line_and_what_was_finished_stays(tmp_path, run):
  given = documents(tmp_path, code=code(4000))
  prepare(stage(data__mixture=CODE), run, given, ONE)
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, hard))  # files end there, as on a full disk
  try:
    with pytest.raises(UserError, match='File too large; nothing finished is lost') as error:
      prepare(stage(data__mixture=CODE, train__steps=40), run, given, ONE)
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
  assert '\n' not in str(error.value) and len(rows_of(run, 'code')) >= 4 * 8
  prepare(stage(data__mixture=CODE, train__steps=40), run, given, ONE)


def test_a_preparation_that_fails_leaves_the_previous_rows_complete(corpus, run):
  manifest = prepare(stage(), run, corpus, ONE)
  failing = stage(data__context=8, data__mixture=((0, (('file_level', 1.0), ('chat_instruct', 1.0))),))
  with pytest.raises(UserError, match='raise data.context'):
    prepare(failing, run, corpus, ONE)
  folder, tasks = run.rows('midtrain_32k'), []
  assert check(folder, manifest, sources=('commits', 'file_level', 'reasoning_qa')) == manifest
  assert prepare(stage(), run, corpus, ONE, counted(tasks)) == manifest and not tasks


def test_a_disk_full_at_the_swap_leaves_the_previous_rows_complete(corpus, run, monkeypatch):
  manifest = prepare(stage(), run, corpus, ONE)

  def full(folder, manifest):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder / 'manifest.json'))

  with monkeypatch.context() as patch, pytest.raises(UserError, match='No space left on device'):
    patch.setattr(prepare_lib.manifest_lib, 'write', full)
    prepare(stage(seed=1), run, corpus, ONE)
  folder = run.rows('midtrain_32k')
  assert check(folder, manifest, sources=manifest['sources']) == manifest
  again = prepare(stage(seed=1), run, corpus, ONE)
  assert check(folder, again, sources=again['sources']) == again != manifest


def test_a_damaged_file_is_found_and_its_rows_are_made_again(prepared, corpus, tmp_path):
  for damage in (
      lambda file: file.write_bytes(file.read_bytes()[::-1]),
      lambda file: file.unlink(),
      lambda file: file.write_text('{'),
  ):
    run = RunFolder(shutil.copytree(prepared[0].path, tmp_path / 'run'))
    folder = run.rows('midtrain_32k')
    for pattern in ('*array_record*', 'dataset_info.json', 'features.json'):
      damage(next((folder / 'commits').rglob(pattern)))
    assert prepare(stage(), run, corpus, ONE) == prepared[1]
    assert hashes(folder / 'commits') == hashes(prepared[0].rows('midtrain_32k') / 'commits')
    shutil.rmtree(tmp_path / 'run')


def test_two_preparations_of_one_folder_do_not_meet(tmp_path):
  program = (
      'import sys, pathlib; from iquest_jax.data import prepare; from iquest_jax.run_folder import RunFolder\n'
      'with prepare.alone(RunFolder(pathlib.Path(sys.argv[1]))): print("alone", flush=True); sys.stdin.read()'
  )
  other = subprocess.Popen([sys.executable, '-c', program, tmp_path], cwd=ROOT, stdin=-1, stdout=-1, text=True)
  assert other.stdout.readline() == 'alone\n'
  refused = pytest.raises(UserError, match='another preparation of .* is running; wait for it')
  with refused, prepare_lib.alone(RunFolder(tmp_path)):
    pass
  other.communicate('')
  with prepare_lib.alone(RunFolder(tmp_path)):
    pass


def test_what_no_manifest_names_is_swept_but_not_under_a_run(tmp_path, run):
  given, folder = documents(tmp_path, code=code()), run.rows('midtrain_32k')
  first = prepare(stage(data__mixture=CODE), run, given, ONE)
  named = lambda manifest: {segment['folder'] for segment in manifest['sources']['code']['train']['segments']}
  training = lock.hold(folder)
  second = prepare(stage(data__mixture=CODE, data__context=32), run, given, ONE)
  assert all((folder / name).is_dir() for name in named(first) | named(second))
  training.release()
  prepare(stage(data__mixture=CODE, data__context=32), run, given, ONE)
  assert not any((folder / name).is_dir() for name in named(first))
  assert all((folder / name).is_dir() for name in named(second))


def test_workers_import_neither_tensorflow_nor_jax():
  program = (
      'import sys; from iquest_jax.data import corpus, pack, scan;'
      'assert not {"tensorflow", "jax", "seqio", "grain"} & sys.modules.keys()'
  )
  subprocess.run([sys.executable, '-c', program], cwd=ROOT, check=True)


def test_a_held_out_document_gives_one_row_and_a_longer_one_for_training_all_of_it(tmp_path, run):
  """A few held-out rows should not all be pieces of one document."""
  long = [File(str(n), 'a.py', f'x{n} = {n}\n' * 200) for n in range(20)]
  prepare(stage(data__mixture=CODE, eval__rows=50), run, documents(tmp_path, code=long), ONE)
  assert len(rows_of(run, 'code', 'held_out')) == 2 and len(rows_of(run, 'code')) > 18 * 5


def test_the_manifest_says_what_came_of_the_documents(prepared):
  manifest = json.loads((prepared[0].rows('midtrain_32k') / 'manifest.json').read_text())
  for entry in manifest['sources'].values():
    segment = entry['train']['segments'][0]
    assert segment['examples'] > 0 and segment['loss_weight'] > 0 and segment['samples'] and segment['languages']
    assert sum(segment['languages'].values()) >= segment['tokens'] > 0
