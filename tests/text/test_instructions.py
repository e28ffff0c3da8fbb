"""Instructions: every check tells texts apart that differ by little, and what is drawn together can be kept together."""

import itertools
import json
import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iquest_jax.errors import UserError
from iquest_jax.text import checks, instructions
from iquest_jax.text.instructions import CHECKS

from tests.rl import answer_writer

REQUEST = 'Describe a river, a stone and very old music.'


def drawn(seed, count=5):
  return instructions.sample(random.Random(seed), REQUEST, count)


@pytest.mark.parametrize(('instruction', 'keeping', 'breaking'), answer_writer.EDGES, ids=lambda one: str(one)[:40])
def test_a_check_holds_for_texts_that_keep_to_it_and_for_no_others(instruction, keeping, breaking):
  assert [text for text in keeping if not instructions.holds(instruction, text)] == []
  assert [text for text in breaking if instructions.holds(instruction, text)] == []


def test_every_check_has_texts_on_both_sides():
  named = {instruction['check'] for instruction, keeping, breaking in answer_writer.EDGES if keeping and breaking}
  assert named == set(CHECKS)
  assert len(CHECKS) >= 20


def test_a_text_keeps_to_whatever_is_drawn_together():
  """The writer is independent of the checks."""
  seen = set()
  for seed in range(1500):
    together = drawn(seed)
    text = answer_writer.keeping(together)
    broken = [one for one in together if not instructions.holds(one, text)]
    assert not broken and instructions.satisfied(together, text) == 1, (seed, together, text)
    seen.update(map(frozenset, itertools.combinations(sorted(one['check'] for one in together), 2)))
  fitting = [pair for pair in itertools.combinations(sorted(CHECKS), 2) if not instructions.contradict(*pair)]
  assert len(seen) > 0.9 * len(fitting) > 150


@pytest.mark.parametrize(
    ('name', 'other'),
    [
        ('lower_case', 'upper_case'), ('begins_with', 'quoted'), ('begins_with', 'lower_case'), ('lines', 'least_words'),
        ('json_object', 'bullets'), ('one_of', 'least_words'), ('script', 'keywords'), ('code_block', 'no_code_block'),
        ('repeats', 'forbidden'), ('repeats', 'no_commas'), ('capital_words', 'lower_case'), ('title', 'repeats'),
        ('ends_with', 'postscript'), ('lines', 'bullets'), ('lower_case', 'lower_case'), ('postscript', 'upper_case'),
    ],
)  # fmt: skip
def test_contradictory_instructions_are_never_drawn_together(name, other):
  assert instructions.contradict(name, other) and instructions.contradict(other, name)
  assert all(len(instructions.sample(random.Random(seed), REQUEST, 2, (name, other))) == 1 for seed in range(20))


def test_what_is_drawn_follows_from_the_random_numbers_and_is_json():
  assert drawn(3) == drawn(3) and len({json.dumps(drawn(seed)) for seed in range(100)}) > 95
  for seed in range(100):
    assert all(instructions.problem_of(one) == '' for one in json.loads(json.dumps(drawn(seed))))
  some = instructions.sample(random.Random(0), REQUEST, 3, ('bold', 'title'))
  assert sorted(one['check'] for one in some) == ['bold', 'title']


def test_a_request_states_every_argument():
  for seed in range(200):
    for one in drawn(seed):
      sentence = instructions.rendered([one])
      assert '\n' not in sentence and '{' not in sentence
      for value in one.values():
        words = value if isinstance(value, (list, dict)) else [str(value)] if value != one['check'] else []
        assert all(str(word) in sentence for word in words), sentence
  assert instructions.rendered(drawn(0)).count('\n') == len(drawn(0)) - 1


def test_the_share_of_kept_instructions_is_the_reward():
  both = [{'check': 'most_words', 'count': 2}, {'check': 'no_commas'}]
  assert [instructions.satisfied(both, text) for text in ('a b', 'a, b', 'a, b c')] == [1, 0.5, 0]


@settings(max_examples=60)
@given(st.text(st.sampled_from('aB1 .,!?\n-*#"<>`~{}[]:é漢P.S'), max_size=40), st.integers(0, 10**6))
def test_no_text_breaks_a_check(text, seed):
  for name, check in CHECKS.items():
    arguments = check.draw(random.Random(seed), REQUEST)
    assert instructions.holds({'check': name, **arguments}, text) in (True, False)


@pytest.mark.parametrize(
    'piece',
    ['.', '!?', '\n', '\n ', '<<a', '**', '"', ' ', '- ', '```', 'P.S.', 'P.S.\n', '# ', '1. ', 'a, ', '[', '\ud800'],
)
def test_checks_take_linear_time(piece):
  """Texts of 200,000 characters that a careless pattern would read again from each of them."""
  text = f'a{(piece * 200_000)[:200_000]}a'
  start = time.process_time()
  for name, check in CHECKS.items():
    instructions.holds({'check': name, **check.draw(random.Random(0), REQUEST)}, text)
  assert time.process_time() - start < 3


@pytest.mark.parametrize(
    ('instruction', 'said'),
    [
        ({'check': 'most_word', 'count': 3}, "instruction 'most_word' does not exist"),
        ({'count': 3}, 'instruction None does not exist'),
        ({'check': ['most_words']}, "instruction ['most_words'] does not exist"),
        ({'check': 'most_words'}, 'instruction most_words takes count, got none'),
        ({'check': 'title', 'text': 'a'}, 'instruction title takes no arguments, got text'),
        ({'check': 'most_words', 'count': '3'}, "count must be of type int and not empty, got '3'"),
        ({'check': 'most_words', 'count': True}, 'count must be of type int and not empty, got True'),
        ({'check': 'most_words', 'count': -1}, 'count must be at least 0, got -1'),
        ({'check': 'keywords', 'words': []}, 'words must be of type list and not empty, got []'),
        ({'check': 'keywords', 'words': ['a', 3]}, "words must be a list of strings, got ['a', 3]"),
        ({'check': 'begins_with', 'phrase': ''}, "phrase must be of type str and not empty, got ''"),
        ({'check': 'script', 'name': 'Elvish'}, 'got "Elvish"'),
        ({'check': 'json_fields', 'fields': {'a': 'date'}}, "got 'date'"),
        ({'check': 'json_fields', 'fields': {'a': []}}, 'got []'),
    ],
)
def test_a_malformed_instruction_is_named(instruction, said):
  assert said in instructions.problem_of(instruction)
  with pytest.raises(UserError, match='fix the prompt or leave it out'):
    instructions.holds(instruction, 'a')


def test_every_script_is_told_from_the_others():
  words = answer_writer._WORDS
  assert set(words) == set(checks.SCRIPTS)
  for name, word in words.items():
    held = {other for other in words if checks.script(word, other)}
    assert held == ({name, 'Japanese'} if name == 'Chinese' else {name})
