"""The tiny corpus: finite, the same from the same seed, written once, and nothing held out is trained on."""

import collections
import dataclasses
import importlib
import itertools
import json
import random
import subprocess
import sys

import pytest

from experiments import chain
from iquest_jax.data import corpus as corpus_lib
from iquest_jax.data import inputs
from iquest_jax.data.documents import Conversation, texts
from iquest_jax.data.executors import Executor
from iquest_jax.data.prepare import prepare
from iquest_jax.data.sources import SOURCES
from iquest_jax.data.tiny import chats, programs, turns
from iquest_jax.data.tiny import corpus as tiny_corpus
from iquest_jax.run_folder import RunFolder
from iquest_jax.text import chat

from tests.data.conftest import SCALE
from tests.run.helpers import files


@pytest.fixture(name='documents', scope='module')
def _documents(corpus):
  """{source: (training documents, held-out documents)}."""
  read = lambda source: (list(corpus.read(corpus.shards(source))), list(corpus.read(corpus.held_out(source))))
  return {source: read(source) for source in corpus.sources}


def test_the_corpus_has_both_splits_of_every_source_that_a_tiny_stage_names(documents):
  named = set()
  for stage in chain.stages_on_rows('tiny_loop'):
    config = importlib.import_module(f'experiments.{stage}').get_config('size=tiny_loop')
    named |= {name for _, weights in config.data.mixture for name, _ in weights}
  assert documents.keys() == named
  for source, (train, held_out) in documents.items():
    assert train and held_out and all(isinstance(document, SOURCES[source].kind) for document in train + held_out)
    ids = [document.id for document in train + held_out]
    assert len(set(ids)) == len(ids)


def test_the_same_seed_gives_the_same_bytes_in_another_process(raw, tmp_path):
  program = f'from iquest_jax.data.tiny import corpus; corpus.write(pathlib.Path(sys.argv[1]), scale={SCALE})'
  subprocess.run([sys.executable, '-c', f'import pathlib, sys; {program}', tmp_path / 'corpus'], check=True)
  # git writes the time into its own files; the commits and all else are equal.
  own = lambda folder: {path: value for path, value in files(folder).items() if '.git/' not in path or '.git/refs/' in path}
  assert own(tmp_path / 'corpus') == own(raw)


def test_a_complete_corpus_is_kept_and_a_partial_one_replaced(tmp_path, monkeypatch):
  folder = tmp_path / 'corpus'
  (tmp_path / 'corpus.partial' / 'stale').mkdir(parents=True)  # left by a killed run
  tiny_corpus.write(folder, scale=0.04)
  written = files(folder)
  assert 'sources.toml' in written and [path.name for path in tmp_path.iterdir()] == ['corpus']
  monkeypatch.setattr(tiny_corpus, '_documents', None)  # nothing is generated again
  tiny_corpus.write(folder, scale=0.04)
  assert files(folder) == written
  assert inputs.load(folder / 'sources.toml').held_out > 0


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
  for sides in documents.values():
    for side, read in enumerate(sides):
      for document in read:
        if isinstance(document, Conversation):
          for turn in _turns(document):
            requests[side].append(turn[0]['content'])
            whole[side].append(chat.rendered(turn[0])[1] + ''.join(chat.rendered(message)[1] for message in turn[1:]))
  assert len(requests[True]) > 50 and len(requests[False]) > 500
  assert not set(whole[True]) & set(whole[False]) and not set(requests[True]) & set(requests[False])


@pytest.mark.long
def test_no_stage_reads_a_source_much_more_than_once(tmp_path):
  run = RunFolder(tmp_path)
  tiny_corpus.write(run.corpus)
  documents = corpus_lib.prepare(run, inputs.load(run.corpus / 'sources.toml'), Executor(workers=2))
  for stage in chain.stages_on_rows('tiny_loop'):
    config = importlib.import_module(f'experiments.{stage}').get_config('size=tiny_loop')
    manifest = prepare(config, run, documents, Executor(workers=2))
    from iquest_jax.data.loader import Loader

    for source, epochs in Loader.of_stage(config, run).epochs(config.train.steps).items():
      assert epochs < 2, (stage, source, manifest['sources'][source])


def test_conversations_use_every_turn_once_and_think_where_asked():
  drawn = turns.distinct(chats.KINDS, random.Random(0), 50)
  for thinking in (False, True):
    conversations = list(turns.conversations(drawn, random.Random(0), longest=2, thinking=thinking))
    messages = list(itertools.chain.from_iterable(conversation.messages for conversation in conversations))
    assert [message['content'] for message in messages[::2]] == [turn.request for turn in drawn]
    assert [message.get('thinking') for message in messages[1::2]] == [turn.thought if thinking else None for turn in drawn]
    assert {len(conversation.messages) for conversation in conversations} == {2, 4}


def test_programs_of_the_splits_are_disjoint_and_none_is_in_a_source(raw, documents):
  read = {}
  for name in ('held_out', 'rl'):
    read[name] = [json.loads(line) for line in (raw / f'small_programs/{name}.jsonl').read_text().splitlines()]
    assert len({problem['id'] for problem in read[name]}) == len(read[name])
    assert {problem['level'] for problem in read[name]} == set(programs.LEVELS)
  asked = {
      text
      for sides in documents.values()
      for document in itertools.chain(*sides)
      for text in texts(document)
      if 'Write a Python function f(' in text
  }
  assert len(asked) > 200
  for problem in (*read['held_out'], *read['rl']):
    assert problem['request'] not in asked
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
    chat = programs.conversation(problem, thinking=True)
    assert chat.messages[1]['content'] == f'```python\n{problem.solution}```' and chat.checks == programs.CHECKS


def test_a_program_that_fails_a_test_never_becomes_a_chat():
  problem = programs.problems(3, 'train', 1)[0]
  given, expected = problem.tests[0]
  for tests in (((given, [expected]), *problem.tests[1:]), ((given, expected),) * 6):
    with pytest.raises(AssertionError):
      programs.conversation(dataclasses.replace(problem, tests=tests), thinking=False)


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
