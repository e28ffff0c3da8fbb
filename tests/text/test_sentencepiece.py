"""SentencePiece models read as they are released: the same ids as the library's own, special tokens only on request."""

import functools
import json
import pathlib
import sysconfig
import tempfile

import pytest
import sentencepiece
from hypothesis import assume, given
from hypothesis import strategies as st

from iquest_jax.errors import UserError
from iquest_jax.text.tokenizer import PROBES, RESERVED, SPECIAL, TAGS, Tokenizer

STANDARD_LIBRARY = sorted(pathlib.Path(sysconfig.get_path('stdlib')).glob('*.py'))
CODE = [path.read_text(encoding='utf-8', errors='replace') for path in STANDARD_LIBRARY[:30]]
OTHERS = ['Größe: 12,5 °C', '漢字かな交じり文', '𝄞 und 👩‍👧', '<|im_end|>', '<s>', '</think>', '▁', '\t', '\r\n', 'ﬁ½']
# As code models are released; as Llama's; and with text normalised, which no code model does.
SYMBOLS = [*SPECIAL, *TAGS]
KINDS = {
    'plain': {},
    'a blank before a text': {'add_dummy_prefix': True, 'user_defined_symbols': SYMBOLS},
    'normalised': {
        'add_dummy_prefix': True, 'user_defined_symbols': SYMBOLS, 'remove_extra_whitespaces': True,
        'normalization_rule_name': 'nmt_nfkc',
    },
    'without bytes': {'byte_fallback': False},
}  # fmt: skip
kinds = pytest.mark.parametrize('kind', KINDS)
# Letters of few kinds, so that pieces meet in every way, blanks in runs, and whatever else there is.
TEXTS = st.one_of(
    st.text(st.sampled_from('abc=-  \n'), max_size=40),
    st.lists(st.sampled_from([*OTHERS, 'self.', 'return', ' ', '  ', '\n', 'x']), max_size=12).map(''.join),
    st.text(st.characters(exclude_categories=['Cs'], exclude_characters='\0'), max_size=20),
)


def train(folder: pathlib.Path, **changes) -> pathlib.Path:
  usual = dict(
      model_type='bpe', vocab_size=900, byte_fallback=True, normalization_rule_name='identity', add_dummy_prefix=False,
      remove_extra_whitespaces=False, allow_whitespace_only_pieces=True, split_digits=True, minloglevel=2,
      user_defined_symbols=[*SYMBOLS, '▁▁▁▁'], num_threads=1,
  )  # fmt: skip
  lines = [line for text in CODE[:12] for line in text.splitlines() if line] + ['abc = a-b-c  ab', *OTHERS[:3]] * 20
  sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=iter(lines[:3000]), model_prefix=str(folder / 'tokenizer'), **{**usual, **changes}
  )
  return folder / 'tokenizer.model'


@functools.cache
def trained(kind: str) -> tuple[sentencepiece.SentencePieceProcessor, Tokenizer]:
  """A model in the library that made it, and in ours."""
  with tempfile.TemporaryDirectory() as folder:
    path = train(pathlib.Path(folder), **KINDS[kind])
    return sentencepiece.SentencePieceProcessor(model_file=str(path)), Tokenizer.load(path)


def ids(ours: Tokenizer, text: str) -> list[int]:
  """Ids as the library gives them: symbols of the model are read, control symbols are text."""
  return ours.encode(text, allow_special=any(token in text for token in SPECIAL))


def without_symbols(text: str) -> str:
  """The text without symbols that the model defines: between them both libraries differ where they add blanks."""
  for symbol in SYMBOLS:
    text = text.replace(symbol, '')
  return text


@pytest.mark.parametrize('kind', ['plain', 'without bytes'])
@given(text=TEXTS)
def test_ids_are_those_of_the_library(kind, text):
  assume(not (any(token in text for token in SPECIAL) and '<s>' in text))
  theirs, ours = trained(kind)
  assert ids(ours, text) == theirs.encode(text)


@pytest.mark.parametrize('kind', ['a blank before a text', 'normalised'])
@given(text=TEXTS.map(without_symbols))
def test_ids_of_text_are_those_of_the_library_where_it_adds_blanks(kind, text):
  theirs, ours = trained(kind)
  assert ids(ours, text) == theirs.encode(text)


@kinds
def test_ids_of_real_source_are_those_of_the_library(kind):
  theirs, ours = trained(kind)
  for text in CODE:
    text = without_symbols(text) if KINDS[kind].get('add_dummy_prefix') else text
    assert ids(ours, text) == theirs.encode(text)


def test_the_vocabulary_is_the_models():
  theirs, ours = trained('plain')
  assert ours.vocab_size == theirs.get_piece_size() == 900
  assert [ours.id(token) for token in RESERVED] == [theirs.unk_id(), theirs.bos_id(), theirs.eos_id()] == [0, 1, 2]
  for token in SPECIAL:
    assert ours.id(token) == theirs.piece_to_id(token)
  for tag in TAGS:
    assert ours.encode(tag) == [theirs.piece_to_id(tag)]


@kinds
@given(text=st.lists(st.sampled_from([*SPECIAL, *RESERVED, 'a', ' ', '<|', '|>', '\n']), max_size=12).map(''.join))
def test_text_never_becomes_special_tokens(kind, text):
  _, ours = trained(kind)
  special = {ours.id(token) for token in (*RESERVED[KINDS[kind].get('byte_fallback') is False :], *SPECIAL)}
  assert not special & set(ours.encode(text))


def test_special_tokens_are_read_whole_if_the_caller_asks_for_it():
  _, ours = trained('plain')
  text = 'a<|im_start|>user\n<|im_end|>'
  ids = ours.encode(text, allow_special=True)
  assert ids.count(ours.id('<|im_start|>')) == ids.count(ours.id('<|im_end|>')) == 1 and ours.decode(ids) == text


@given(text=TEXTS)
def test_text_decodes_to_itself_where_the_model_changes_none(text):
  _, ours = trained('plain')
  assert ours.decode(ours.encode(text)) == text.replace('▁', ' ')


def test_what_does_not_decode_to_itself_is_reported():
  assert trained('plain')[1].round_trip_report([*CODE, *PROBES]) == ['▁x▁▁y']
  reported = trained('normalised')[1].round_trip_report(PROBES)
  assert {' x', 'x ', '\tx', 'ﬁ ½ Ⅷ Ａ'} <= set(reported) and 'a b' not in reported


def test_tokens_added_beside_the_model_have_the_ids_they_were_given(tmp_path):
  path = train(tmp_path, user_defined_symbols=[])
  with pytest.raises(UserError, match='special token <|im_start|> is missing'):
    Tokenizer.load(path)
  added = {str(1000 + n): {'content': token, 'special': True} for n, token in enumerate(SPECIAL)}
  added['1010'] = {'content': '<think>', 'special': False}
  (tmp_path / 'tokenizer_config.json').write_text(json.dumps({'added_tokens_decoder': added}))
  ours = Tokenizer.load(path)
  assert [ours.id(token) for token in SPECIAL] == list(range(1000, 1008)) and ours.vocab_size == 1011
  assert ours.encode('a<think>')[-1] == 1010 and max(ours.encode('<|im_end|>')) < 900
  assert ours.encode('<|im_end|>', allow_special=True) == [ours.id('<|im_end|>')]
  ours.save(tmp_path / 'tokenizer.json')
  assert Tokenizer.load(tmp_path / 'tokenizer.json').fingerprint == ours.fingerprint


def test_a_model_that_cannot_be_expressed_is_refused_in_one_line(tmp_path):
  path = train(tmp_path, model_type='unigram')
  with pytest.raises(UserError, match='must be a SentencePiece model of type BPE, got UNIGRAM') as error:
    Tokenizer.load(path)
  assert '\n' not in str(error.value)
  for content in (b'', b'\xff\xff{}', b'{"model": 1}'):
    path.write_bytes(content)
    with pytest.raises(UserError, match='is not a SentencePiece model') as error:
      Tokenizer.load(path)
    assert '\n' not in str(error.value)
  with pytest.raises(UserError, match='is missing'):
    Tokenizer.load(tmp_path / 'nothing.model')
  train(tmp_path)
  (tmp_path / 'tokenizer_config.json').write_text('[')
  with pytest.raises(UserError, match='tokenizer_config.json is damaged'):
    Tokenizer.load(tmp_path / 'tokenizer.model')
