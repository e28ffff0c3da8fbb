"""Bytes become text or a reason; what was decoded wrongly is repaired where that is certain, once and for all."""

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from iquest_jax.data.clean import encoding
from iquest_jax.data.documents import Drop

TEXTS = ['plain', 'naïve café', '“quoted” – 5 €', 'Ångström © 2020', '中文字符', 'Привет', '😀 ok', 'x = "é"\n']


@pytest.mark.parametrize('text', TEXTS)
@pytest.mark.parametrize('form', ['utf-8', 'utf-8-sig', 'utf-16'])
def test_text_comes_out_of_its_bytes(text, form):
  assert encoding.decode(text.encode(form)) == text


def test_a_coding_cookie_names_the_encoding():
  assert encoding.decode('# -*- coding: koi8-r -*-\nПривет'.encode('koi8-r')) == '# -*- coding: koi8-r -*-\nПривет'


def test_one_stray_byte_does_not_lose_a_file():
  assert encoding.decode(b'# by Andr\xe9, and a long line of code after it\nx = 1\n').startswith('# by Andr\xe9,')


@pytest.mark.parametrize(
    ('data', 'rule'),
    [
        (b'\x89PNG\r\n\x1a\n\0\0\0\rIHDR', 'encoding: binary'),
        ('Привет, мир'.encode('koi8-r'), 'encoding: not text'),
        (b'\xff\xfe\x00\xd8\x00\xd8', 'encoding: not text'),
        (b'# coding: no_such_codec\n' + b'\xe9' * 40, 'encoding: not text'),
        (b'x' * (encoding.MAX_BYTES + 1), 'encoding: too large'),
    ],
)  # fmt: skip
def test_bytes_that_are_no_text_are_dropped_with_the_reason(data, rule):
  assert encoding.decode(data).rule == rule


@given(st.binary(max_size=300))
def test_any_bytes_are_text_or_a_drop(data):
  assert isinstance(encoding.decode(data), str | Drop)


def misread(text, form):
  """UTF-8 read as another encoding; bytes that cp1252 does not define pass through, as in browsers."""
  return ''.join(bytes([b]).decode(form, 'ignore') or chr(b) for b in text.encode())


@pytest.mark.parametrize('text', TEXTS)
@pytest.mark.parametrize('form', ['cp1252', 'latin-1'])
def test_utf8_read_as_another_encoding_is_restored(text, form):
  assert encoding.repair('', misread(text, form)) == text
  assert encoding.repair('', misread(misread(text, form), form)) == text


PRINTED = st.text(st.characters(min_codepoint=32, exclude_categories=['Cs', 'Cc', 'Cn']), min_size=1)


@given(PRINTED, st.sampled_from(['cp1252', 'latin-1']))
def test_whatever_was_misread_is_restored(text, form):
  assume(encoding.repair('', text) == text)
  assert encoding.repair('', misread(text, form)) == text


@pytest.mark.parametrize('text', [*TEXTS, 'Ã© beside an é', 'Â is a letter', 'São Paulo, Ã alone', 'page\fbreak'])
def test_text_that_was_read_rightly_stays(text):
  assert encoding.repair('', text) == text


def test_lines_end_one_way_and_controls_go():
  assert encoding.repair('', '\ufeffa\r\nb\rc\n\tde\x07') == 'a\nb\nc\n\tde'
  assert encoding.repair('', 'a\r\nb\x00') == 'a\nb'


def test_what_one_repair_uncovers_is_repaired_too():
  assert encoding.repair('', 'Ã\x80©') == 'é'


def test_surrogate_pairs_are_one_character_and_lone_ones_are_none():
  assert encoding.repair('', 'a \ud83d\ude00 b') == 'a \U0001f600 b'
  assert encoding.repair('', 'a \ud83d b') == 'a \ufffd b'
  assert encoding.repair('', '\ud800' * 9).rule == 'encoding: not text'


@pytest.mark.parametrize('text', ['\x01\x02\x03\x04 a', 'é\x01\x02\x03\x04'])
def test_texts_of_control_characters_are_binary(text):
  assert encoding.repair('', text).rule == 'encoding: binary'


def test_a_patch_is_left_alone_or_left_out():
  assert encoding.intact('', 'a\r\nÃ©\x0c') == 'a\r\nÃ©\x0c'
  assert encoding.intact('', 'a\0').rule == 'encoding: binary'
  assert encoding.intact('', 'a\ud800').rule == 'encoding: lone surrogate'
  for check in (encoding.intact, encoding.repair):
    assert check('', 'x' * (encoding.MAX_BYTES + 1)).rule == 'encoding: too large'


@settings(max_examples=300)
@given(st.text(st.one_of(st.characters(max_codepoint=0x2FF, exclude_categories=[]), st.characters(exclude_categories=[]))))
def test_repairing_twice_is_repairing_once_and_gives_utf8(text):
  once = encoding.repair('', text)
  if isinstance(once, str):
    once.encode()
    assert encoding.repair('', once) == once
