"""Files of a repository: all of them, or a counted reason; large repositories in parts; nothing followed out of it."""

import collections
import posixpath

from hypothesis import given
from hypothesis import strategies as st

from iquest_jax.data.documents import Drop, File, Repository
from iquest_jax.data.read import repositories
from iquest_jax.data.read.git import Store
from iquest_jax.data.read.repositories import parts, read_repository

from tests.data.raw_git import LINK, SUBMODULE, Change, git, write


def test_every_file_becomes_a_document_or_a_counted_drop(tmp_path):
  good = {b'app/main.py': b'import app.base\n', b'app/base.py': b'"\xc3\xa4"\r\n', b'README': b'', b'x/q "z".md': b'#\n'}
  bad = {
      b'link': ((LINK, b'app/main.py'), 'file: a symbolic link'),
      b'loop': ((LINK, b'loop'), 'file: a symbolic link'),
      b'outside': ((LINK, b'/etc/passwd'), 'file: a symbolic link'),
      b'module': ((SUBMODULE, b'0' * 39 + b'1'), 'file: a submodule'),
      b'large.bin': (b'version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n', 'file: a Git LFS pointer'),
      b'image.png': (b'\x89PNG\0', 'file: binary'),
      b'latin.py': (b'# caf\xe9\n', 'file: not UTF-8'),
      b'huge.txt': (b'0' * (2**20 + 1), 'file: huge'),
      b'line\nbreak.py': (b'x\n', 'file: a line break in its path'),
      b'caf\xe9.py': (b'x\n', 'file: a path that is not UTF-8'),
  }
  write(tmp_path, [Change(b'Add', good | {path: content for path, (content, _) in bad.items()})])
  found = list(read_repository(tmp_path, (File, Repository), name='some/name'))
  files = {document.path: document for document in found if isinstance(document, File)}
  assert {path.encode(): file.text.encode() for path, file in files.items()} == good
  assert {file.repo for file in files.values()} == {'some/name'} and len({file.id for file in files.values()}) == len(good)
  drops = collections.Counter(document.rule for document in found if isinstance(document, Drop))
  assert drops == collections.Counter(rule for _, rule in bad.values())
  [repository] = [document for document in found if isinstance(document, Repository)]
  assert dict(repository.files) == {path: file.text for path, file in files.items()}
  order = [path for path, _ in repository.files]
  assert repository.name == 'some/name' and order.index('app/base.py') < order.index('app/main.py')
  assert found == list(read_repository(tmp_path, (File, Repository), name='some/name'))


def test_a_broken_file_does_not_keep_others_from_being_read(tmp_path):
  write(tmp_path, [Change(b'Add', {b'%d.py' % n: b'x = %d\n' % n for n in range(9)})])
  name = git(tmp_path, 'rev-parse', 'main:4.py').decode().strip()
  for pack in list((tmp_path / 'objects/pack').glob('*.pack')):
    data = pack.read_bytes()
    pack.unlink(), pack.with_suffix('.idx').unlink()
    git(tmp_path, 'unpack-objects', '-q', stdin=data)
  path = tmp_path / 'objects' / name[:2] / name[2:]
  path.chmod(0o644)
  path.write_bytes(path.read_bytes()[:9])
  found = list(read_repository(tmp_path, (File,)))
  assert sorted(file.path for file in found if isinstance(file, File)) == [f'{n}.py' for n in range(9) if n != 4]
  assert [drop.rule for drop in found if isinstance(drop, Drop)] == ['file: unreadable']


def test_files_are_read_by_name(tmp_path):
  files = {b'LICENSE': b'MIT\n', b'a/LICENSE': b'\0', b'b/LICENSE': (LINK, b'x'), b'c/LICENSE': b'BSD\n', b'd': b'd\n'}
  with Store(write(tmp_path, [Change(b'Add', files)])) as store:
    found = list(repositories.named_files(store, lambda path: path.endswith('LICENSE')))
  assert found == [('LICENSE', 'MIT\n'), ('c/LICENSE', 'BSD\n')]


def test_bytes_become_text_as_the_caller_says(tmp_path):
  write(tmp_path, [Change(b'Add', {b'a.py': b'caf\xe9\n'})])
  [file] = read_repository(tmp_path, (File,), decode=lambda data: data.decode('latin-1'))
  assert file.text == 'café\n'


PATHS = st.lists(st.sampled_from('abc'), min_size=1, max_size=4).map('/'.join)
ENTRIES = st.dictionaries(PATHS, st.integers(0, 9), max_size=20)


@given(ENTRIES, st.integers(9, 30))
def test_parts_hold_every_file_once_and_are_small(sizes, limit):
  entries = [(path + '.py', str(number), size) for number, (path, size) in enumerate(sorted(sizes.items()))]
  found = list(parts(entries, limit))
  assert sorted(entry for part in found for entry in part) == sorted(entries)
  assert all(part and sum(size for *_, size in part) <= limit for part in found)
  # Folders are parted only if they are too large.
  for folder in {posixpath.dirname(path) for path, *_ in entries} - {''}:
    inside = [entry for entry in entries if entry[0].startswith(folder + '/')]
    if sum(size for *_, size in inside) <= limit:
      assert sum(any(entry in part for entry in inside) for part in found) == 1


def test_a_large_repository_is_several_documents(tmp_path, monkeypatch):
  monkeypatch.setattr(repositories, 'MAX_REPOSITORY_BYTES', 250)
  files = {b'%s/%d.py' % (folder, number): b'x' * 50 for folder in (b'a', b'b', b'c/d', b'c/e') for number in range(4)}
  write(tmp_path, [Change(b'Add', files)])
  found = list(read_repository(tmp_path, (Repository,)))
  assert sorted(path for document in found for path, _ in document.files) == sorted(path.decode() for path in files)
  assert [{posixpath.dirname(path) for path, _ in document.files} for document in found] == [{'a'}, {'b'}, {'c/d'}, {'c/e'}]
  assert len({document.id for document in found}) == 4
