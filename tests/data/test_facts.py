"""Facts: what is made of a file is true, has one answer, and was confirmed by a second reading that can say no."""

import ast
import collections
import functools
import importlib
import inspect
import pathlib
import random
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iquest_jax.data import syntax
from iquest_jax.data.build.facts import make, python, questions, trees
from iquest_jax.data.build.facts.candidates import Candidate
from iquest_jax.data.build.facts.questions import Question
from iquest_jax.data.build.facts.verify import verify
from iquest_jax.data.documents import Drop, Fact, File, from_json, to_json
from iquest_jax.data.format import fact as fact_format
from iquest_jax.data.languages import PARSED, language_of
from iquest_jax.text import tokenizer
from iquest_jax.text.example import SpecialToken

from tests.data.facts_sources import SOURCES, truth

REPO = 'owner/project'
PATHS = {'python': 'a.py', 'javascript': 'a.js', 'typescript': 'a.ts', 'java': 'a.java', 'go': 'a.go'}


def file(text, path='a.py', repo=REPO):
  return File(f'{path}#0', path, text, repo)


def as_fact(candidate, path, number=0):
  question = Question(
      candidate.kind, candidate.noun, candidate.subject, path, REPO, candidate.detail, candidate.receiver
  )
  return Fact('0', questions.phrase(question, number), candidate.answer, path, REPO)


def everything(text, path):
  """(candidate, what became of it) of all that could be asked about a file, without the limits per file."""
  language = language_of(path)
  found = python.definitions(text) if language == 'python' else trees.definitions(text, language)
  return [(c, verify(as_fact(c, path), text)) for definition in found for c in definition()]


def row(candidate):
  return candidate.kind, candidate.noun, candidate.subject, candidate.detail, candidate.answer


@pytest.mark.parametrize('path', SOURCES)
def test_a_source_gives_exactly_the_facts_that_are_true_and_unambiguous(path):
  kept = {row(candidate) for candidate, made in everything(SOURCES[path], path) if isinstance(made, Fact)}
  assert kept == truth(path)


@pytest.mark.parametrize('path', SOURCES)
def test_what_is_made_is_true_checked_and_within_the_limits(path):
  made = list(make.make(file(SOURCES[path], path)))
  facts = [fact for fact in made if isinstance(fact, Fact)]
  assert facts and len(made) <= make.PER_FILE and all(fact.path == path and fact.repo == REPO for fact in facts)
  for fact in facts:
    asked = questions.read(fact.question)
    assert (asked.kind, asked.noun, asked.subject, asked.detail, fact.answer) in truth(path)
    assert {'second reading', 'one definition', 'answer not in question', 'independent of time'} <= set(fact.checks)
    assert from_json(to_json(fact)) == fact
  kinds = collections.Counter(questions.read(fact.question).kind for fact in facts)
  assert max(kinds.values()) <= make.PER_KIND


def test_the_same_file_gives_the_same_facts_whatever_came_before():
  files = [file(text, path) for path, text in SOURCES.items()]
  first = {f.id: list(make.make(f)) for f in files}
  assert {f.id: list(make.make(f)) for f in reversed(files)} == first
  other = File('another id', 'a.py', SOURCES['a.py'], REPO)
  assert list(make.make(other)) != first['a.py#0']  # chosen by the id


def test_a_small_file_is_asked_little():
  assert len(list(make.make(file('def f(a, b=2, c=3): pass\ndef g(d, e=5): pass\n')))) == 1


@pytest.mark.parametrize(
    ('path', 'text', 'repo', 'rule'),
    [
        ('a.md', '# Title\n', REPO, 'fact: language without facts'),
        ('a.rb', 'def f(a); end\n', REPO, 'fact: language without facts'),
        ('a.py', 'def f(a=1): pass\n', '', 'fact: no repository'),
        ('a`b.py', 'def f(a=1): pass\n', REPO, 'fact: no repository'),
        ('a.py', 'def f(a=1: pass\n', REPO, 'fact: not parsed'),
        ('a.py', 'x = ' + '(' * 500, REPO, 'fact: not parsed'),
        ('a.go', 'func f( {', REPO, 'fact: not parsed'),
        ('a.py', 'print(1)\n', REPO, 'fact: nothing to ask'),
        ('a.java', 'class A { }', REPO, 'fact: nothing to ask'),
    ],
)
def test_a_file_without_facts_is_dropped_by_a_rule(path, text, repo, rule):
  assert [made.rule for made in make.make(file(text, path, repo))] == [rule]


@given(st.sampled_from(questions.KINDS), st.integers(0, 99), st.booleans(), st.data())
def test_a_question_is_read_back_as_it_was_asked(kind, number, receiver, data):
  words = st.text(st.characters(exclude_characters='`', categories=['L', 'N', 'P', 'S']), min_size=1)
  detail = data.draw(st.sampled_from(questions.ORDINALS) if kind == 'position' else words)
  text = questions.phrase(
      Question(kind, 'method', data.draw(words), data.draw(words), data.draw(words), detail, receiver), number
  )
  again = questions.read(text)
  assert again.kind == kind and questions.phrase(again, number) == text
  if '{detail}' in ''.join(questions._PHRASES[kind]):
    assert again.detail == detail


def test_questions_of_a_kind_are_phrased_in_several_ways():
  for kind in questions.KINDS:
    asked = Question(kind, 'function', 'f', 'a.py', REPO, 'first')
    assert 3 <= len({questions.phrase(asked, number) for number in range(100)}) <= 6
    assert all('`a.py`' in questions.phrase(asked, n) and f'`{REPO}`' in questions.phrase(asked, n) for n in range(6))


# Functions of a known signature. The oracle prints it and knows the answers; it shares no code with what is tested.
NAMES = st.lists(st.from_regex(r'p_[a-z]{2,8}', fullmatch=True), min_size=0, max_size=7, unique=True)
KEYWORD = inspect.Parameter.POSITIONAL_OR_KEYWORD
DEFAULTS = st.sampled_from([None, True, 0, -3, 2.5, 'a, b', 'it\'s (', '"', '#', '\\', (), (1, 'x, y'), [0]])
TYPES = st.sampled_from([int, str, float, list[int], dict[str, int]])


@st.composite
def signatures(draw):
  kinds = sorted(
      draw(st.sampled_from([inspect.Parameter.POSITIONAL_ONLY, KEYWORD, inspect.Parameter.KEYWORD_ONLY]))
      for _ in draw(st.shared(NAMES, key='names'))
  )
  parameters, defaulted = [], False
  for name, kind in zip(draw(st.shared(NAMES, key='names')), kinds):
    keyword = kind == inspect.Parameter.KEYWORD_ONLY
    defaulted = draw(st.booleans()) if keyword else defaulted or draw(st.booleans())
    parameters.append(
        inspect.Parameter(
            name, kind, default=draw(DEFAULTS) if defaulted else inspect.Parameter.empty,
            annotation=draw(TYPES) if draw(st.booleans()) else inspect.Parameter.empty,
        )
    )  # fmt: skip
  return inspect.Signature(parameters, return_annotation=draw(TYPES))


@settings(deadline=None)
@given(signatures())
def test_every_fact_about_a_random_python_function_is_that_of_its_signature(signature):
  text = f'def made{signature}:\n  pass\n'
  kept = [made for _, made in everything(text, 'a.py')]
  assert all(isinstance(made, Fact) for made in kept)
  parameters = signature.parameters
  asked = collections.Counter()
  for made in kept:
    question = questions.read(made.question)
    asked[question.kind] += 1
    match question.kind:
      case 'count':
        assert made.answer == str(len(parameters))
      case 'names':
        assert made.answer.split(', ') == list(parameters)
      case 'position':
        assert made.answer == list(parameters)[questions.ORDINALS.index(question.detail)]
      case 'default':
        assert ast.literal_eval(made.answer) == parameters[question.detail].default
      case 'type':
        assert made.answer == inspect.formatannotation(parameters[question.detail].annotation)
      case 'returns':
        assert made.answer == inspect.formatannotation(signature.return_annotation)
      case other:
        raise AssertionError(other)
  assert asked['default'] == sum(p.default is not p.empty for p in parameters.values())
  assert asked['type'] == sum(p.annotation is not p.empty for p in parameters.values())
  assert asked['count'] == asked['returns'] == 1


SCRIPT_DEFAULTS = st.sampled_from(['null', 'true', '-1', '2.5', "'a, b'", '"("', '"\'"', '[]', '{}', "'//'", "'/*'"])
HEADS = {
    'javascript': ['function made({})', 'export async function made({})', 'const made = ({}) =>'],
    'typescript': ['export function made({}): Item[]', 'const made = async ({}): Item[] =>'],
    'go': ['func made({}) (int, error)'],
    'java': ['class Outer {{ public static List<Item> made({})'],
}
BRACE_TYPES = {
    'javascript': [''], 'typescript': ['number', 'Map<string, Item>', '(a: number, b?: Item) => void', '{ a: number }'],
    'go': ['int', '[]byte', 'map[string]int', '*Item', 'func(a, b int) (int, error)'],
    'java': ['int', 'List<Item>', 'Map<String, List<? extends Item>>', 'byte[]', 'Outer.Item'],
}  # fmt: skip


@settings(deadline=None)
@given(st.sampled_from(list(HEADS)), NAMES, st.data())
def test_every_fact_about_a_random_function_with_braces_is_that_of_its_signature(language, names, data):
  types = [data.draw(st.sampled_from(BRACE_TYPES[language])) for _ in names]
  script = language in ('javascript', 'typescript')
  defaults = [data.draw(st.none() | SCRIPT_DEFAULTS) if script else None for _ in names]
  separators = {'javascript': '{name}', 'typescript': '{name}: {type}', 'go': '{name} {type}', 'java': '{type} {name}'}
  parts = [
      separators[language].format(name=name, type=kind) + (f' = {default}' if default else '')
      for name, kind, default in zip(names, types, defaults)
  ]
  head = data.draw(st.sampled_from(HEADS[language])).format(data.draw(st.sampled_from([', ', ',\n  '])).join(parts))
  text = f'{"package a" if language == "go" else ""}\n{head} {{\n  return f(1);\n}}\n' + '}' * (language == 'java')
  found = everything(text, PATHS[language])
  assert all(isinstance(made, Fact) for _, made in found), (text, found)
  subject = 'Outer.made' if language == 'java' else 'made'
  known = {('count', '', str(len(names)))} | {('type', name, kind) for name, kind in zip(names, types) if kind}
  known |= {('default', name, default) for name, default in zip(names, defaults) if default}
  known |= {('returns', '', returned) for returned in ('Item[]', '(int, error)', 'List<Item>') if returned in head}
  if len(names) > 1:
    known |= {('names', '', ', '.join(names))} if len(names) <= 6 else set()
    known |= {('position', ordinal, name) for ordinal, name in zip(questions.ORDINALS, names)}
  assert {(c.kind, c.detail, c.answer) for c, _ in found if c.subject == subject} == known



MODULES = """
  argparse ast base64 bdb bisect calendar cmd code codecs collections colorsys compileall configparser
  contextlib copy copyreg csv dataclasses datetime decimal difflib dis doctest email.message email.parser
  email.utils enum filecmp fileinput fnmatch fractions ftplib functools getopt getpass gettext glob graphlib gzip
  hashlib heapq hmac html html.parser http.client http.cookies http.server imaplib inspect io ipaddress json
  json.decoder json.encoder keyword linecache locale logging logging.config logging.handlers lzma mailbox mimetypes
  netrc ntpath numbers opcode operator optparse pathlib pdb pickle pickletools pkgutil plistlib poplib posixpath
  pprint profile pstats py_compile pyclbr queue quopri random reprlib rlcompleter sched secrets selectors shelve
  shlex shutil smtplib socket socketserver sqlite3.dbapi2 statistics string struct subprocess symtable tarfile
  tempfile textwrap threading timeit token tokenize trace traceback tracemalloc types typing unittest.case
  unittest.mock urllib.parse urllib.request uuid warnings wave weakref webbrowser wsgiref.headers xml.dom.minidom
  xmlrpc.client zipapp zipfile
"""


def defined(module, subject):
  """The object that a module defines under a qualified name, if inspection may be asked about it."""
  value = functools.reduce(lambda value, name: inspect.getattr_static(value, name, None), subject.split('.'), module)
  value = inspect.unwrap(getattr(value, '__func__', value))
  code = getattr(value, '__code__', None)
  return value if code and code.co_filename == module.__file__ else None


def test_signatures_of_100_modules_agree_with_inspection():
  compared = collections.Counter()
  for name in MODULES.split():
    module = importlib.import_module(name)
    text = pathlib.Path(module.__file__).read_text(encoding='utf-8')
    definitions = python.definitions(text)
    for definition in random.Random(name).sample(definitions, min(12, len(definitions))):
      for candidate in definition():
        value = candidate.kind in ('count', 'names', 'position', 'default') and defined(module, candidate.subject)
        if value and isinstance(verify(as_fact(candidate, 'a.py'), text), Fact):
          check_against_inspection(candidate, value)
          compared[candidate.kind] += 1
  assert len(MODULES.split()) >= 100 and min(compared.values()) > 100, compared


def check_against_inspection(candidate, value):
  parameters = inspect.signature(value).parameters
  names = list(parameters)[1 if candidate.receiver else 0 :]
  match candidate.kind:
    case 'count':
      assert candidate.answer == str(len(names)), candidate
    case 'names':
      assert candidate.answer == ', '.join(names), candidate
    case 'position':
      assert candidate.answer == names[questions.ORDINALS.index(candidate.detail)], candidate
    case 'default':
      default = parameters[candidate.detail].default
      try:
        assert ast.literal_eval(candidate.answer) == default, candidate
      except ValueError:  # a name: what it stands for, if the module knows it
        known = {**vars(sys.modules[value.__module__])}
        first, *rest = candidate.answer.lstrip('-').split('.')
        if first in known and '-' not in candidate.answer:
          assert functools.reduce(getattr, rest, known[first]) == default, candidate


UNICODE = st.text(st.characters(exclude_categories=()))  # lone surrogates too


@settings(deadline=None)
@given(st.sampled_from(list(SOURCES)), UNICODE, st.floats(0, 1), st.booleans())
def test_nothing_raises_and_nothing_is_lost_whatever_a_file_holds(path, junk, where, whole):
  text = SOURCES[path]
  place = int(where * len(text))
  made = list(make.make(file(junk if whole else text[:place] + junk + text[place:], path)))
  assert made and all(isinstance(one, (Fact, Drop)) for one in made)
  for one in made:
    assert one.checks if isinstance(one, Fact) else one.rule.startswith('fact: ')


@pytest.mark.parametrize('path', SOURCES)
@pytest.mark.parametrize('junk', ['(', '<', 'a.', 'f(', '{', '"', '/*', '`', 'f = ', '@a ', 'class A ', '\"\"\"', "'"])
def test_hostile_text_takes_time_in_proportion_to_its_length(path, junk):
  start = time.process_time()
  for text in (junk * 20_000, f'{junk}\n' * 20_000):
    for asked in (Candidate('count', 'function', 'f', '2'), Candidate('owner', 'method', 'f', 'A')):
      verify(as_fact(asked, path), f'{text}\nfunction f(a, b) {{ return 1; }}\ndef f(a, b): pass\n')
  assert time.process_time() - start < 5  # where every place looked at all others it took minutes


@pytest.mark.parametrize('text', ['class A {' * 3000 + '}' * 3000, 'function f() {' * 3000 + '}' * 3000])
def test_nesting_without_end_is_dropped(text):
  assert all(isinstance(made, Drop) for made in make.make(file(text, 'a.java')))
  assert all(isinstance(made, Drop) for made in make.make(file(text, 'a.js')))
  chain = 'def f(a=' + 'b.' * 3000 + 'c):\n  raise ' + 'b.' * 3000 + 'C\n'
  assert [made.rule for made in make.make(file(chain))] == ['fact: not parsed']


def test_captures_come_outer_first_and_again_after_another_text():
  query = '(function_definition name: (identifier) @name) @function (call) @call'
  tree = syntax.parse('def f():\n  "é"\n  return g(h())\n', 'python')
  found = [('function', 0, 34), ('name', 4, 5), ('call', 25, 31), ('call', 27, 30)]
  expected = [(name, start, end) for name, start, end in syntax.captures(tree, query)]
  assert [name for name, *_ in expected] == [name for name, *_ in found]
  assert tree.data[slice(*expected[2][1:])] == b'g(h())' and tree.data[slice(*expected[3][1:])] == b'h()'
  syntax.parse('x = 1\n', 'python')
  assert syntax.captures(tree, query) == expected
  syntax.close()
  assert syntax.captures(tree, query) == expected


def test_a_fact_is_learned_whole_and_ended():
  fact = Fact('0', 'What is the default of `b`?', '2', 'a.py', REPO)
  text, end = fact_format.segments(fact)
  assert text == ('Question: What is the default of `b`?\nAnswer: 2\n', 1.0)
  assert end == (SpecialToken(tokenizer.END_OF_TEXT), 1.0)


def test_languages_of_facts_have_a_grammar_or_python():
  assert set(trees.LANGUAGES) < set(PARSED) and {'javascript', 'typescript', 'java', 'go'} <= set(trees.LANGUAGES)
