"""What is made, generated or carries tests enters only with a check that it passed, and the manifest says which."""

import collections
import json
import shutil

import pytest

from iquest_jax.data import corpus, inputs, prepare, produced
from iquest_jax.data.documents import Conversation, Fact, Parallel, Problem, to_json
from iquest_jax.data.executors import Executor
from iquest_jax.data.funnel import Funnel
from iquest_jax.data.tiny import history
from iquest_jax.errors import UserError
from iquest_jax.run_folder import RunFolder

from tests.data.small_stage import stage
from tests.data.test_corpus import hashes

SOURCES = """
seed = 3
held_out = 2

[[input]]
name = "facts"
read = "git"
path = "repositories"
make = "facts"
sources = ["facts"]
near = false

[[input]]
name = "functions"
read = "git"
path = "repositories"
make = "reasoning"
sources = ["reasoning_qa"]
near = false

[[input]]
name = "programs"
read = "generated"
generator = "programs"
count = 30
thinking = true
sources = ["reasoning_thinking"]
near = false

[[input]]
name = "given"
read = "documents"
path = "given.jsonl"
sources = ["facts", "problems", "chat_instruct", "parallel"]
filter = false
near = false

[[input]]
name = "synthesised"
read = "documents"
path = "synthesised.jsonl"
sources = ["chat_instruct", "facts"]
near = false
"""
MODULE = '''"""Helpers of a shop."""


def price_{n}(amount, rate=0.{n}, rounded=True):
  """Returns the price of an amount."""
  total = amount
  for _ in range({n}):
    total = total + 2
  return total if rounded else total - 1


class Basket{n}:
  """What a customer takes."""

  def add(self, name, count={n}):
    """Raises ValueError if the count is below 1."""
    if count < 1:
      raise ValueError(name)
    return name * count
'''
TESTS = tuple({'input': json.dumps([x]), 'output': json.dumps(x * 3 + 1)} for x in (0, 1, 2, 5, 9, 20))
RIGHT, WRONG = 'def f(x):\n  return x * 3 + 1\n', 'def f(x):\n  return x * 3 + (x < 9)\n'
STATEMENT = 'Write a function f that triples a number and adds one. For example, f(0) is 1.'


def _answer(code):
  return ({'role': 'user', 'content': STATEMENT}, {'role': 'assistant', 'content': f'```python\n{code}```'})


GIVEN = (
    Fact('claimed', 'What is two?', '99', checks=('I promise',)),
    Fact('unchecked', 'What is five?', '6'),
    Problem('right', STATEMENT, TESTS, RIGHT, 'f'),
    Problem('wrong', STATEMENT + ' Twice.', TESTS, WRONG, 'f'),
    Problem('anything', STATEMENT + ' Thrice.', ({'input': '[1]', 'output': 'null'},) * 3, 'def f(x):\n  pass\n', 'f'),
    Conversation('right chat', _answer(RIGHT), tests=TESTS, function='f'),
    Conversation('wrong chat', _answer(WRONG), tests=TESTS, function='f'),
    Conversation('no tests', ({'role': 'user', 'content': 'Hi.'}, {'role': 'assistant', 'content': 'Hello.'})),
    Parallel('pair', (('python', RIGHT), ('javascript', 'function f(x) {\n  return x * 3 + 1;\n}\n')), TESTS, 'f'),
    Parallel('wrong pair', (('python', RIGHT), ('javascript', 'function f(x) {\n  return x;\n}\n')), TESTS, 'f'),
)  # fmt: skip
PLANTED = {'claimed', 'unchecked', 'wrong', 'anything', 'wrong chat', 'wrong pair'}
PLANTED |= set() if shutil.which('node') else {'pair'}


@pytest.fixture(name='sources', scope='module')
def _sources(tmp_path_factory):
  folder = tmp_path_factory.mktemp('making')
  for number in range(2, 5):
    repository = folder / 'repositories' / f'shop{number}'
    repository.mkdir(parents=True)
    history.repository(repository, [('Add a shop', {'shop.py': MODULE.format(n=number)})])
  (folder / 'given.jsonl').write_text(''.join(f'{to_json(document)}\n' for document in GIVEN))
  made = [Conversation(f's{n}', _answer(f'{n}\n'), checks=('judged: 3 of 3',)) for n in range(4)]
  made.append(Fact('s5', 'What is three?', '3', checks=('computed',)))
  content = ''.join(f'{to_json(document)}\n' for document in made)
  (folder / 'synthesised.jsonl').write_text(content)
  funnel = Funnel(7, 5, collections.Counter({'judges: rejected': 2}))
  produced.report_path(folder / 'synthesised.jsonl').write_text(json.dumps(produced.report(content, funnel)))
  (folder / 'sources.toml').write_text(SOURCES)
  return folder / 'sources.toml'


@pytest.fixture(name='prepared', scope='module')
def _prepared(sources, tmp_path_factory):
  run = RunFolder(tmp_path_factory.mktemp('corpus'))
  return run, corpus.prepare(run, inputs.load(sources), Executor(workers=2))


def _documents(prepared):
  return [
      document for source, groups in prepared.sources.items() if groups
      for shards in (prepared.shards(source), prepared.held_out(source)) for document in prepared.read(shards)
  ]  # fmt: skip


def test_whatever_is_made_or_carries_tests_passed_a_check(prepared):
  documents = _documents(prepared[1])
  for kind in (Fact, Problem, Conversation):
    assert any(isinstance(document, kind) for document in documents)
  for document in documents:
    assert document.checks or document.id == 'no tests', document
  facts = [document for document in documents if isinstance(document, Fact) and document.repo]
  assert {fact.repo for fact in facts} == {f'shop{number}' for number in range(2, 5)}
  assert all(fact.answer in MODULE.format(n=fact.repo[-1]) or fact.answer.isdigit() for fact in facts)
  assert sum(document.difficulty != '' for document in documents if isinstance(document, Conversation)) > 25


def test_planted_wrong_documents_are_rejected_and_counted(prepared):
  left = {document.id for document in _documents(prepared[1])}
  assert left >= {document.id for document in GIVEN} - PLANTED and not left & PLANTED
  funnels = {step: Funnel.from_json(funnel) for step, funnel in prepared[1].report['funnels'].items()}
  for funnel in funnels.values():
    funnel.check()
  assert funnels['given: verify'].read == len(GIVEN) - 1 and funnels['given: verify'].drops.total() == len(PLANTED)
  assert funnels['given: verify'].drops['fact: not checked'] == 2 and 's5' in left
  assert funnels['facts: make'].kept >= 3 and funnels['facts: make'].seen['documents that others were made of'] == 3
  assert funnels['functions: make'].kept > 4 and funnels['programs: read'].kept > 25
  assert funnels['synthesised: synthesis'].drops == {'judges: rejected': 2}


@pytest.mark.parametrize('workers', [1, 3])
def test_what_is_made_has_the_same_bytes_at_any_width(sources, prepared, tmp_path, workers):
  again = corpus.prepare(RunFolder(tmp_path), inputs.load(sources), Executor(workers=workers))
  assert hashes(again) == hashes(prepared[1])


def test_the_manifest_says_what_was_made_rejected_and_checked(prepared):
  run, documents = prepared
  mixture = ((0, tuple((source, 1.0) for source in ('facts', 'reasoning_thinking', 'chat_instruct'))),)
  config = stage(data__mixture=mixture, data__context=512)
  manifest = prepare.prepare(config, run, documents, Executor(workers=1))
  train = {source: splits['train'] for source, splits in manifest['sources'].items()}
  assert train['facts']['made']['facts: make']['kept'] >= 3
  assert train['chat_instruct']['made'].keys() == {'given: verify', 'synthesised: synthesis', 'synthesised: verify'}
  assert train['chat_instruct']['made']['given: verify']['drops']
  checks = {source: splits['segments'][0]['checks'] for source, splits in train.items()}
  assert checks['chat_instruct']['judged: 3 of 3'] >= 2 and all(checks.values())


def test_checks_are_believed_only_of_a_file_that_is_as_it_was_made(sources, tmp_path):
  shutil.copytree(sources.parent, tmp_path / 'changed')
  with open(tmp_path / 'changed' / 'synthesised.jsonl', 'a') as file:
    file.write(to_json(Fact('added', 'What is four?', '5', checks=('computed',))) + '\n')
  text = SOURCES.partition('[[input]]')[0] + '[[input]]' + SOURCES.rpartition('[[input]]')[2]
  (tmp_path / 'changed' / 'sources.toml').write_text(text)
  again = corpus.prepare(RunFolder(tmp_path), inputs.load(tmp_path / 'changed' / 'sources.toml'), Executor(workers=1))
  assert not any(isinstance(document, Fact) or document.checks for document in _documents(again))
  (tmp_path / 'changed' / 'synthesised.funnel.json').write_text('{"funnel": {"read": 3}}')
  with pytest.raises(UserError, match='synthesised.funnel.json is damaged .* make the documents again, or remove it'):
    corpus.prepare(RunFolder(tmp_path), inputs.load(tmp_path / 'changed' / 'sources.toml'), Executor(workers=1))
