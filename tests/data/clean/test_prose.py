"""Leftovers of crawling are removed, code within texts stays, and text that is not prose is dropped by Gopher's rules."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iquest_jax.data.clean import prose
from iquest_jax.data.documents import Drop

SENTENCE = (
    'the quick brown fox jumps over a lazy dog while seven wizards boxed bright quartz jugs and nobody in town ever knew '
    'why such odd things happened every friday evening after rain'
)
WORDS = SENTENCE.split()
PROSE = '\n'.join(' '.join(WORDS[(i * j) % len(WORDS)] for j in range(3, 14)) + '.' for i in range(1, 23, 2)) + '\n'


@pytest.mark.parametrize(
    ('text', 'cleaned'),
    [
        ('<p>One <b>two</b></p>', 'One two'),
        ('a<br>b', 'a b'),
        ('x <!-- hidden\n --> y', 'x  y'),
        ('a<script src="x">var y = 1 < 2;</script>b', 'ab'),
        ('Tom&nbsp;&amp;&quot;Jerry&quot;&mdash;x', 'Tom &amp;"Jerry"\u2014x'),
        ('one\nSkip to content\ntwo', 'one\ntwo'),
        ('one\nThis website uses cookies to improve your experience.\ntwo', 'one\ntwo'),
        ('one\nHome | About us | Contact\ntwo', 'one\ntwo'),
        ('one\nPlease enable JavaScript to view this page.\ntwo', 'one\ntwo'),
        ('one\n12 comments\nShare on Facebook\ntwo', 'one\ntwo'),
        ('one\nhttps://a.b/c\nhttp://d.e\nwww.f.g\ntwo', 'one\ntwo'),
        ('wow!!!!!!!! really????? ......', 'wow!!! really??? ...'),
        ('a\n\n\n\n\n\nb', 'a\n\n\nb'),
        ('soft\u00adhy\u200bphen', 'softhyphen'),
    ],
)
def test_remnants_of_web_pages_go(text, cleaned):
  assert prose.crawled('', text) == cleaned
  assert prose.crawled('', cleaned) == cleaned


@pytest.mark.parametrize(
    'text',
    [
        '```html\n<p>One</p>\n\n\n\n\n\n<!-- kept -->\nSkip to content\n```\n', 'Use `<div>` and `&nbsp;` here',
        'cp <source> <input>',
        'if a < b and c > d', 'List<T> of Vec<a>', 'see\nhttps://a.b/c\nfor more',
        '# Home\n\n## Search\n\n- Comments', '~~~\n<b>x</b>',
        'This site has three parts', 'Read more books', 'wait... what?!', '&lt;p&gt; is a tag',
        '<script> is never closed', '| a | b |',
        'All rights reserved.', 'Copyright (c) 2020 A. All rights reserved.',
    ],
)  # fmt: skip
def test_text_and_code_in_it_stay(text):
  assert prose.crawled('', text) == text


@pytest.mark.parametrize(
    ('check', 'text', 'rule'),
    [
        (prose.length, '', 'length: empty'),
        (prose.length, 'just four words here', 'length: too few words'),
        (prose.length, 'x' * (prose.LONGEST + 1), 'length: too long'),
        (prose.words, 'a b c d ' * 30, 'words: mean length'),
        (prose.words, 'incomprehensibilities ' * 60, 'words: mean length'),
        (prose.words, PROSE.replace(' in ', ' #in ... ').replace('boxed', '#boxed #too'), 'words: too many symbols'),
        (prose.words, PROSE + '123 - 456 | 78,9 ' * 50, 'words: too few with a letter'),
        (prose.words, ''.join(f'- {line}\n' for line in PROSE.split('\n') if line), 'words: bullets alone'),
        (prose.words, PROSE.replace('.\n', '...\n').replace(' ', ' more and '), 'words: lines cut short'),
        (prose.repetition, (PROSE.split('\n')[0] + '\n') * 6 + PROSE, 'repetition: lines'),
        (prose.repetition, '\n\n'.join([*PROSE.split('\n'), *['line one\nline two'] * 5]), 'repetition: lines'),
        (prose.repetition, f'{PROSE} ' + 'buy these cheap shoes ' * 30, 'repetition: one phrase'),
        (prose.repetition, ' '.join((PROSE.replace('\n', ' '), *PROSE.split()[:80])), 'repetition: repeated phrases'),
    ],
)
def test_each_rule_drops_what_it_names(check, text, rule):
  dropped = check('', text)
  assert isinstance(dropped, Drop) and dropped.rule == rule
  assert check('', PROSE) == PROSE


def test_texts_without_spaces_between_words_are_not_measured_in_words():
  text = '今日は良い天気ですね。散歩に行きましょう。' * 3 + '東京の夜は長い。' + ' はい' * 60
  assert prose.words('', text) == text and prose.length('', '今日は良い天気ですね。') == '今日は良い天気ですね。'


def test_short_texts_such_as_facts_pass():
  fact = 'Question: Which module defines the class Fraction?\nAnswer: fractions\n'
  assert all(check('fact.txt', fact) == fact for check in (prose.length, prose.crawled, prose.words, prose.repetition))


@given(st.lists(st.sampled_from(['a', 'bb', 'ccc']), min_size=12, max_size=60), st.sampled_from([2, 5, 10]))
def test_phrases_are_counted_as_plain_loops_count_them(words, n):
  grams = [tuple(words[start : start + n]) for start in range(len(words) - n + 1)]
  covered, top = set(), {}
  for start, gram in enumerate(grams):
    if gram in grams[:start]:
      covered |= set(range(start, start + n))
    top[gram] = top.get(gram, 0) + 1
  lengths, hashes = np.array([len(word) for word in words]), np.array([hash(gram) for gram in grams])
  assert prose._repeated(hashes, lengths, n) == sum(len(words[index]) for index in covered)
  most = max(top.values())
  sizes = [count * len(''.join(gram)) for gram, count in top.items() if count == most > 1]
  assert prose._top(hashes, lengths, n) == max(sizes, default=0)
