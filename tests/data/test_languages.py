"""The table of languages: a file's name decides, then its first line."""

import subprocess
import sys

import pytest

from iquest_jax.data import languages
from iquest_jax.data.languages import LANGUAGES, PARSED, language_of

PATHS = {
    'a/b.py': 'python', 'a.pyi': 'python', 'A.java': 'java', 'a.mjs': 'javascript', 'a.jsx': 'javascript',
    'a.d.ts': 'typescript', 'a.tsx': 'tsx', 'a.c': 'c', 'a.h': 'c', 'a.hpp': 'cpp', 'a.C': 'cpp', 'a.CPP': 'cpp',
    'a.cs': 'csharp', 'a.go': 'go', 'a.rs': 'rust', 'a.rb': 'ruby', 'x/Rakefile': 'ruby', 'a.php': 'php', 'a.sh': 'bash',
    'a.bats': 'bash', 'Makefile': 'makefile', 'docker/Dockerfile.dev': 'dockerfile', 'CMakeLists.txt': 'cmake',
    'README': 'text', 'README.md': 'markdown', 'LICENSE': 'text', 'LICENSE.MIT': 'text', '.gitignore': 'gitignore',
    'a.tar.gz': '', 'a': '', '': '', 'a/': '', '.': '', '.py': '', 'pyfile': '', 'a.py.orig': '', 'x.py/LICENCE': 'text',
    'a.yml': 'yaml', 'Cargo.lock': 'toml', 'a.kt': 'kotlin', 'a.R': 'r', 'a.sql': 'sql', '.env': 'dotenv', 'lib.so.1': '',
}  # fmt: skip
SHEBANGS = {
    '#!/bin/sh': 'bash',
    '#!/usr/bin/env python3.11': 'python',
    '#! /usr/bin/python3 -u': 'python',
    '#!/usr/bin/env -S PYTHONPATH=. python -u\nx = 1': 'python',
    '#!/usr/bin/env node\r\n': 'javascript',
    '#!/usr/local/bin/perl5.30 -w': 'perl',
    '#!/usr/bin/env': '',
    '#!': '',
    '#!/bin/true': '',
    'x = 1\n#!/bin/sh': '',
    ' #!/bin/sh': '',
}


@pytest.mark.parametrize(('path', 'language'), PATHS.items())
def test_a_name_tells_the_language(path, language):
  assert language_of(path) == language


@pytest.mark.parametrize(('line', 'language'), SHEBANGS.items())
def test_a_first_line_tells_the_language_of_a_file_without_extension(line, language):
  assert language_of('bin/run', line) == language
  assert language_of('run.rb', line) == 'ruby'


@pytest.mark.parametrize(
    ('text', 'language'),
    [
        ('class A {\n};', 'cpp'), ('class EXPORT A : B {', 'cpp'),
        ('namespace a::b {', 'cpp'), ('#include <vector>', 'cpp'),
        ('// -*- mode: C++ -*-', 'cpp'), ('  template <class T>\nT f();', 'cpp'), ('bool operator==(A, A);', 'cpp'),
        ('/* the class of\n class of things, using the\n namespace of it */\n#include <stdio.h>\nint f(void);', 'c'),
        ('struct a { int public; };', 'c'), ('', 'c'),
    ],
)  # fmt: skip
def test_a_header_is_c_until_its_text_says_cpp(text, language):
  assert language_of('a.h', text) == language
  assert language_of('a.c', text) == 'c'


def test_objective_c_and_matlab_share_an_extension():
  assert language_of('a.m', '#import <A/A.h>\n') == 'objective-c'
  assert language_of('a.m', '% sums\nfunction y = f(x)\n') == 'matlab'


def test_no_two_languages_claim_the_same_name():
  for words in ('extensions', 'names', 'shebangs'):
    claims = [word for language in LANGUAGES.values() for word in getattr(language, words)]
    assert len(claims) == len(set(claims))
  rows = languages._ROWS
  assert len(LANGUAGES) == len(rows) and {row.kind for row in rows} == {'code', 'data', 'prose'}
  assert all(word == word.lower() and word[0] == '.' for row in rows for word in row.extensions)


def test_twelve_languages_have_a_grammar_and_importing_the_table_loads_none():
  assert set(PARSED) == {
      'python', 'java', 'javascript', 'typescript', 'tsx', 'c', 'cpp', 'csharp', 'go', 'rust', 'ruby', 'php', 'bash',
  }  # fmt: skip
  code = 'import sys, iquest_jax.data.languages; print([m for m in sys.modules if "tree_sitter" in m or m == "magika"])'
  assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True).stdout == '[]\n'
