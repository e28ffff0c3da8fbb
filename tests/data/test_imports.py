"""Imports within a repository are resolved, and a repository is read with dependencies first."""

import pathlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iquest_jax.data.imports import Layout, imported, reading_order

PYTHON = [
    'setup.py', 'src/app/__init__.py', 'src/app/core.py', 'src/app/json/__init__.py', 'src/app/json/tag.py',
    'src/app/sub/deep.py', 'tests/helpers.py', 'tests/test_core.py', 'tools/run.py', 'tools/shared.py',
]  # fmt: skip
SCRIPT = ['web/a.ts', 'web/b.tsx', 'web/lib/index.js', 'web/lib/c.d.ts', 'web/data.json', 'web/view.vue']
JAVA = [
    'core/src/main/java/org/x/Tree.java', 'core/src/main/java/org/x/util/Lists.java',
    'core/src/main/java/org/x/util/Maps.java', 'app/src/main/java/org/y/Main.java',
]  # fmt: skip
GO = ['go.mod', 'cmd/main.go', 'pkg/store/store.go', 'pkg/store/disk.go', 'pkg/store/store_test.go', 'json/json.go']
C = ['include/lib/tree.h', 'src/tree.c', 'src/local.h', 'src/deep/x.cc', 'other/local.h']

CASES = {
    'absolute': (PYTHON, 'tests/test_core.py', 'import app.core\nfrom app import core, json', [
        'src/app/core.py', 'src/app/json/__init__.py']),
    'a name inside': (PYTHON, 'tests/test_core.py', 'from app import nothing\nfrom app.json.tag import (\n  Tag,  # x\n)', [
        'src/app/__init__.py', 'src/app/json/tag.py']),
    'relative': (PYTHON, 'src/app/sub/deep.py', 'from ..json import tag as t\nfrom .. import core\nfrom . import deep', [
        'src/app/json/tag.py', 'src/app/core.py']),
    'beside': (PYTHON, 'tests/test_core.py', 'import helpers, os', ['tests/helpers.py']),
    'a short name elsewhere': (PYTHON, 'src/app/core.py', 'import shared\nimport helpers', []),
    'the standard library': (PYTHON, 'src/app/core.py', 'import json\nfrom json import tag', []),
    'beyond the top': (PYTHON, 'setup.py', 'from ... import core\nfrom .. import src', []),
    'scripts': (SCRIPT, 'web/a.ts', "import x from './b.js'\nimport('./lib')\nrequire(\"./data.json\")\nimport 'react'", [
        'web/b.tsx', 'web/lib/index.js', 'web/data.json']),
    'declarations': (SCRIPT, 'web/b.tsx', "export * from './lib/c'\nimport './view.vue'\nimport '../../up'", [
        'web/lib/c.d.ts', 'web/view.vue']),
    'the folder itself': (SCRIPT, 'web/lib/c.d.ts', "import a from '.'", ['web/lib/index.js']),
    'java': (JAVA, 'app/src/main/java/org/y/Main.java', 'import org.x.Tree.Node;\nimport static org.x.util.Lists.of;', [
        'core/src/main/java/org/x/Tree.java', 'core/src/main/java/org/x/util/Lists.java']),
    'all of a package': (JAVA, 'app/src/main/java/org/y/Main.java', 'import org.x.util.*;\nclass Main { Maps m; }', [
        'core/src/main/java/org/x/util/Maps.java']),
    'go': (GO, 'cmd/main.go', 'import (\n\t"encoding/json"\n\ts "github.com/u/r/pkg/store"\n)\n', [
        'pkg/store/disk.go', 'pkg/store/store.go']),
    'go modules of others': (GO, 'cmd/main.go', 'import "github.com/pkg/errors"\nimport "fmt"\n', []),
    'includes': (C, 'src/tree.c', '#include "lib/tree.h"\n# include "local.h"\n#include <stdio.h>\n', [
        'include/lib/tree.h', 'src/local.h']),
    'relative includes': (C, 'src/deep/x.cc', '#include "../local.h"\n#include "../../nowhere.h"\n', ['src/local.h']),
    'other languages': (['a.txt', 'b.txt'], 'a.txt', 'import b', []),
}  # fmt: skip


@pytest.mark.parametrize('name', CASES)
def test_imports_are_resolved(name):
  paths, path, text, found = CASES[name]
  assert imported(path, text, paths) == found
  assert imported(path, text, Layout(paths)) == found


@given(st.text(max_size=200), st.sampled_from(['a.py', 'a.ts', 'a/b.java', 'a.go', 'a.c']), st.lists(st.text(max_size=9)))
def test_any_text_and_any_paths_are_taken(text, path, paths):
  assert set(imported(path, text, paths)) <= set(paths)


GRAPHS = st.integers(1, 9).flatmap(lambda n: st.lists(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)), max_size=20))


@given(GRAPHS, st.randoms())
def test_a_file_comes_after_those_it_imports_unless_they_import_it_too(edges, rng):
  count = 1 + max((max(edge) for edge in edges), default=0)
  path = lambda n: f'{"ab"[n % 2]}/m{n}.py'
  text = {n: ''.join(f'import {"ab"[m % 2]}.m{m}\n' for k, m in edges if k == n) for n in range(count)}
  files = [(path(n), text[n]) for n in range(count)]
  ordered = reading_order(files)
  assert sorted(ordered) == sorted(files)
  shuffled = list(files)
  rng.shuffle(shuffled)
  assert reading_order(shuffled) == ordered
  reach = {n: {n} for n in range(count)}
  for _ in range(count):
    for k, m in edges:
      reach[k] |= reach[m]
  place = {name: index for index, (name, _) in enumerate(ordered)}
  for k, m in edges:
    assert k in reach[m] or place[path(m)] < place[path(k)]


def test_without_imports_files_are_read_folder_by_folder():
  paths = ['b.txt', 'a/z.txt', 'a/b/x.txt', 'a.txt', 'c/y.txt', 'a/a.txt']
  assert [path for path, _ in reading_order([(path, '') for path in paths])] == [
      'a.txt', 'b.txt', 'a/a.txt', 'a/z.txt', 'a/b/x.txt', 'c/y.txt',
  ]  # fmt: skip


def test_a_long_chain_of_imports_is_no_recursion():
  files = [(f'm{n:05}.py', f'import m{n + 1:05}\n') for n in range(3000)]
  assert [path for path, _ in reading_order(files)] == [path for path, _ in reversed(files)]


def test_this_library_reads_its_ground_first():
  root = pathlib.Path(__file__).parents[2]
  files = [(str(path.relative_to(root)), path.read_text()) for path in (root / 'iquest_jax/text').glob('*.py')]
  files.append(('iquest_jax/errors.py', ''))
  place = {path: index for index, (path, _) in enumerate(reading_order(files))}
  for path, text in files:
    for other in imported(path, text, place):
      assert place[other] < place[path]
  assert place['iquest_jax/text/tokenizer.py'] < place['iquest_jax/text/example.py']
