"""Questions about a repository: answers are what a look-up finds, and readers find them again."""

import asyncio
import dataclasses
import json

import pytest

from iquest_jax.data.documents import Repository
from iquest_jax.data.synthesis import lookup, questions

MAIN = """from app import store, views

def main():
  views.show()
  setup()

def setup():
  return Shop()
"""
STORE = """class Shop:
  def open(self):
    return load()

def load():
  return helper(1) + helper(2)

def helper(n):
  return n
"""
FILES = (
    ('app/main.py', MAIN),
    ('app/store.py', STORE),
    ('app/views.py', 'from app.store import Shop\n\n\ndef show():\n  Shop().open()\n'),
    ('web/list.ts', 'export class List {\n  total(): number {\n    return 1\n  }\n}\nfunction draw() {}\n'),
)
REPOSITORY = Repository('r', 'acme/shop', FILES)
DEFINED = questions.Candidate(
    'acme/shop', FILES, 'defined', 'Which file defines the function `load`?', 'It is in `app/store.py`.', 'load',
    ('app/store.py',),
)  # fmt: skip
IMPORTS = questions.Candidate(
    'acme/shop', FILES, 'imports', 'Which of these files does app/main.py import directly?',
    'It imports app/store.py and app/views.py.', 'app/main.py', ('app/views.py', 'app/store.py'),
)  # fmt: skip
IMPORTERS = questions.Candidate(
    'acme/shop', FILES, 'importers', 'Which files import app/views.py directly?', 'Only app/main.py does.', 'app/views.py',
    ('app/main.py',),
)  # fmt: skip
CALLS = questions.Candidate(
    'acme/shop', FILES, 'calls', 'Which of the functions defined here does `load` call?', 'It calls `helper`, twice.',
    'load', ('helper',),
)  # fmt: skip
OPEN = questions.Candidate(
    'acme/shop', FILES, 'open', 'What happens when a page is shown?', '`show` opens a `Shop`, which loads its goods.'
)
RIGHT = [DEFINED, IMPORTS, IMPORTERS, CALLS]


def found(*answers):
  return json.dumps({'answers': answers})


def vote(word):
  return json.dumps({'argument': 'x', 'vote': word})


def verified(tools, candidate, *answers):
  return asyncio.run(questions.DOMAIN.verify(candidate, tools(*answers)))


@pytest.mark.parametrize('candidate', RIGHT, ids=lambda candidate: candidate.kind)
def test_a_right_answer_is_kept_with_the_files_it_is_about(tools, candidate):
  answers = found(*sorted(candidate.answers)), found(*candidate.answers)
  kept = verified(tools, candidate, *answers)
  assert kept.checks == ('answers looked up', 'reply names the answers and no others', 'answers found again')
  assert kept.repo == 'acme/shop'
  asked, reply = (message['content'] for message in kept.messages)
  assert all(path in asked and text in asked for path, text in FILES) and asked.endswith(candidate.question)
  assert reply == candidate.reply


@pytest.mark.parametrize(
    ('candidate', 'changes', 'rule'),
    [
        (DEFINED, {'answers': ('app/main.py',)}, 'questions: wrong answer'),
        (DEFINED, {'answers': ()}, 'questions: wrong answer'),
        (DEFINED, {'subject': 'absent', 'question': 'Which file defines `absent`?'}, 'questions: no answer, or too many'),
        (DEFINED, {'subject': 'total', 'question': 'Which file defines `total`?'}, 'questions: cannot be looked up'),
        (DEFINED, {'question': 'Which file defines it?'}, 'questions: names no subject'),
        (DEFINED, {'question': 'Is `load` in app/store.py?'}, 'questions: answer in question'),
        (DEFINED, {'reply': 'It is in app/views.py.'}, 'questions: reply does not name the answers'),
        (DEFINED, {'reply': 'In app/store.py or app/views.py.'}, 'questions: reply names other answers'),
        (DEFINED, {'reply': 'Which file defines the function `load`'}, 'questions: not a question and a reply'),
        (IMPORTS, {'answers': ('app/store.py',)}, 'questions: wrong answer'),
        (IMPORTS, {'subject': 'app/none.py'}, 'questions: cannot be looked up'),
        (IMPORTERS, {'answers': ('app/main.py', 'app/store.py')}, 'questions: wrong answer'),
        (CALLS, {'answers': ('helper', 'load')}, 'questions: wrong answer'),
        (DEFINED, {'reply': 'In app/store.py or lib/x.py.'}, 'questions: reply names other answers'),
        (DEFINED, {'reply': 'In app/store.py or `lib/x`.'}, 'questions: reply names other answers'),
        (DEFINED, {'reply': 'In my/app/store.py.'}, 'questions: reply does not name the answers'),
        (DEFINED, {'reply': 'In app/store.pyi.'}, 'questions: reply does not name the answers'),
        (IMPORTS, {'reply': 'It imports app/store.py but not app/views.py.'}, 'questions: reply with a negation'),
        (IMPORTERS, {'reply': 'app/main.py does, and so does web/list.ts.'}, 'questions: reply names other answers'),
        (CALLS, {'reply': 'It calls `my_helper_function`.'}, 'questions: reply does not name the answers'),
        (CALLS, {'reply': 'It calls helper and List.'}, 'questions: reply names other answers'),
        (CALLS, {'reply': 'It calls `helper` and `sum`.'}, 'questions: reply names other answers'),
        (CALLS, {'reply': "It calls setup and doesn't call helper."}, 'questions: reply with a negation'),
        (CALLS, {'reply': 'It never calls `helper`.'}, 'questions: reply with a negation'),
        (CALLS, {'subject': 'show', 'question': 'What does `show` call?'}, 'questions: cannot be looked up'),
    ],
)
def test_an_answer_that_a_look_up_refutes_is_rejected_without_a_request(tools, candidate, changes, rule):
  assert verified(tools, dataclasses.replace(candidate, **changes)).rule == rule


@pytest.mark.parametrize('said', [found('app/main.py'), found(), found('app/store.py', 'app/main.py'), 'app/store.py', ''])
@pytest.mark.parametrize('place', range(2))
def test_a_question_that_readers_take_for_another_is_rejected(tools, said, place):
  answers = [found('app/store.py')] * 2
  answers[place] = said
  assert verified(tools, DEFINED, *answers).rule == 'questions: readers find other answers'


def test_an_open_question_is_judged(tools):
  assert verified(tools, OPEN, *[vote('accept')] * 3).checks == ('judges unanimous',)
  assert verified(tools, OPEN, *[vote('reject')] * 3).rule == 'judges: rejected unanimously'
  assert verified(tools, dataclasses.replace(OPEN, question='Show it.')).rule == 'questions: not a question and a reply'


def test_the_model_sees_neighbouring_files_and_says_what_was_asked(tools):
  said = json.dumps({
      'subject': 'load', 'question': DEFINED.question, 'answers': ['app/store.py'], 'reply': DEFINED.reply,
  })  # fmt: skip
  made = asyncio.run(questions.DOMAIN.generate(REPOSITORY, tools(said)))
  assert made.files == FILES and made.kind != 'open' and made.reply == DEFINED.reply
  for wrong in ('', '{}', said.replace('["app/store.py"]', '[1]'), said.replace('["app/store.py"]', '"app/store.py"')):
    assert asyncio.run(questions.DOMAIN.generate(REPOSITORY, tools(wrong))).rule == 'questions: malformed answer'
  large = Repository('r', 'acme/shop', (('a.py', 'x = 1\n' * 9999), ('b.py', 'x = 1\n')))
  assert asyncio.run(questions.DOMAIN.generate(large, tools())).rule == 'questions: fewer than two files fit'


def test_calls_that_only_a_run_could_tell_are_not_known():
  source = 'def f(g): return g()\ndef g(): return h()\ndef h(): return x.g()\ndef k(): return h() + k()\n'
  calls = lambda name: lookup.calls_of(name, [('a.py', source), ('b.py', 'def broken(')])
  assert (calls('f'), calls('h'), calls('none')) == (None, None, None)  # a parameter, an attribute, nothing
  assert (calls('g'), calls('k')) == ({'h'}, {'h', 'k'})
  assert lookup.calls_of('g', [('a.py', source), ('b.py', 'def h(): pass')]) is None  # defined twice


def test_definitions_are_found_by_keyword_and_otherwise_not_known():
  defined = lambda name: lookup.defined_in(name, [
      ('a.go', 'package a\nfunc (s *Shop) Open() {}\ntype Shop struct{}\n'), ('b.rs', 'pub fn open() {}\n'),
      ('C.java', 'public final class C {\n  int size(int a) {\n    return 1;\n  }\n}\n'), ('d.c', 'int main(void) {}\n'),
      ('e.js', 'const sum = (a) => a\nexport default function* walk() {}\n'), ('f.py', 'x = """\ndef fake(): pass\n"""\n'),
  ])  # fmt: skip
  assert (defined('Open'), defined('Shop'), defined('open'), defined('C')) == ({'a.go'}, {'a.go'}, {'b.rs'}, {'C.java'})
  assert (defined('sum'), defined('walk'), defined('fake')) == ({'e.js'}, {'e.js'}, set())
  assert (defined('size'), defined('main')) == (None, None)
