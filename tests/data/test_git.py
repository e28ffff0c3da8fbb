"""git runs nothing that a repository names, and histories are read whole: commits without authors, the rest counted."""

import collections
import itertools
import pathlib
import random
import stat

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from iquest_jax.data.build import transitions
from iquest_jax.data.documents import Commit, Drop, File, Repository, Transition, to_json
from iquest_jax.data.read import commits
from iquest_jax.data.read.git import GitError, Store, run_git, unquoted
from iquest_jax.data.read.repositories import read_repository
from iquest_jax.data.tiny import history
from iquest_jax.errors import UserError

from tests.data.raw_git import LINK, SUBMODULE, Change, git, write

ALL = (File, Repository, Commit, Transition)
SLOW = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def read(folder, kinds=(Commit,)):
  """(documents, drops by rule) of a repository."""
  found = list(read_repository(folder, kinds, transitions=transitions.transitions))
  drops = collections.Counter(document.rule for document in found if isinstance(document, Drop))
  return [document for document in found if not isinstance(document, Drop)], drops


def remove_object(folder, name):
  """Removes an object from a git directory, packed or not."""
  found = git(folder, 'rev-parse', name).decode().strip()
  for pack in list((folder / 'objects/pack').glob('*.pack')):
    data = pack.read_bytes()
    for path in (pack, pack.with_suffix('.idx'), pack.with_suffix('.rev')):
      path.unlink(missing_ok=True)
    git(folder, 'unpack-objects', '-q', stdin=data)
  (folder / 'objects' / found[:2] / found[2:]).unlink()


def test_a_generated_history_is_reproducible_whatever_the_git_configuration(tmp_path, monkeypatch):
  (tmp_path / 'config').write_text('[user]\nname = someone\n[core]\nautocrlf = true\n[i18n]\ncommitEncoding = latin1\n')
  heads = []
  for number, config in enumerate(('', str(tmp_path / 'config'))):
    monkeypatch.setenv('GIT_CONFIG_GLOBAL', config)
    monkeypatch.setenv('GIT_DIR', str(tmp_path / 'nowhere') if config else '')
    folder = tmp_path / str(number)
    folder.mkdir()
    history.generated_repository(folder, 3, 30)
    heads.append(run_git(folder, 'rev-parse', 'main'))
    assert len(read(folder)[0]) > 25
  assert heads[0] == heads[1]


def test_commits_carry_message_and_patch_but_nobody_s_name(tmp_path):
  message = b'Two lines\n\n\x1e\n\x1f\nand the marks of the reader\n\nSigned-off-by: Zoe <z@example.invalid>\nCc: Zoe\n'
  write(tmp_path, [Change(message, {b'a.txt': b'one\n\x0ctwo\n'})])
  [commit], _ = read(tmp_path)
  assert commit.message == 'Two lines\n\n\x1e\n\x1f\nand the marks of the reader\n'
  assert '+one\n+\x0ctwo' in commit.patch and 'index ' not in commit.patch
  assert commit.repo == tmp_path.name and 'Zoe' not in to_json(commit)


PATHS = (b'a.py', b'b/c d.py', b'b/\xc3\xa9 "q".txt', b'new\nline', b'b/\\t', b'tab\tname')
LINES = (b'x = 1\n', b'\xc3\xa4\r\n', b'-- y\n', b'++ z\n', b'\n', b' \n', b'no end', b'index 1234567..89abcde 100644\n')
CONTENTS = st.one_of(st.none(), st.lists(st.sampled_from(LINES), max_size=12).map(b''.join))
HISTORIES = st.lists(st.dictionaries(st.sampled_from(PATHS), CONTENTS, min_size=1, max_size=3), min_size=1, max_size=6)


@SLOW
@given(HISTORIES)
def test_patches_of_any_history_apply_one_after_another(tmp_path_factory, states):
  folder = tmp_path_factory.mktemp('history')
  exists, changes = set(), []
  for number, files in enumerate(states):
    files = {path: data for path, data in files.items() if data is not None or path in exists}
    exists = exists | set(files) - {path for path, data in files.items() if data is None}
    changes.append(Change(b'Change %d' % number, files))
  origin = write(folder / 'origin', changes)
  found, drops = read(origin)
  assert len(found) + drops.total() == len(changes) and set(drops) <= {'commit: no change'}
  copy = folder / 'copy'
  copy.mkdir()
  git(copy, 'init', '--quiet')
  for commit in found:
    git(copy, 'apply', '--index', '--whitespace=nowarn', '-', stdin=commit.patch.encode())
  assert git(copy, 'write-tree') == git(origin, 'rev-parse', 'main^{tree}')


def test_what_has_no_patch_to_learn_from_is_counted(tmp_path):
  pointer = b'version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n'
  changes = [
      Change(b'Add', {b'a': b'1\n'}),
      Change(b'Branch', {b'b': b'1\n'}),
      Change(b'Trunk', {b'c': b'1\n'}, parent=0),
      Change(b'Merge', {}, merged=1),
      Change(b'', {b'a': b'2\n'}),
      Change(b'Nothing', {}),
      Change(b'Image', {b'i.png': b'\x89PNG\0'}),
      Change(b'Submodule', {b's': (SUBMODULE, b'0' * 39 + b'1')}),
      Change(b'Large', {b'l.bin': pointer}),
      Change(b'Latin', {b'a': b'caf\xe9\n'}),
      Change(b'Huge', {b'h.txt': b'0123456789\n' * 100_000}),
      Change(b'A last \xe9', {b'h.txt': None, b'a': b'1\n'}),
  ]
  found, drops = read(write(tmp_path, changes))
  assert sorted(commit.message for commit in found) == ['Add\n', 'Branch\n', 'Trunk\n']
  assert drops == {
      'commit: a merge': 1, 'commit: no message': 1, 'commit: no change': 1, 'commit: binary files': 1,
      'commit: a submodule': 1, 'commit: Git LFS pointers': 1, 'commit: not UTF-8': 1, 'commit: a huge patch': 2,
  }  # fmt: skip


@given(st.lists(st.text('ab|', max_size=12), max_size=8), st.integers(0, 8), st.integers(1, 5))
def test_a_stream_is_split_as_if_it_were_whole(pieces, limit, size):
  stream = '||'.join(pieces).encode()
  chunks = [stream[start : start + size] for start in range(0, len(stream), size)]
  assert list(commits.split(chunks, b'||', limit)) == [piece[: limit + 1] for piece in stream.split(b'||')]


@given(st.binary(min_size=1, max_size=12))
def test_quoted_paths_are_read(path):
  escapes = {7: 'a', 8: 'b', 9: 't', 10: 'n', 11: 'v', 12: 'f', 13: 'r', 34: '"', 92: '\\'}
  quoted = ''.join(
      f'\\{escapes[byte]}' if byte in escapes else chr(byte) if 32 <= byte < 127 else f'\\{byte:03o}' for byte in path
  )
  assert unquoted(f'"{quoted}"'.encode()) == path


def test_a_repository_that_names_programs_runs_none(tmp_path):
  """Every place that we know of where git takes a program from, with one that only writes a file."""
  marker, program = tmp_path / 'it ran', tmp_path / 'program'
  program.write_text(f'#!/bin/sh\ntouch "{marker}"\ncat\n')
  program.chmod(program.stat().st_mode | stat.S_IXUSR)
  work = tmp_path / 'work'
  work.mkdir()
  changes = history.changes(1, 40)
  history.repository(work, itertools.chain([('Attributes\n', {'.gitattributes': '* diff=x filter=x merge=x\n'})], changes))
  git(work, 'checkout', '--quiet', 'main')
  head = git(work, 'rev-parse', 'HEAD').decode().strip()
  lines = [
      f'[core]\nfsmonitor = {program}\nhooksPath = {work}/hooks\npager = {program}\nsshCommand = {program}\n'
      f'alternateRefsCommand = {program}\neditor = {program}\nattributesFile = {work}/attributes\ngitProxy = {program}\n',
      f'[diff]\nexternal = {program}\n[diff "x"]\ncommand = {program}\ntextconv = {program}\ncachetextconv = false\n',
      f'[filter "x"]\nclean = {program}\nsmudge = {program}\nprocess = {program}\nrequired = true\n',
      f'[merge "x"]\ndriver = {program}\n',
      f'[gpg]\nprogram = {program}\n[log]\nshowSignature = true\n[pager]\nlog = {program}\ndiff-tree = {program}\n',
      f'[alias]\nlog = !{program}\n[credential]\nhelper = !{program}\n[interactive]\ndiffFilter = {program}\n',
      f'[remote "origin"]\nurl = {work}/missing\npromisor = true\nuploadpack = {program}\npartialclonefilter = blob:none\n',
      f'[protocol "file"]\nallow = always\n[protocol "ext"]\nallow = always\n[uploadpack]\npackObjectsHook = {program}\n',
      f'[include]\npath = {work}/more\n',
  ]
  (work / 'more').write_text(f'[diff]\nexternal = {program}\n')
  (work / 'attributes').write_text('* diff=x\n')
  (work / '.git/info/attributes').write_text('* diff=x filter=x\n')
  for folder in (work / 'hooks', work / '.git/hooks'):
    folder.mkdir(exist_ok=True)
    for name in ('post-index-change', 'reference-transaction', 'post-checkout', 'pre-auto-gc', 'applypatch-msg'):
      (folder / name).write_bytes(program.read_bytes())
      (folder / name).chmod(0o755)
  # A signed commit, whose signature git would have checked, and one file missing, which it would have fetched.
  signature = 'gpgsig -----BEGIN PGP SIGNATURE-----\n \n x\n -----END PGP SIGNATURE-----\n'
  tree = git(work, 'rev-parse', 'HEAD^{tree}').decode().strip()
  body = f'tree {tree}\nparent {head}\nauthor a <a> 1 +0000\ncommitter a <a> 1800000000 +0000\n{signature}\nSigned\n'
  signed = git(work, 'hash-object', '-t', 'commit', '-w', '--stdin', stdin=body.encode()).decode().strip()
  git(work, 'update-ref', 'refs/heads/main', signed)
  with open(work / '.git/config', 'a') as file:
    file.write(''.join(lines))
  git(work, 'log', '-p', '-1', 'HEAD~1')
  assert marker.exists(), 'the plant is dead: plain git runs nothing either'
  marker.unlink()
  documents, _ = read(work, ALL)
  assert {type(document) for document in documents} == set(ALL)
  assert not marker.exists()
  # Even when git is asked to run them.
  with Store(work) as store:
    assert b'diff --git' in store.run('log', '-p', '-9', '--ext-diff', '--textconv', store.head)
    assert b'diff --git' in b''.join(store.stream('log', '-p', '-9', '--ext-diff', '--textconv', store.head))
  assert not marker.exists()
  # The same with an object missing.
  remove_object(work / '.git', 'HEAD:src')
  marker.unlink(missing_ok=True)
  _, drops = read(work, ALL)
  assert drops['git: unreadable repository'] and not marker.exists()


def test_reading_leaves_a_repository_as_it_was(tmp_path):
  write(tmp_path, [Change(b'Change number %d of them all' % n, {b'a.py': b'x = %d\n' % n * 40}) for n in range(30)])
  state = lambda: {path: path.stat().st_mtime_ns for path in tmp_path.rglob('*')}
  before = state()
  documents, _ = read(tmp_path, ALL)
  assert any(isinstance(document, Transition) for document in documents) and state() == before


def test_an_unusable_repository_is_one_drop(tmp_path):
  (tmp_path / 'plain').mkdir()
  (tmp_path / 'empty').mkdir()
  git(tmp_path / 'empty', 'init', '--quiet')
  broken = write(tmp_path / 'broken', [Change(b'Add', {b'a.py': b'x\n'})])
  (broken / 'HEAD').write_text('ref: refs/heads/main\n')
  for path in (broken / 'objects').rglob('*'):
    if path.is_file():
      path.chmod(0o644)
      path.write_bytes(path.read_bytes()[:20] + bytes(30))
  rules = ('git: not a repository', 'git: a repository without commits', 'git: unreadable repository')
  for name, rule in zip(('plain', 'empty', 'broken'), rules):
    documents, drops = read(tmp_path / name, ALL)
    assert not documents and drops == {rule: 1}, name


def test_commits_that_git_cannot_read_are_counted_and_the_others_read(tmp_path):
  message = b'Teach the parser of lists about number %d'
  text = lambda n: b''.join(b'x%d = %d\n' % (line, n) for line in range(40))
  write(tmp_path, [Change(message % n, {b'%d.py' % (n % 7): text(n)}) for n in range(60)])
  full, _ = read(tmp_path)
  whole, _ = read(tmp_path, (Transition,))
  for name in ('main~50:2.py', 'main~50^{tree}', 'main~30:1.py', 'main~29:2.py', 'main:3.py'):
    remove_object(tmp_path, name)
  documents, drops = read(tmp_path)
  assert set(drops) == {'commit: unreadable objects'} and len(documents) + drops.total() == 60
  # A file is read for the commit that writes it and for the one that changes it next; a tree likewise.
  assert drops.total() <= 9 and documents == [commit for commit in full if commit in documents]
  transitions_left, drops = read(tmp_path, (Transition,))
  assert 'git: unreadable repository' not in drops and len(transitions_left) + drops.total() == len(whole)


@pytest.mark.parametrize('seed', range(8))
def test_a_damaged_repository_is_counted_and_never_raises(tmp_path, seed):
  rng = random.Random(seed)
  history.generated_repository(tmp_path, seed=1, count=25)
  git(tmp_path, 'repack', '-adq')
  names = sorted(path for path in (tmp_path / '.git').rglob('*') if path.is_file() and path.parent.name != 'hooks')
  path = rng.choice(names)
  data = bytearray(path.read_bytes())
  for _ in range(3):
    data[rng.randrange(len(data))] = rng.randrange(256)
  path.chmod(0o644)
  path.write_bytes(data[: rng.choice([len(data), rng.randrange(len(data))])])
  documents, drops = read(tmp_path, ALL)
  assert documents or drops


def test_dates_that_cannot_be_read_do_no_harm(tmp_path):
  write(tmp_path, [Change(b'First', {b'a.py': b'x\n'})])
  parent = git(tmp_path, 'rev-parse', 'main').decode().strip()
  full, empty = git(tmp_path, 'rev-parse', 'main^{tree}').decode().strip(), git(tmp_path, 'mktree').decode().strip()
  dates = {'a': 'a <a> 99999999999999999999 +0000', 'b': 'broken', 'c': 'a <a> -5 +0000'}
  for (name, committer), tree in zip(dates.items(), (full, empty, full)):
    body = f'tree {tree}\nparent {parent}\nauthor a <a> 1 +0000\ncommitter {committer}\n\nNumber {name}\n'
    stored = git(tmp_path, 'hash-object', '-t', 'commit', '-w', '--stdin', '--literally', stdin=body.encode())
    parent = stored.decode().strip()
  git(tmp_path, 'update-ref', 'refs/heads/main', parent)
  documents, _ = read(tmp_path)
  assert [commit.message for commit in documents] == ['First\n', 'Number b\n', 'Number c\n']
  with Store(tmp_path) as store:
    assert len(commits.times(store)) == 4 and [entry.parents for entry in commits.log(store, 4)] == [0, 1, 1, 1]


def test_a_shallow_clone_gives_files_but_not_the_commit_at_which_it_ends(tmp_path):
  origin = write(tmp_path / 'origin', [Change(b'Number %d' % n, {b'a.py': b'x = %d\n' % n}) for n in range(20)])
  git(tmp_path, 'clone', '--quiet', '--bare', '--depth=5', f'file://{origin}', str(tmp_path / 'shallow'))
  documents, drops = read(tmp_path / 'shallow', ALL)
  assert sorted(type(document).__name__ for document in documents) == ['Commit'] * 4 + ['File', 'Repository']
  assert drops == {'commit: the end of a shallow clone': 1, 'transition: a shallow clone': 1}


def test_bare_checked_out_linked_sha256_and_oddly_named_repositories_are_read(tmp_path):
  changes = [Change(b'Add', {b'a.py': b'x = 1\n'})]
  bare = write(tmp_path / 'bare.git', changes)
  git(tmp_path, 'clone', '--quiet', str(bare), str(tmp_path / 'line\nbreak'))
  git(tmp_path / 'line\nbreak', 'worktree', 'add', '--quiet', '--detach', str(tmp_path / 'linked'))
  mirror = write(tmp_path / 'mirror', changes)
  (mirror / 'HEAD').write_text('ref: refs/heads/gone\n')
  write(tmp_path / 'sha256', changes, form='sha256')
  for name in ('bare.git', 'line\nbreak', 'linked', 'mirror', 'sha256'):
    documents, drops = read(tmp_path / name, ALL)
    assert [type(document).__name__ for document in documents] == ['File', 'Repository', 'Commit'], name
    assert drops == {'transition: a short history': 1}


def test_the_key_of_a_history_is_that_of_its_forks(tmp_path):
  trunk = [Change(b'First', {b'a': b'1\n'}), Change(b'Second', {b'a': b'2\n'})]
  other = [Change(b'Another first', {b'a': b'1\n'})]
  fork = [*trunk, Change(b'Third', {b'b': b'1\n'})]
  keys = {}
  for name, changes in {'trunk': trunk, 'fork': fork, 'other': other}.items():
    with Store(write(tmp_path / name, changes)) as store:
      keys[name] = commits.history_key(store)
  assert keys['trunk'] == keys['fork'] != keys['other']


def test_reading_stops_git_when_nobody_reads_on(tmp_path):
  write(tmp_path, [Change(b'Number %d' % n, {b'a': b'%d\n' % n}) for n in range(20)])
  with Store(tmp_path) as store:
    found = commits.read_commits(store)
    assert next(found).message == 'Number 0\n'
    found.close()
    directory = pathlib.Path(store._directory)
    assert directory.exists()
  assert not directory.exists()


def test_missing_git_and_a_folder_without_a_repository_are_named(tmp_path, monkeypatch):
  with pytest.raises(GitError, match='is not a git repository'):
    Store(tmp_path)
  with pytest.raises(GitError, match='git log in .*readable git repository'):
    run_git(tmp_path, 'log')
  write(tmp_path / 'r', [Change(b'Add', {b'a': b'1\n'}), Change(b'Link', {b'l': (LINK, b'a')})])
  (tmp_path / 'r/inside').mkdir()
  with pytest.raises(GitError, match='not a git repository'):
    run_git(tmp_path / 'r/inside', 'log')
  monkeypatch.setenv('PATH', str(tmp_path))
  with pytest.raises(UserError, match='install git'):
    read(tmp_path / 'r')
