"""Fill in the middle: a cut loses nothing, syntax levels cut whole nodes, and what is drawn follows the proportions."""

import collections
import pathlib
import random
import re
import sysconfig

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iquest_jax.data import syntax
from iquest_jax.data.build import fim
from iquest_jax.data.documents import FimSplit
from iquest_jax.data.format import fim as fim_format
from iquest_jax.data.languages import PARSED, language_of
from iquest_jax.errors import UserError
from iquest_jax.text.example import build
from iquest_jax.text.tokenizer import SMALLEST, Tokenizer

STANDARD_LIBRARY = pathlib.Path(sysconfig.get_path('stdlib'))
FILES = sorted(path for path in STANDARD_LIBRARY.rglob('*.py') if 'site-packages' not in path.parts)
SAMPLE = random.Random(0).sample(FILES, 200)
NUMPY = pathlib.Path(np.__file__).parent
ENDINGS = ['\n', '\r\n', '\r']
UNICODE = st.text(st.characters(exclude_categories=()))  # lone surrogates too


def whole(split):
  return split.prefix + split.middle + split.suffix


def read(path):
  return path.read_bytes().decode('utf-8', 'surrogateescape')


@settings(deadline=None)
@given(UNICODE, st.sampled_from(fim.LEVELS), st.sampled_from(['', 'markdown', *PARSED]), st.integers())
def test_a_cut_loses_nothing_of_any_text_and_its_middle_is_empty_for_an_empty_text_only(text, level, language, seed):
  split = fim.split(text, level, random.Random(seed), language)
  assert whole(split) == text and bool(split.middle) == bool(text)


@settings(deadline=None)
@given(st.sampled_from(SAMPLE[:40]), st.sampled_from(fim.LEVELS), st.integers(), st.sampled_from(ENDINGS), UNICODE)
def test_a_cut_loses_nothing_of_real_code_with_whatever_in_it(path, level, seed, ending, junk):
  code = read(path)[:20_000].replace('\n', ending)
  place = seed % (len(code) + 1)
  text = code[:place] + junk + code[place:]
  split = fim.split(text, level, random.Random(seed), 'python')
  assert whole(split) == text and bool(split.middle) == bool(text)


def check_file(path):
  text, language = read(path), language_of(path.name)
  tree = syntax.parse(text, language)
  for level in fim.LEVELS:
    split = fim.cut(text, level, random.Random(0), lambda: tree)
    assert whole(split) == text and bool(split.middle) == bool(text)
    if tree and level == 'function' and language == 'python' and syntax.spans(tree, 'function'):
      assert re.match(r'(async\s+)?def\b', split.middle), f'{path}: {split.middle[:80]}'
    if level == 'lines':
      assert not split.prefix or split.prefix.splitlines(keepends=True)[-1] != split.prefix.splitlines()[-1]


def test_200_files_of_the_standard_library_keep_the_invariants():
  assert len(SAMPLE) == 200
  for path in SAMPLE:
    check_file(path)


@pytest.mark.long
def test_every_file_of_the_standard_library_and_of_numpy_keeps_the_invariants():
  files = [*FILES, *(path for path in NUMPY.rglob('*') if path.suffix in ('.py', '.pyi', '.h', '.c', '.hpp'))]
  assert len(files) > 1000
  for path in files:
    check_file(path)


@pytest.mark.parametrize('ending', ['\n', '\r\n'])
def test_syntax_levels_cut_whole_nodes(ending):
  text = ending.join(['é = "ü" + f(1)', 'def g(a):', '  """ö"""', '  return a', 'y = f"{x!r:>{w}}"', ''])
  middles = {
      level: {fim.split(text, level, random.Random(i), 'python').middle for i in range(200)} for level in fim.LEVELS
  }
  assert middles['function'] == {ending.join(['def g(a):', '  """ö"""', '  return a'])}
  assert {'é = "ü" + f(1)', 'return a', 'y = f"{x!r:>{w}}"'} <= middles['statement']
  assert {'"ü"', 'f(1)', '"ü" + f(1)', 'f"{x!r:>{w}}"'} <= middles['expression']
  assert all(text.startswith(middle) or ending + middle in text for middle in middles['lines'])


@pytest.mark.parametrize('language', ['', 'markdown', 'go'])
def test_a_syntax_level_falls_back_to_lines(language):
  text = 'one\ntwo\nthree'
  middles = {fim.split(text, 'function', random.Random(i), language).middle for i in range(60)}
  assert middles == {'one\n', 'two\n', 'three', 'one\ntwo\n', 'two\nthree', text}


def test_a_cut_of_a_part_takes_only_nodes_that_lie_in_it():
  before = 'é = f(0)\ndef g(): pass\n'
  text, after = 'ö = f(1)\ndef h():\n  return f(2)\n', 'ü = f(3)\n'
  tree = syntax.parse(before + text + after, 'python')
  cut = lambda level, i: fim.cut(text, level, random.Random(i), lambda: tree, len(before.encode()))
  middles = {level: {cut(level, i).middle for i in range(60)} for level in syntax.LEVELS}
  assert middles['function'] == {'def h():\n  return f(2)'}
  assert middles['expression'] == {'f(1)', 'f(2)'}
  assert middles['statement'] == {'ö = f(1)', 'def h():\n  return f(2)', 'return f(2)'}
  part = text[: text.index('\n  return')]  # the function ends after this text
  assert {fim.cut(part, 'function', random.Random(i), lambda: tree, len(before.encode())).middle for i in range(60)} == {
      'ö = f(1)\n', 'def h():', part,
  }  # fmt: skip


def test_what_is_drawn_follows_the_proportions(monkeypatch):
  levels = []
  monkeypatch.setattr(fim, 'cut', lambda text, level, *_: levels.append(level) or FimSplit('', text, ''))
  proportions = fim.Proportions(share=1, spm=0.25, levels={'lines': 3, 'function': 1, 'characters': 0})
  rng = random.Random(0)
  orders = [fim.complete('x', proportions, rng, lambda: None).suffix_first for _ in range(4000)]
  counts = collections.Counter(levels)
  assert set(counts) == {'lines', 'function'}
  assert abs(counts['lines'] / 4000 - 0.75) < 0.03 and abs(sum(orders) / 4000 - 0.25) < 0.03


@pytest.mark.parametrize(
    ('wrong', 'message'),
    [
        ({'share': 1.5}, r'fim: share must be in \[0, 1\], got 1.5'),
        ({'spm': -1}, r'fim: spm must be in \[0, 1\], got -1'),
        ({'spm': float('nan')}, r'fim: spm must be in \[0, 1\], got nan'),
        ({'levels': {'line': 1}}, 'fim: level "line" does not exist; did you mean "lines"'),
        ({'levels': {'lines': -1}}, 'fim: the weight of "lines" must be at least 0, got -1'),
        ({'levels': {'lines': 0}}, 'fim: no level has a weight above 0; give one of characters, lines'),
        ({'levels': {}}, 'fim: no level has a weight above 0'),
    ],
)
def test_wrong_proportions_are_named(wrong, message):
  with pytest.raises(UserError, match=message):
    fim.Proportions(**{'share': 0.5, 'spm': 0.5, 'levels': {'lines': 1}, **wrong})


@pytest.mark.parametrize(
    ('suffix_first', 'text'),
    [
        (False, '<|fim_prefix|>ab<|fim_suffix|>ef<|fim_middle|>cd<|im_end|>'),
        (True, '<|fim_prefix|><|fim_suffix|>ef<|fim_middle|>abcd<|im_end|>'),
    ],
)
def test_both_orders_are_written_and_learned_and_no_token_crosses_a_cut(suffix_first, text):
  tokenizer = Tokenizer.train(['abcdef abcd bc cd'] * 50, SMALLEST + 8)
  assert len(tokenizer.encode('abcd')) < len(tokenizer.encode('ab')) + len(tokenizer.encode('cd'))
  example = build(tokenizer, fim_format.segments(FimSplit('ab', 'cd', 'ef', suffix_first)))
  assert tokenizer.decode(example.tokens) == text and (example.loss_weights == 1).all()
  expected = [token for part in ('ab', 'cd', 'ef') for token in tokenizer.encode(part)]
  special = {tokenizer.id(token) for token in ('<|fim_prefix|>', '<|fim_suffix|>', '<|fim_middle|>', '<|im_end|>')}
  assert sorted(token for token in example.tokens if token not in special) == sorted(expected)
