"""Streamed text is the text of all tokens, cut at the first stop word, and each token costs the same."""

import functools

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from iquest_jax.infer import text
from iquest_jax.infer.engine import Token
from iquest_jax.text.tokenizer import SMALLEST, Tokenizer

STOP_WORDS = ('\n\n', 'def ', 'é€', 'stop')


@functools.cache
def tokenizer():
  return Tokenizer.train(['def stop(x):\n\n  return "é€😀"\n' * 4], SMALLEST + 24)


def id_of_byte(value):
  """The token of one byte, which can be part of a character."""
  return next(id for id in range(SMALLEST) if tokenizer()._with_special.id_to_token(id) == BYTES[value])


# GPT-2's letters for bytes: printable ones stand for themselves, the others follow from 256 on.
PRINTABLE = [*range(33, 127), *range(161, 173), *range(174, 256)]
OTHERS = [byte for byte in range(256) if byte not in PRINTABLE]
BYTES = {byte: chr(byte) for byte in PRINTABLE} | {byte: chr(256 + n) for n, byte in enumerate(OTHERS)}


class Engine:
  """Draws the given ids for request 0."""

  def __init__(self, ids, end):
    self._ids, self._end = ids, end

  def run(self, requests):
    list(requests)
    for n, id in enumerate(self._ids, start=1):
      yield Token(0, id, 0.0, self._end if n == len(self._ids) else '')

  def release(self, request):
    self._ids = []


def pieces(ids, stop_words=(), end='length'):
  out = []
  for piece in text.stream(Engine(ids, end), tokenizer(), [[0]], len(ids), stop_words=stop_words):
    out.append(piece.text)
    if piece.last:
      break
  return out


def expected(ids, stop_words):
  """Decodes the whole after every token."""
  for n in range(1, len(ids) + 1):
    whole = tokenizer().decode(ids[:n])
    if found := [at for word in stop_words if (at := whole.find(word)) >= 0]:
      return whole[: min(found)]
  return whole


any_id = st.integers(0, SMALLEST + 23)
byte_of_text = st.text(alphabet='aé€😀\ufffd\n', min_size=1, max_size=4).map(lambda t: list(map(id_of_byte, t.encode())))
words = st.sampled_from(['def stop', '\n\n', 'x"é€😀', ' stop ']).map(lambda t: tokenizer().encode(t))
broken = st.lists(st.sampled_from([0x80, 0xBF, 0xC3, 0xE2, 0x82, 0xF0, 0x9F, 0x98, 0xFF]).map(id_of_byte), max_size=6)
ids = st.lists(st.one_of(any_id.map(lambda id: [id]), byte_of_text, words, broken), min_size=1, max_size=40)


@given(ids.map(lambda parts: sum(parts, [])).filter(bool), st.sets(st.sampled_from(STOP_WORDS)))
@example([id_of_byte(0xE2)] * 100, set())
@example([id_of_byte(byte) for byte in 'é€'.encode()], {'é€'})
def test_streamed_text_is_that_of_all_tokens_up_to_a_stop_word(ids, stop_words):
  assert ''.join(pieces(ids, tuple(stop_words))) == expected(ids, stop_words)


def test_a_character_of_several_tokens_comes_when_it_is_whole():
  ids = [id_of_byte(byte) for byte in 'a€b'.encode()]
  assert pieces(ids) == ['a', '', '', '€', 'b']


def test_the_token_that_ends_a_text_is_no_part_of_it():
  assert ''.join(pieces([*tokenizer().encode('a stop'), tokenizer().ends[1]], end='stop')) == 'a stop'


def test_a_decoder_that_trims_the_first_space_loses_no_other(monkeypatch):
  """Imported tokenizers may decode like that of Llama."""
  monkeypatch.setattr(tokenizer(), 'decode', lambda ids: ''.join(f' {id}' for id in ids)[1:])
  ids = list(range(200))
  assert ''.join(pieces(ids)) == ' '.join(map(str, ids))


def test_the_beginning_of_a_long_stop_word_is_held_back_whole():
  ids = [id_of_byte(ord('a'))] * 70
  assert ''.join(pieces(ids, ('a' * 60 + 'b',))) == 'a' * 70
  assert ''.join(pieces([*ids, id_of_byte(ord('b'))], ('a' * 60 + 'b',))) == 'a' * 10


@pytest.mark.parametrize('content', ['a', '\n', '€', b'\xe2', b'\xff', 'stop'])
def test_a_long_text_decodes_a_bounded_number_of_tokens_each_time(content, monkeypatch):
  data, sizes, decode = content if isinstance(content, bytes) else content.encode(), [], tokenizer().decode
  monkeypatch.setattr(tokenizer(), 'decode', lambda ids: sizes.append(len(ids)) or decode(ids))
  ids = [id_of_byte(byte) for byte in data] * 2000
  whole = decode(ids)
  assert ''.join(pieces(ids, stop_words=('a stop word that never comes',))) == whole
  assert max(sizes) <= 64 and sum(sizes) <= 64 * len(ids)
