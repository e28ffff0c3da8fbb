"""Signatures of texts: what they are blind to, how well they estimate, and how they compare with datasketch."""

import pathlib
import random
import re
import sysconfig

import datasketch
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from iquest_jax.data.clean import minhash, shingles

# What a word is, stated independently of the code under test.
_WORD = re.compile('[0-9a-z_\u0080-\u07ff]+|[^\u0000-\u07ff][0-9a-z_\u0080-\u07ff]*')


def words(text):
  return _WORD.findall(re.sub('[A-Z]', lambda match: match[0].lower(), text))


def grams(text, n=minhash.NGRAM):
  found = words(text)
  return {tuple(found[i : i + n]) for i in range(len(found) - n + 1)}


def jaccard(a, b):
  a, b = grams(a), grams(b)
  return len(a & b) / max(1, len(a | b))


any_text = st.text(st.characters(), max_size=60) | st.text('aB_1 .\nä中\ud800', max_size=60)


@given(any_text, any_text)
@settings(max_examples=300, deadline=None)
def test_words_have_equal_hashes_exactly_if_they_are_equal(a, b):
  hashes = [*shingles.words(a).tolist(), *shingles.words(b).tolist()]
  expected = [*words(a), *words(b)]
  assert len(hashes) == len(expected)
  assert len(set(hashes)) == len(set(expected)) == len(set(zip(hashes, expected)))


@given(st.lists(st.sampled_from(['a', 'b', 'c']), max_size=12), st.integers(1, 6))
@settings(deadline=None)
def test_ngrams_are_those_of_the_words_in_order(chosen, n):
  hashes = shingles.ngrams(shingles.words(' '.join(chosen)), n).tolist()
  expected = [tuple(chosen[i : i + n]) for i in range(len(chosen) - n + 1)]
  assert len(hashes) == len(expected)
  assert len(set(hashes)) == len(set(expected)) == len(set(zip(hashes, expected)))


def test_a_long_text_hashes_as_its_pieces_do(monkeypatch):
  text = ' '.join(f'word{i} \u4e2d{i}' for i in range(50))
  whole = shingles.words(text)
  monkeypatch.setattr(shingles, '_BLOCK', 37)
  np.testing.assert_array_equal(shingles.words(text), whole)
  assert len(shingles.words('x' * 100)) == 3  # a word longer than a block is cut


@given(st.sets(st.integers(0, 2**64 - 1), min_size=1, max_size=50), st.randoms())
@settings(max_examples=50, deadline=None)
def test_a_signature_depends_on_the_set_alone(elements, order):
  elements = sorted(elements)
  again = elements + elements[::2]
  order.shuffle(again)
  sketches = [minhash.sketch(np.array(chosen, np.uint64)) for chosen in (elements, again)]
  np.testing.assert_array_equal(*sketches)


@pytest.mark.parametrize('size', [1, 5, 60, 400, 700, 5000])
def test_the_estimate_is_as_good_as_that_of_minhash_for_sets_of_all_sizes(size):
  rng, errors = np.random.default_rng(size), []
  for shared in (size // 2, size * 8 // 10, size - 1) * 20:
    elements = rng.integers(0, 2**63, 2 * size - shared, dtype=np.uint64)
    a, b = (minhash.sketch(chosen) for chosen in (elements[:size], elements[size - shared :]))
    true = shared / (2 * size - shared)
    errors.append((minhash.similarity(a, b) - true) / np.sqrt(max(true * (1 - true), 0.02) / minhash.SIZE))
  assert abs(np.mean(errors)) < 0.4  # 60 draws: 3 standard deviations of their mean
  assert np.std(errors) < 1.25


@pytest.mark.parametrize(('similarity', 'expected'), [(0.9, 0.9994), (0.8, 0.986), (0.5, 0.135), (0.3, 0.0042)])
def test_similar_documents_share_a_band_as_often_as_stated(similarity, expected):
  rng = np.random.default_rng(1)
  a = rng.integers(0, 256, (20000, minhash.SIZE), dtype=np.uint8)
  b = np.where(rng.random(a.shape) < similarity, a, rng.integers(0, 256, a.shape, dtype=np.uint8))
  share = (minhash.bands(a) == minhash.bands(b)).any(axis=1).mean()
  assert abs(share - expected) < 4 * np.sqrt(expected * (1 - expected) / len(a)) + 1e-3


def test_bands_never_share_a_key_with_other_bands():
  assert len(np.unique(minhash.bands(np.full((1, minhash.SIZE), 7, np.uint8)))) == minhash.BANDS


def test_exact_digests_are_blind_to_the_amount_of_white_space_alone():
  digests = [minhash.exact_digest(text) for text in ('if a:\n  b()', ' if  a:\r\n\tb()\n', 'if A:\n  b()', 'if a:b()', '')]
  assert digests[0] == digests[1] and len(set(digests)) == 4
  assert len(minhash.exact_digest('\ud800')) == 16


def test_case_and_punctuation_do_not_change_a_signature_and_short_texts_have_none():
  text = 'def f(a, b):\n  return a + b  # The Sum'
  np.testing.assert_array_equal(minhash.signature(text), minhash.signature('DEF f A b; Return (a)\n\nb the sum'))
  assert minhash.signature('a b c d') is None and minhash.signature('') is None and minhash.signature('!?') is None


def edited(text, share, rng):
  return ' '.join(f'w{rng.randrange(10**9)}' if rng.random() < share else word for word in words(text))


def test_near_duplicates_agree_with_datasketch():
  """A labelled set: real files and copies edited to a Jaccard similarity between 0.3 and 1, labelled by the true one."""
  rng = random.Random(0)
  paths = sorted(pathlib.Path(sysconfig.get_path('stdlib')).glob('*.py'))
  sources = [' '.join(words(path.read_text(errors='replace'))[:800]) for path in paths]
  sources = [text for text in sources if len(words(text)) > 100][:90]
  shares = [0.01, 0.015, 0.018, 0.02, 0.022, 0.05, 0.1]
  pairs = [(text, edited(text, rng.choice(shares), rng)) for text in sources for _ in range(5)]
  pairs += zip(sources, sources[1:])
  true = np.array([jaccard(*pair) for pair in pairs])
  ours, theirs = [], []
  for a, b in pairs:
    x, y = minhash.signature(a), minhash.signature(b)
    candidate = (minhash.bands(x[None]) == minhash.bands(y[None])).any()
    ours.append(bool(candidate and minhash.similarity(x, y) >= minhash.LINKED_FROM))
    other = datasketch.MinHash(num_perm=128), datasketch.MinHash(num_perm=128)
    for sketch, text in zip(other, (a, b)):
      sketch.update_batch([' '.join(gram).encode() for gram in grams(text)])
    theirs.append(other[0].jaccard(other[1]))
  ours, theirs = np.array(ours), np.array(theirs)
  similar = true >= 0.8
  assert similar.sum() > 100 and (true < 0.5).sum() > 100
  close = similar & (true < 0.87)
  assert close.sum() > 50 and ours[close].mean() >= 0.95
  assert ours[similar].mean() >= 0.95
  assert not ours[true < 0.5].any()
  # Where datasketch is sure, on either side, we say the same.
  assert ours[theirs >= 0.85].mean() >= 0.95 and not ours[theirs < 0.5].any()

