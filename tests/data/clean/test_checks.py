"""All checks together: any text is cleaned or dropped, in bounded time, and cleaning twice is cleaning once."""

import collections
import pathlib
import re
import sysconfig
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iquest_jax.data.clean import checks, secrets
from iquest_jax.data.clean.quality import quality
from iquest_jax.data.documents import Drop

TABLES = {'code': checks.CODE, 'prose': checks.PROSE, 'patch': checks.PATCH, 'patched': checks.PATCHED,
'chat': checks.CHAT}
PARTS = [
    'Ã©', 'é', '\ud83d', '\ude00', '\x00', '\x07', '\r\n', '\r', '\ufeff', '\n', ' ', '  \n', '<p>', '</p>', '<!--',
    '-->', '```\n', '`',
    '<script>', '</script>', '&amp;', '&nbsp;', 'https://a.bc/d\n', 'Skip to content\n', '!!!!!', 'joe@acme.org',
    '93.184.216.34',
    'password="hunter2Xq9!"', '+49 176 1234 5678', '-', '+', '@', ':', '"', '#', 'def f(x):\n  return x + 1\n',
    'the quick brown fox ',
    'AKIA' + 'QYLPMN5HHHFPZAM2', '-----BEGIN PRIVATE ' + 'KEY-----\n', 'A' * 64, '\n-----END PRIVATE ' + 'KEY-----',
    *secrets.MARKERS,
]  # fmt: skip
TEXTS = st.one_of(
    st.lists(st.sampled_from(PARTS), max_size=40).map(''.join),
    st.text(st.characters(exclude_categories=[]), max_size=200),
    st.text(st.characters(max_codepoint=255), max_size=200),
)
PATHS = st.sampled_from(['a.py', 'README.md', 'a.c', 'a.sh', 'x.php', '.env', 'a.json', 'notes.txt', ''])


@pytest.mark.parametrize('name', TABLES)
@settings(max_examples=150)
@given(path=PATHS.filter(bool), text=TEXTS)
def test_any_text_is_cleaned_once_and_for_all(name, path, text):
  once = checks.clean(path, text, TABLES[name])
  if isinstance(once, str):
    once.encode()
    assert checks.clean(path, once, TABLES[name]) == once
    for marker in secrets.MARKERS:
      assert once.count(marker) >= (text.count(marker) if name != 'prose' else 0)


@settings(max_examples=100)
@given(PATHS.filter(bool), TEXTS)
def test_every_check_alone_takes_any_text(path, text):
  for table in TABLES.values():
    for _, check in table:
      assert isinstance(check(path, text), str | Drop)


HOSTILE = {
    'one line': 'x' * 1_000_000, 'spaces': 'x' + ' ' * 1_000_000 + 'y', 'newlines': '\n' * 1_000_000,
    'at signs': 'a@' * 300_000,
    'mail': 'a' * 500_000 + '@' + 'b.' * 200_000, 'keys': ('-----BEGIN PRIVATE ' + 'KEY-----\n') * 30_000,
    'open comments': '<!-- ' * 200_000,
    'open tags': '<p ' * 300_000, 'open scripts': '<script>' * 100_000, 'tokens': 'eyJ-' * 250_000,
    'more tokens': 'eyJ--' * 200_000,
    'names': 'password' * 120_000, 'assignments': 'token="' * 140_000, 'numbers': '1.' * 500_000,
    'hexadecimal': '2abc:' * 200_000,
    'phones': '+1 2' * 250_000, 'back ticks': '`' * 1_000_000, 'fences': '```\n' * 250_000, 'brackets': '(' * 1_000_000,
    'mojibake': 'Ã©' * 400_000, 'accents': 'é' * 500_000, 'urls': 'http://a:b' * 100_000, 'base64': 'QUJD' * 250_000,
    'tabs': '\t\n' * 500_000,
    'surrogates': '\ud800' * 500_000, 'links': 'www.a ' * 160_000, 'hashes': '# ' * 500_000, 'words': 'a b ' * 250_000,
    'blanks': ('   \nx' + ' ' * 90_000 + 'y') * 11,
}  # fmt: skip


@pytest.mark.parametrize('size', [100_000, pytest.param(1_000_000, marks=pytest.mark.long)])
@pytest.mark.parametrize('kind', HOSTILE)
def test_no_text_takes_long(kind, size):
  """A check takes about 0.1 microseconds per character; what is quadratic takes minutes."""
  for name, table in TABLES.items():
    path = 'a.md' if name == 'prose' else 'a.py'
    for check_name, check in table:
      start = time.process_time()
      check(path, HOSTILE[kind][:size])
      assert time.process_time() - start < 1 + 2e-6 * size, (name, check_name)


def test_what_one_check_repairs_another_sees():
  assert checks.clean('a.md', '<p>' * 20 + 'just four words here' + '</p>' * 20,
  checks.PROSE).rule == 'length: too few words'
  assert checks.clean('a.py', '\x07\ufeff', checks.CODE).rule == 'length: empty'


def test_changes_are_counted_by_check():
  seen = collections.Counter()
  text = 'author = "joe@acme.org"\r\nname = "Joe"\r\n'
  assert checks.clean('a.py', text, checks.CODE, seen) == 'author = "<EMAIL>"\nname = "Joe"\n'
  assert seen == {'encoding: texts changed': 1, 'secrets: texts changed': 1}
  assert checks.clean('a.py', 'x = 1\n', checks.CODE, seen).rule == 'length: too short' and seen.total() == 2


def test_files_go_to_the_checks_of_their_kind():
  for path in ('README', 'a.md', 'docs/a.rst', 'b.txt'):
    assert checks.of_file(path) is checks.PROSE
  for path in ('a.py', 'Makefile', 'a.json', 'unknown'):
    assert checks.of_file(path) is checks.CODE


def test_rules_are_phrases_without_numbers_and_names():
  room = pathlib.Path(checks.__file__).parent
  rules = {rule for path in room.glob('*.py') for rule in re.findall(r"Drop\(\s*f?'([^']+)'", path.read_text())}
  assert len(rules) > 20
  assert not [rule for rule in rules if not re.fullmatch(r'[a-z]+: [A-Za-z -]+', re.sub(r'\{[\w.]+\}', 'name', rule))]


def test_the_better_of_two_versions_has_the_higher_quality():
  text = pathlib.Path(sysconfig.get_paths()['stdlib'], 'heapq.py').read_text()
  without_comments = '\n'.join(line for line in text.split('\n') if not line.strip().startswith('#'))
  half = text[: len(text) // 2]
  for worse in (half, half + half, text[:3000] * 2, without_comments, '', '\n' * 99):
    assert 0 <= quality('heapq.py', worse) < quality('heapq.py', text) <= 1


def test_repeated_lines_lower_the_quality():
  different = ''.join(f'x{number} = {number}\n' for number in range(100, 200))
  assert quality('a.py', 'x100 = 100\n' * 100) < quality('a.py', different)


@given(PATHS, TEXTS)
def test_quality_is_a_share(path, text):
  assert 0 <= quality(path, text) <= 1
