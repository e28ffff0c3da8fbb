"""The tiny corpus: finite, the same from the same seed, written once, and nothing held out is trained on."""

import collections
import importlib
import itertools
import json
import random
import subprocess
import sys

import pytest

from experiments import chain
from iquest_jax.data import split
from iquest_jax.data.documents import Commit, Conversation, File, texts
from iquest_jax.data.read.jsonl import read_jsonl
from iquest_jax.data.rows.mixture import rows_needed
from iquest_jax.data.sources import SOURCES, check
from iquest_jax.data.tiny import chats, facts, history, programs, reasoning, turns
from iquest_jax.data.tiny import corpus as tiny_corpus
from iquest_jax.text import chat

from tests.run.helpers import files


@pytest.fixture(name='documents', scope='module')
def _documents(corpus):
  return {source: list(read_jsonl(corpus, source)) for source in SOURCES}


def test_the_corpus_has_both_splits_of_every_source_of_the_table(corpus, documents):
  assert sorted(path.name for path in corpus.iterdir()) == sorted([*SOURCES, 'small_programs'])
  for source, read in documents.items():
    assert len(read) > 50 and len({document.id for document in read}) == len(read)
    assert {split.is_held_out(document) for document in read} == {True, False}
    for document in read:
      check(source, document)
      assert ''.join(texts(document)).strip() and str(tiny_corpus.history.CHECKOUT) not in ''.join(texts(document))


def test_the_same_seed_gives_the_same_bytes_in_another_process(corpus, checkout, tmp_path):
  program = (
      'import pathlib, sys; from iquest_jax.data.tiny import corpus;'
      'corpus.write(pathlib.Path(sys.argv[1]), checkout=pathlib.Path(sys.argv[2]))'
  )
  subprocess.run([sys.executable, '-c', program, tmp_path / 'corpus', checkout], check=True)
  assert files(tmp_path / 'corpus') == files(corpus)


def test_a_complete_corpus_is_kept_and_a_partial_one_replaced(tmp_path, monkeypatch):
  document, folder = File('1', 'a.py', 'x = 1'), tmp_path / 'corpus'
  (tmp_path / 'corpus.partial' / 'stale').mkdir(parents=True)  # left by a killed run
  monkeypatch.setattr(tiny_corpus, '_documents', lambda *_: {'code': [document]})
  tiny_corpus.write(folder)
  written = files(folder)
  problems = ['small_programs/held_out.jsonl', 'small_programs/rl.jsonl']
  assert list(written) == ['code/documents.jsonl', *problems] and [path.name for path in tmp_path.iterdir()] == ['corpus']
  monkeypatch.setattr(tiny_corpus, '_documents', None)  # nothing is generated again
  tiny_corpus.write(folder)
  assert files(folder) == written and list(read_jsonl(folder, 'code')) == [document]


def _turns(conversation):
  """Each user message with everything up to the next one."""
  parts = []
  for message in conversation.messages:
    if message['role'] == 'user':
      parts.append([])
    parts[-1].append(message)
  return parts


def test_no_held_out_turn_occurs_in_training(documents):
  requests, whole = collections.defaultdict(list), collections.defaultdict(list)
  for source in SOURCES:
    for document in documents[source]:
      conversation = SOURCES[source].build(document) if source == 'code_edit' else document
      if isinstance(conversation, Conversation):
        side = split.is_held_out(document)
        for turn in _turns(conversation):
          requests[side].append(turn[0]['content'])
          whole[side].append(chat.rendered(turn[0])[1] + ''.join(chat.rendered(message)[1] for message in turn[1:]))
  assert len(requests[True]) > 300 and len(requests[False]) > 5000
  assert not set(whole[True]) & set(whole[False]) and not set(requests[True]) & set(requests[False])


def test_no_commit_of_the_corpus_repeats_the_change_of_another(documents):
  for source in ('commits', 'code_edit'):
    changes = [(commit.message, commit.patch.partition('\n@@')[2]) for commit in documents[source]]
    assert len(set(changes)) == len(changes)
  assert all(history.is_edit(commit) for commit in documents['code_edit'])
  assert set(documents['code_edit']) < set(documents['commits'])


def test_commits_of_the_checkout_come_first(documents, checkout, tmp_path):
  own = history.commits(seed=1, count=20, checkout=checkout)
  assert own == documents['commits'][:20]
  generated = history.commits(seed=1, count=20, checkout=tmp_path)  # not a checkout
  assert len(generated) == 20 and generated != own and all(isinstance(commit, Commit) for commit in generated)


def _characters(document):
  if isinstance(document, Conversation):
    return sum(len(part) for part, _ in chat.segments(document.messages) if isinstance(part, str))
  return sum(map(len, texts(document)))


@pytest.mark.parametrize('stage', chain.stages('tiny_loop'))
def test_no_stage_reads_a_source_much_more_than_once(documents, stage):
  """A tiny tokenizer makes at least one token of four characters."""
  config = importlib.import_module(f'experiments.{stage}').get_config('size=tiny_loop')
  for source, rows in rows_needed(config.data.mixture, config.train.steps, config.train.batch_rows).items():
    train = split.select(iter(documents[source]), 'train', config.data.buckets)
    assert rows * config.data.context < 2 * sum(map(_characters, train)) / 4, source


def test_facts_are_true_and_have_one_answer():
  answers = {}
  for document in facts.facts(0):
    question, answer = document.text.strip().split('\n')
    assert answers.setdefault(question, answer) == answer
  assert answers['Question: What is the default of sort_keys in json.dumps?'] == 'Answer: False'
  assert answers['Question: What is the first parameter of textwrap.indent?'] == 'Answer: text'


def test_reasoning_answers_are_correct():
  checked = 0
  for turn in turns.distinct(reasoning.KINDS, random.Random(1), 300):
    if turn.request.startswith('What is ') and '```' not in turn.request:
      expression = turn.request.removeprefix('What is ').removesuffix('?').removesuffix(' in Python')
      assert turn.answer == str(eval(expression))  # arithmetic written by the module
      assert reasoning.worked(turn).answer.endswith(f'\nAnswer: {turn.answer}')
      checked += 1
  assert checked > 100


def test_conversations_use_every_turn_once_and_think_where_asked():
  drawn = turns.distinct(chats.KINDS, random.Random(0), 50)
  for thinking in (False, True):
    conversations = list(turns.conversations(drawn, random.Random(0), longest=2, thinking=thinking))
    messages = list(itertools.chain.from_iterable(conversation.messages for conversation in conversations))
    assert [message['content'] for message in messages[::2]] == [turn.request for turn in drawn]
    assert [message.get('thinking') for message in messages[1::2]] == [turn.thought if thinking else None for turn in drawn]
    assert {len(conversation.messages) for conversation in conversations} == {2, 4}


def test_programs_of_the_splits_are_disjoint_and_none_is_in_a_source(corpus, documents):
  read = {}
  for name in ('held_out', 'rl'):
    read[name] = [json.loads(line) for line in (corpus / f'small_programs/{name}.jsonl').read_text().splitlines()]
    assert len({problem['id'] for problem in read[name]}) == len(read[name])
    assert {problem['level'] for problem in read[name]} == {1, 2, 3}
  asked = {
      text
      for source in SOURCES
      for document in documents[source]
      for text in texts(document)
      if 'Write a Python function f(' in text
  }
  assert len(asked) > 2500
  specifications = {text.rpartition('\n')[2] for text in asked}
  for problem in (*read['held_out'], *read['rl']):
    assert problem['request'] not in asked
    assert problem['level'] == 1 or problem['request'].rpartition('\n')[2] not in specifications
  kept = [{problem['request'] for problem in problems} for problems in read.values()]
  assert not kept[0] & kept[1]


def test_programs_have_examples_apart_from_their_tests():
  for problem in programs.problems(3, 'train', 200):
    *examples, specification = problem.request.split('\n')
    assert len(examples) == 2 and len(problem.tests) == programs.TESTS
    argument = specification.partition('f(')[2].partition(')')[0]
    for given, expected in problem.tests:
      assert not any(example.startswith(f'f({given!r}) ==') for example in examples)
      assert eval(problem.expression, {argument: given}) == expected  # of this project
    assert len({repr(expected) for _, expected in problem.tests}) > 1  # no constant passes
    assert problem.turn.answer == f'```python\n{problem.solution}```'


@pytest.mark.parametrize(
    ('words', 'argument', 'given', 'expected'),
    [
        ('twice x', 'x', 7, 14),
        ('the absolute value of x', 'x', -3, 3),
        ('xs in reverse', 'xs', [1, 2], [2, 1]),
        ('s in capitals', 's', 'Ab', 'AB'),
        ('the largest of xs', 'xs', [3, 9, 4], 9),
        ('whether x is even', 'x', 3, False),
    ],
)
def test_a_program_returns_what_its_specification_says(words, argument, given, expected):
  found = {problem.request.partition(' returns ')[2]: problem for problem in programs.problems(5, 'rl', 400)}
  assert eval(found[f'{words}.'].expression, {argument: given}) == expected  # of this project
