"""Facts that are wrong, ambiguous, dated or out of context are rejected, all of them, whoever made them."""

import dataclasses

import pytest

from iquest_jax.data.build.facts import python, questions, trees
from iquest_jax.data.build.facts.verify import verify
from iquest_jax.data.documents import Drop, Fact

from tests.data.facts_sources import SOURCES
from tests.data.test_facts import REPO, everything

PLACE = f'the file `{{path}}` of the repository `{REPO}`'


def ask(question, answer, path='a.py'):
  return Fact('0', question.replace('PLACE', PLACE.format(path=path)), answer, path, REPO)


def rule(fact, source):
  found = verify(fact, source)
  return found.rule if isinstance(found, Drop) else None


def test_every_fact_with_the_answer_of_another_is_rejected():
  tried = 0
  for path, source in SOURCES.items():
    true = [made for _, made in everything(source, path) if isinstance(made, Fact)]
    answers = {made.answer for made in true} | {'0', '1', '2', 'None', 'wrong', 'int', 'ValueError', 'a, b', ''}
    for fact in true:
      for answer in answers - {fact.answer}:
        assert isinstance(verify(dataclasses.replace(fact, answer=answer), source), Drop), (fact.question, answer)
        tried += 1
  assert tried > 3000


SIGNATURE = '''
def area(width, height=2, *, unit: str = 'm') -> float:
  """Returns the area."""
  if height < 0:
    raise ValueError(height)
  return width * height
'''


@pytest.mark.parametrize(
    ('question', 'wrong', 'right'),
    [
        ('What is the default value of the parameter `height` of the function `area` in PLACE?', '3', '2'),
        ('What is the default value of the parameter `height` of the function `area` in PLACE?', "'m'", '2'),
        ('In PLACE, what does the parameter `unit` of the function `area` default to?', '"m"', "'m'"),
        ('How many parameters does the function `area` in PLACE have?', '2', '3'),
        ('List the parameters of the function `area` in PLACE in the order of their declaration.', 'width, unit, height',
         'width, height, unit'),
        ('In PLACE, what is the second parameter of the function `area` called?', 'width', 'height'),
        ('What is the declared type of the parameter `unit` of the function `area` in PLACE?', 'float', 'str'),
        ('What is the declared return type of the function `area` in PLACE?', 'str', 'float'),
        ('In PLACE, which exception does the function `area` raise in its own body?', 'TypeError', 'ValueError'),
        ('What does the function `area` in PLACE return, according to its documentation?', 'the width', 'the area'),
    ],
)  # fmt: skip
def test_a_wrong_answer_is_rejected_and_the_right_one_is_not(question, wrong, right):
  assert questions.read(ask(question, wrong).question)
  assert rule(ask(question, right), SIGNATURE) is None
  assert rule(ask(question, wrong), SIGNATURE) in ('fact: wrong answer', 'fact: answer not in the source')


COUNT = 'How many parameters does the {} in PLACE have?'
RAISES = 'In PLACE, which exception does the {} raise in its own body?'


@pytest.mark.parametrize(
    ('path', 'source', 'subject'),
    [
        ('a.py', 'if x:\n  def f(a): pass\nelse:\n  def f(a, b): pass\n', 'function `f`'),
        ('a.py', 'try:\n  from b import f\nexcept ImportError:\n  def f(a): pass\n', 'function `f`'),
        ('a.py', 'from b import (\n  e,\n  f,\n)\ndef f(a): pass\n', 'function `f`'),
        ('a.py', 'def f(a): pass\nf = g(f)\n', 'function `f`'),
        ('a.py', 'def f(a): pass\ndef g():\n  global f\n  f = 2\n', 'function `f`'),
        ('a.py', 'def f(a): pass\nfor f in range(3): pass\n', 'function `f`'),
        ('a.py', '@overload\ndef f(a: int): ...\n@overload\ndef f(a: str): ...\ndef f(a): pass\n', 'function `f`'),
        ('a.py', 'class A:\n  def f(a): pass\nclass A:\n  def f(a, b): pass\n', 'method `A.f`'),
        ('a.js', 'function f(a) {}\nfunction f(a, b) {}\n', 'function `f`'),
        ('a.js', 'let f = (a) => a;\nf = (a, b) => b;\n', 'function `f`'),
        ('a.js', 'class A { f(a) {} }\nA.prototype.f = function (a, b) {};\n', 'method `A.f`'),
        ('a.ts', 'function f(a: number): void;\nfunction f(a: string): void;\n', 'function `f`'),
        ('A.java', 'class A { void f(int a) {}\n void f(String a) {} }', 'method `A.f`'),
        ('A.java', 'class A { public<T> int f(int a) {}\n int f(String a) {} }', 'method `A.f`'),
        ('A.java', 'class A { int f(int a) {}\n strange:: int f(String a) {} }', 'method `A.f`'),
        ('a.go', 'package a\nfunc (a *A) f(b int) {}\nfunc (a A) f(b, c int) {}\n', 'method `A.f`'),
    ],
)
def test_a_question_that_two_definitions_answer_is_rejected(path, source, subject):
  assert rule(ask(COUNT.format(subject), '1', path), source) == 'fact: two answers'


@pytest.mark.parametrize(
    ('path', 'source'),
    [
        ('a.py', 'class A:\n  def f(self): pass\nclass B:\n  def f(self): pass\n'),
        ('a.py', 'class A:\n  def f(self): pass\ndef f(): pass\n'),
        ('a.js', 'class A { f() {} }\nclass B { f() {} }\n'),
        ('a.js', 'class A { f() {} }\nfunction f() {}\n'),
    ],
)
def test_a_method_of_two_classes_has_no_owner(path, source):
  assert rule(ask('Which class in PLACE defines the method `f`?', 'A', path), source) == 'fact: two answers'


@pytest.mark.parametrize(
    ('path', 'source', 'subject'),
    [
        ('a.py', 'def f(a):\n  raise g\n  raise E(1)\n', 'function `f`'),
        ('a.py', 'def f(a):\n  try:\n    raise E(1)\n  except E: pass\n', 'function `f`'),
        ('a.py', 'def f(a):\n  def g():\n    raise E(1)\n', 'function `f`'),
        ('a.py', 'def f(a):\n  "raise E(1)"\n  # raise E(1)\n', 'function `f`'),
        ('a.py', 'def f(a):\n  if a: raise T(1)\n  raise E(1)\n', 'function `f`'),
        ('a.js', 'function f(a) { const g = () => { throw new E(1); }; }', 'function `f`'),
        ('a.js', 'function f(a) { try { throw new E(1); } catch (e) {} }', 'function `f`'),
        ('a.js', 'function f(a) { throw a; throw new E(1); }', 'function `f`'),
        ('A.java', 'class A { void f() { /* throw new E(1); */ } }', 'method `A.f`'),
        ('A.java', 'class A { void f() { g(new R() { void run() { throw new E(1); } }); } }', 'method `A.f`'),
    ],
)
def test_an_exception_that_may_not_reach_the_caller_is_no_answer(path, source, subject):
  assert rule(ask(RAISES.format(subject), 'E', path), source) == 'fact: wrong answer'


@pytest.mark.parametrize(
    ('source', 'subject', 'answer'),
    [
        ("VERSION = '3'\n", 'VERSION', "'3'"),
        ("API = '1.2.3'\n", 'API', "'1.2.3'"),
        ("SINCE = '2024-01-31'\n", 'SINCE', "'2024-01-31'"),
        ("LAST_UPDATED = 'x'\n", 'LAST_UPDATED', "'x'"),
        ('COPYRIGHT_YEAR = 2024\n', 'COPYRIGHT_YEAR', '2024'),
        ("STAMP = 'Mar 3, 2024'\n", 'STAMP', "'Mar 3, 2024'"),
    ],
)
def test_a_value_that_changes_with_time_is_rejected(source, subject, answer):
  assert rule(ask(f'What is the value of the constant `{subject}` in PLACE?', answer), source) == 'fact: changes with time'


def test_numbers_that_only_look_like_a_year_or_a_version_are_kept():
  for value in ('2000', '1.5', '0x100000', "'127.0.0.1'"):
    fact = ask('What is the value of the constant `LIMIT` in PLACE?', value)
    assert rule(fact, f'LIMIT = {value}\n') is None


@pytest.mark.parametrize(
    ('path', 'source', 'subject'),
    [
        ('a.py', 'def f(a):\n  """Deprecated: use g."""\n', 'function `f`'),
        ('a.py', '@deprecated("x")\ndef f(a): pass\n', 'function `f`'),
        ('a.js', '/** @deprecated */\nfunction f(a) {}\n', 'function `f`'),
        ('A.java', 'class A {\n  @Deprecated\n  void f(int a) {}\n}\n', 'method `A.f`'),
        ('a.go', 'package a\n\n// Deprecated: use g.\nfunc f(a int) {}\n', 'function `f`'),
    ],
)
def test_what_is_deprecated_is_not_asked_about(path, source, subject):
  assert rule(ask(COUNT.format(subject), '1', path), source) == 'fact: changes with time'


SOURCE = """
class Cache:
  # Entries are kept for 30 seconds, and the least recently used one is evicted first. Since version 2 this is fixed.
  def get(self, key, default=None):
    return self.entries.get(key, default)  # a dict, <Cache object at 0x7f12>
"""
POINTS = 'fact: points at what is not shown'
FREE = 'For how long are entries of the class Cache in a.py of owner/project kept?'


def test_a_free_question_passes_the_general_checks_alone():
  assert questions.read(FREE) is None
  kept = verify(ask(FREE, '30 seconds'), SOURCE)
  assert kept.checks and 'answer in source' in kept.checks and 'second reading' not in kept.checks
  assert rule(ask(FREE.replace('a.py', 'pack.cache'), '30 seconds', 'pack/cache.py'), SOURCE) is None


@pytest.mark.parametrize(
    ('question', 'answer', 'expected'),
    [
        (FREE, '40 seconds', 'fact: answer not in the source'),
        (FREE, '0 seconds', 'fact: answer not in the source'),
        (FREE, '', 'fact: empty'),
        ('', '30 seconds', 'fact: empty'),
        (FREE, '30 seconds\n', 'fact: more than one line'),
        (FREE, 'x' * 500, 'fact: too long'),
        (FREE + ' Please.' * 100, '30 seconds', 'fact: too long'),
        (FREE.replace('?', ', if not 30 seconds?'), '30 Seconds', 'fact: answer in the question'),
        (FREE.replace('are entries', 'are currently entries'), '30 seconds', 'fact: changes with time'),
        (FREE.replace('kept?', 'kept as of today?'), '30 seconds', 'fact: changes with time'),
        ('Which version fixed the class Cache in a.py of owner/project?', '2', 'fact: changes with time'),
        (FREE, 'Since version 2', 'fact: changes with time'),
        (FREE, '<Cache object at 0x7f12>', 'fact: address or object'),
        ('For how long does Cache in owner/project keep entries?', '30 seconds', 'fact: does not name its file'),
        ('For how long does Cache in a.py keep entries?', '30 seconds', 'fact: does not name its repository'),
        ('For how long are entries kept in a.py of owner/project?', '30 seconds', 'fact: names nothing in its file'),
        ('In a.py, for how long are entries of this class, Cache, kept?', '30 seconds', POINTS),
        ('In a.py, for how long does the code above keep entries of Cache?', '30 seconds', POINTS),
    ],
)
def test_a_free_question_is_rejected_if_it_breaks_a_general_rule(question, answer, expected):
  assert rule(ask(question, answer), SOURCE) == expected


def test_a_question_of_another_file_or_repository_is_rejected():
  fact = ask('How many parameters does the function `area` in PLACE have?', '3')
  assert rule(fact, SIGNATURE) is None
  assert rule(dataclasses.replace(fact, path='b.py'), SIGNATURE) == 'fact: names another file'
  assert rule(dataclasses.replace(fact, repo='other/project'), SIGNATURE) == 'fact: names another file'


def test_a_name_that_is_not_defined_or_everywhere_is_rejected():
  question = 'How many parameters does the function `volume` in PLACE have?'
  mentions = '# def volume(a, b, c): pass\n"def volume(a, b, c): pass"\n'
  assert rule(ask(question, '3'), SIGNATURE + mentions) == 'fact: subject not found'
  assert rule(ask(question, '1'), 'def volume(a): pass\n' + 'volume(1)\n' * 2000) == 'fact: mentioned too often'


def test_a_fault_of_an_extractor_lets_no_wrong_fact_through(monkeypatch):
  """Each extractor is made to read parameters in the wrong order: what it then asks about order is rejected."""
  monkeypatch.setattr(python, 'zip', lambda first, second: zip(first, list(second)[::-1]), raising=False)
  read = trees._Reading._parameters
  monkeypatch.setattr(trees._Reading, '_parameters', lambda self, node: reversed(list(read(self, node))))
  for path, source in SOURCES.items():
    true = {fact.question: fact.answer for _, fact in TRUE[path]}
    made = [(candidate, fact) for candidate, fact in everything(source, path) if candidate.kind in ('position', 'default')]
    assert any(isinstance(fact, Drop) for _, fact in made)
    for _, fact in made:
      assert isinstance(fact, Drop) or true[fact.question] == fact.answer


TRUE = {
    path: [(candidate, fact) for candidate, fact in everything(source, path) if isinstance(fact, Fact)]
    for path, source in SOURCES.items()
}


def test_every_kind_of_question_is_made_of_some_source():
  assert {candidate.kind for found in TRUE.values() for candidate, _ in found} == set(questions.KINDS)
