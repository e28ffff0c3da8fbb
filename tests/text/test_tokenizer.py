"""The tokenizer: ids, determinism, and that text never becomes special tokens."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iquest_jax.data.tiny import packages
from iquest_jax.errors import UserError
from iquest_jax.text import tokenizer
from iquest_jax.text.tokenizer import Tokenizer

TEXTS = [document.text for document, _ in zip(packages.high_quality(), range(40))]
TOKENIZER = Tokenizer.train(TEXTS, 600)


def test_training_twice_gives_the_same_bytes():
  again = Tokenizer.train(iter(TEXTS), 600)
  assert again.to_str() == TOKENIZER.to_str() and again.fingerprint == TOKENIZER.fingerprint
  assert Tokenizer.train(TEXTS[:20], 600).fingerprint != TOKENIZER.fingerprint


def test_ids_are_those_of_the_report():
  assert [TOKENIZER.id(token) for token in ('<unk>', '<s>', '</s>')] == [0, 1, 2]
  assert sorted(TOKENIZER.id(token) for token in tokenizer.SPECIAL) == list(range(3, 11))
  assert TOKENIZER.vocab_size == 600
  for number, tag in enumerate(tokenizer.TAGS):
    assert TOKENIZER.encode(tag) == [11 + number]


@given(st.text())
def test_any_text_decodes_to_itself_and_bos_is_never_added(text):
  ids = TOKENIZER.encode(text)
  assert TOKENIZER.decode(ids) == text
  assert not set(ids) & {0, 1, 2}


def test_every_character_of_unicode_decodes_to_itself():
  """Each code point, beside its neighbours or between blanks; lone surrogates are not text."""
  points = [chr(point) for point in range(0x110000) if not 0xD800 <= point < 0xE000]
  texts = [' '.join(points[:0x3000])] + [''.join(points[start : start + 256]) for start in range(0, len(points), 256)]
  assert TOKENIZER.round_trip_report([*texts, *tokenizer.PROBES]) == []


@given(st.lists(st.sampled_from([*tokenizer.SPECIAL, *tokenizer.RESERVED, 'a', ' ', '<|', '|>', '\n'])).map(''.join))
def test_text_never_becomes_special_tokens(text):
  special = {TOKENIZER.id(token) for token in (*tokenizer.SPECIAL, *tokenizer.RESERVED)}
  ids = TOKENIZER.encode(text)
  assert not special & set(ids)
  assert TOKENIZER.decode(ids) == text


def test_special_tokens_are_read_if_the_caller_asks_for_it():
  assert TOKENIZER.encode('<|im_end|>', allow_special=True) == [TOKENIZER.id('<|im_end|>')]


def test_a_saved_tokenizer_loads_as_the_same(tmp_path):
  TOKENIZER.save(tmp_path / 'tokenizer.json')
  loaded = Tokenizer.load(tmp_path / 'tokenizer.json')
  assert loaded.fingerprint == TOKENIZER.fingerprint and loaded.encode(TEXTS[0]) == TOKENIZER.encode(TEXTS[0])
  assert [path.name for path in tmp_path.iterdir()] == ['tokenizer.json']


def test_the_vocabulary_reaches_to_the_largest_id_although_ids_have_gaps():
  content = json.loads(TOKENIZER.to_str())
  vocab = content['model']['vocab']
  vocab[max(vocab, key=vocab.get)] = 700
  gapped = Tokenizer(json.dumps(content))
  assert len(vocab) == 600 and gapped.vocab_size == 701


def test_a_missing_or_malformed_file_is_reported_with_the_way_out(tmp_path):
  with pytest.raises(UserError, match='python -m launch.prepare'):
    Tokenizer.load(tmp_path / 'tokenizer.json')
  content = json.loads(TOKENIZER.to_str())
  content['added_tokens'] = [token for token in content['added_tokens'] if token['content'] != '<|fim_suffix|>']
  del content['model']['vocab']['<|fim_suffix|>']
  for damaged, reason in (('{', 'not a usable'), (json.dumps(content), 'fim_suffix')):
    (tmp_path / 'damaged.json').write_text(damaged)
    with pytest.raises(UserError, match=reason) as error:
      Tokenizer.load(tmp_path / 'damaged.json')
    assert '\n' not in str(error.value)


def test_a_vocabulary_too_small_for_the_bytes_is_refused():
  with pytest.raises(UserError, match='must be at least 275 .*, got 200'):
    Tokenizer.train(TEXTS, 200)
