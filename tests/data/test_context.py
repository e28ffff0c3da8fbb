"""What stands around a completion: it fits the row, excerpts start at definitions, useful files come last, none leaks."""

import os
import pathlib
import random
import subprocess
import sys
import sysconfig

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iquest_jax.data.build import context, fim
from iquest_jax.data.documents import File, FimSplit, Repository
from iquest_jax.data.format import fim as fim_format
from iquest_jax.data.format import repository as repository_format
from iquest_jax.text.example import build
from iquest_jax.text.tokenizer import SMALLEST, Tokenizer

PATHS = sorted(pathlib.Path(sysconfig.get_path('stdlib'), 'email').glob('*.py'))
CODE = [File(path.name, path.name, text) for path in PATHS if (text := path.read_text(encoding='utf-8'))]
TOKENIZER = Tokenizer.train([document.text for document in CODE], 600)
BYTES = Tokenizer.train([], SMALLEST)  # a token is a byte
EVEN = dict.fromkeys(fim.LEVELS, 1.0)
HALF, ALWAYS = fim.Proportions(0.5, 0.5, EVEN), fim.Proportions(1, 0.5, EVEN)
SECRET = 'x = 41\nprint(x)\n\n  return x + 1\n'


def whole(split):
  return split.prefix + split.middle + split.suffix


def length(segments):
  return len(build(TOKENIZER, segments).tokens)


@pytest.mark.parametrize('room', [128, 512, 4096])
def test_half_of_the_files_are_completions_and_each_fits_a_row(room):
  completions = 0
  for i, document in enumerate(CODE * 4):
    made = context.file(document, room, TOKENIZER, random.Random(i), HALF)
    assert i % 8 or context.file(document, room, TOKENIZER, random.Random(i), HALF) == made
    if isinstance(made, FimSplit):
      completions += 1
      assert made.middle and whole(made) in document.text
      assert length(fim_format.segments(made)) <= room
    else:
      assert made is document
  assert 0.4 < completions / len(CODE * 4) < 0.6


@pytest.mark.parametrize('room', [128, 2048])
def test_half_of_the_repositories_are_completions_and_each_fits_a_row(room):
  completions = 0
  for i in range(60):
    files = tuple((document.path, document.text) for document in random.Random(i).sample(CODE, 4))
    document = Repository(str(i), 'r', files)
    views = context.repository(document, room, TOKENIZER, random.Random(i), HALF)
    assert i % 8 or context.repository(document, room, TOKENIZER, random.Random(i), HALF) == views
    if isinstance(views[0].target, str):
      (view,) = views
      assert (*view.context, (view.path, view.target)) == files
      continue
    completions += 1
    for view in views:
      assert view.target.middle and whole(view.target) in dict(files)[view.path]
      assert view.path not in dict(view.context) and all(text in dict(files)[path] for path, text in view.context)
      assert length(repository_format.segments(view)) <= room
  assert 20 <= completions <= 40


def test_a_repository_gives_as_many_completions_as_its_files_fill_rows_each_in_another_file():
  lines = lambda name: ''.join(f'{name}_{i} = {i}\n' for i in range(400))
  files = tuple((f'{name}.py', lines(name)) for name in 'abcdefgh')
  characters = sum(len(text) for _, text in files)
  for rows in (1, 3, 20):
    room = characters // (4 * rows)
    views = context.repository(Repository('1', 'r', files), room, TOKENIZER, random.Random(0), ALWAYS)
    paths = [view.path for view in views]
    assert len(paths) == len(set(paths)) == min(rows, len(files))


def test_a_file_that_fits_is_shown_whole():
  for i, document in enumerate(CODE):
    assert whole(context.file(document, 1 << 20, TOKENIZER, random.Random(i), ALWAYS)) == document.text


@pytest.mark.parametrize('text', ['', 'x' * 5000, '\n'.join(['y' * 3000] * 3)])
def test_what_cannot_be_completed_is_read_whole(text):
  for i in range(20):
    document = File('1', 'a.py', text)
    assert context.file(document, 128, TOKENIZER, random.Random(i), ALWAYS) is document
    repository = Repository('1', 'r', (('b.py', ''), ('a.py', text)))
    (view,) = context.repository(repository, 128, TOKENIZER, random.Random(i), ALWAYS)
    assert (view.context, view.path, view.target) == ((('b.py', ''),), 'a.py', text)


def test_an_empty_file_of_a_repository_is_never_the_one_that_is_completed():
  repository = Repository('1', 'r', (('a/__init__.py', ''), ('a/b.py', 'x = 1\n'), ('c.py', '')))
  for i in range(40):
    (view,) = context.repository(repository, 512, TOKENIZER, random.Random(i), ALWAYS)
    assert view.path == 'a/b.py' and whole(view.target) == 'x = 1\n'


@pytest.mark.parametrize(
    ('path', 'unit', 'start'),
    [
        ('a.go', '// f{i} is.\nfunc f{i}(a int) int {{\n\tb := a * {i}\n\n\treturn b\n}}\n\n', '// f'),
        ('A.java', '  @Override\n  int f{i}(int a) {{\n    int b = a;\n    return b;\n  }}\n\n', '  @Override'),
        ('a.rb', '# ö\ndef f{i}(a)\n  b = a * {i}\n  b\nend\n\n', '# ö'),
        ('a.py', '@é\ndef f{i}(a):\n  b = a\n\n  return b\n\n\n', '@é'),
    ],
)
def test_an_excerpt_starts_at_a_definition(path, unit, start):
  text = ''.join(unit.format(i=i) for i in range(100))
  text = f'class A {{\n{text}}}\n' if path == 'A.java' else text
  starts = set()
  for i in range(40):
    split = context.file(File('1', path, text), 200, TOKENIZER, random.Random(i), ALWAYS)
    assert whole(split).startswith((start, 'class A')) and whole(split) in text
    starts.add(text.index(whole(split)))
  assert len(starts) > 20


def test_an_excerpt_of_a_text_without_a_grammar_starts_at_a_line():
  text = ''.join(f'{i} of many lines\n' for i in range(80))
  for i in range(40):
    found = whole(context.file(File('1', 'a.txt', text), 200, TOKENIZER, random.Random(i), ALWAYS))
    assert f'\n{found}' in f'\n{text}' and found.endswith('\n') and len(TOKENIZER.encode(found)) > 80


def test_the_most_similar_files_are_shown_and_stand_nearest():
  names = ['alpha', 'beta', 'gamma', 'delta', 'epsilon', 'zeta_', 'theta', 'iota_']
  # File n shares the first n names with the target.
  lines = lambda n: [*names[:n], *(f'other_{n}_{m}' for m in range(8 - n)), '']
  files = tuple((f'{n}.py', '\n'.join(lines(n))) for n in (5, 1, 7, 3, 0))
  repository = Repository('1', 'r', (*files, ('t.py', '\n'.join(names) + '\n')))
  with_context = 0
  for i in range(60):
    (view,) = context.repository(repository, 2000, TOKENIZER, random.Random(i), fim.Proportions(1, 0, {'characters': 1}))
    if view.path == 't.py' and len(view.target.middle) < 8:
      assert [path for path, _ in view.context] in (['1.py', '3.py', '5.py', '7.py'], ['3.py', '5.py', '7.py'])
      with_context += 1
    if view.path == '0.py':
      assert view.context == ()  # nothing in common
  assert with_context


def shown(monkeypatch, split, *others, room=4000, path='t.py'):
  """The context of a target that is cut as `split`."""
  monkeypatch.setattr(fim, 'complete', lambda *_: split)
  monkeypatch.setattr(random.Random, 'sample', lambda rng, options, count: options[:count])
  monkeypatch.setattr(random.Random, 'choice', lambda rng, options: options[0])
  repository = Repository('1', 'r', ((path, whole(split)), *others))
  return context.repository(repository, room, TOKENIZER, random.Random(0), ALWAYS)[0].context


def test_import_relations_stand_nearest_unless_the_middle_imports(monkeypatch):
  split = FimSplit('import near\nalpha = beta\n', 'import far\nsecret_name = 1\n', 'gamma = delta\n')
  near, far = ('near.py', 'unrelated = 1\n'), ('far.py', 'unknown = 2\n')
  similar, hidden = ('similar.py', 'alpha = beta + gamma\n'), ('hidden.py', 'secret_name = 2\n')
  user = ('user.py', 'import t\nt.alpha(unheard, unseen, untold)\n')
  assert shown(monkeypatch, split, near, far, similar, user, hidden) == (similar, near, user)


def test_a_rare_name_says_more_than_a_common_one(monkeypatch):
  split = FimSplit('common rare\n', 'x\n', '')
  others = [(f'{i}.py', f'common filler_{i}\n') for i in range(6)]
  rare = ('a.py', 'rare filler_a\n')
  assert shown(monkeypatch, split, rare, *others)[-1] == rare


@pytest.mark.parametrize(
    ('text', 'left'),
    [
        ('alpha\n' + SECRET + 'beta\ngamma\n', 'beta\ngamma\n'),
        ('alpha\nbeta\n\tx = 41  \n\n\nprint(x)\n\treturn x + 1\ngamma\n', 'alpha\nbeta\n'),
        (SECRET.replace('\n', '\r\n') + 'alpha\r\n', 'alpha\r\n'),
        ('alpha\nx = 41\nprint(x)\nbeta\nreturn x + 1\n', None),  # only two in a row
        (SECRET, ''),
    ],
)
def test_three_lines_of_the_middle_are_cut_out_of_the_context(monkeypatch, text, left):
  split = FimSplit('alpha\nbeta\ngamma\nprint\n', SECRET, '')
  got = shown(monkeypatch, split, ('a.py', text))
  assert got == ((('a.py', text if left is None else left),) if left != '' else ())


def test_a_middle_that_begins_and_ends_within_lines_leaks_by_its_whole_lines_too(monkeypatch):
  split = FimSplit('alpha = f(', 'one)\nbeta = g(two)\ngam', 'ma = three\n')
  assert shown(monkeypatch, split, ('a.py', 'alpha = f(one)\nbeta = g(two)\ngamma = three\n')) == ()
  assert shown(monkeypatch, split, ('a.py', 'alpha\none)\nbeta = g(two)\ngam\n')) == (('a.py', 'alpha\n'),)


LINES = st.sampled_from(['a_1\n', '  bb_2\n', 'ccc_3\n', 'ddd_4\n', '\n', '  \n', '\tbb_2\r\n'])


@settings(deadline=None, max_examples=200)
@given(st.lists(st.lists(LINES, max_size=14).map(''.join), min_size=2, max_size=5), st.integers())
def test_no_context_holds_three_consecutive_lines_of_the_middle(texts, seed):
  repository = Repository('1', 'r', tuple((f'{i}.py', text) for i, text in enumerate(texts)))
  (view,) = context.repository(repository, 2000, BYTES, random.Random(seed), ALWAYS)
  if isinstance(view.target, str):
    assert not any(texts)
    return
  lines = lambda text: [line.strip() for line in text.split('\n') if line.strip()]
  middle = lines(view.target.middle)
  for _, text in view.context:
    theirs = lines(text)
    for i in range(len(middle) - 2):
      assert not any(theirs[j : j + 3] == middle[i : i + 3] for j in range(len(theirs)))


def test_the_choice_does_not_depend_on_the_hash_seed():
  code = (
      'import random\nfrom tests.data import test_context as t\n'
      'files = tuple((d.path, d.text) for d in t.CODE[:12])\n'
      'for i in range(3):\n'
      '  print(t.context.repository(t.Repository("1", "r", files), 4096, t.BYTES, random.Random(i), t.ALWAYS))'
  )
  environment = {**os.environ, 'PYTHONPATH': os.pathsep.join(filter(None, ['.', *sys.path]))}
  run = lambda seed: subprocess.run(
      [sys.executable, '-c', code], capture_output=True, check=True, env={**environment, 'PYTHONHASHSEED': seed}
  ).stdout
  assert run('1') == run('2') != b''
