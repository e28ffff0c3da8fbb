"""Documents of every kind pass the checks of their texts, and what they carry beside texts loses its secrets."""

import collections
import dataclasses

import pytest

from iquest_jax.data.clean import documents
from iquest_jax.data.documents import Conversation, Drop, Fact, Parallel, Problem

KEY = 'AKIA' + 'QWERTYUIOPASDFG7'
TESTS = ({'input': f'["{KEY}"]', 'output': '1'},)
CARRYING = (
    Problem('p', 'Say it.', TESTS, 'def f(x):\n  return 1\n', 'f'),
    Conversation('c', ({'role': 'user', 'content': 'Hi.'}, {'role': 'assistant', 'content': 'Hello.'}), tests=TESTS),
    Parallel('q', (('python', 'def f(x):\n  return 1\n'), ('go', 'func f(x string) int { return 1 }\n')), TESTS, 'f'),
)


def clean(document):
  return documents.clean(document, True, ('MIT', ''), collections.Counter())


@pytest.mark.parametrize('document', CARRYING, ids=lambda document: type(document).__name__)
def test_tests_lose_their_secrets_and_nothing_else_changes(document):
  cleaned = clean(document)
  assert KEY not in str(cleaned.tests) and cleaned.tests[0]['output'] == '1'
  assert dataclasses.replace(cleaned, tests=document.tests) == document


def test_facts_and_sides_are_repaired_or_dropped_as_a_whole():
  fact = clean(Fact('f', f'What is the key {KEY}?', 'none', checks=('one answer',)))
  assert KEY not in fact.question and fact.checks == ('one answer',)
  sides = (('python', 'x = 1\n'), ('go', 'x' * 20_000_000))
  assert isinstance(clean(Parallel('p', sides, TESTS)), Drop)
