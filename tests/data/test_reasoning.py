"""Reasoning from code: only functions that run on their own are asked about, and planted wrong samples are refused."""

import ast
import dataclasses
import json
import random
import re
import subprocess
import sys

import pytest

from iquest_jax.data.build.reasoning import functions, inputs, narrate, predict, samples
from iquest_jax.data.build.reasoning.samples import Sample, verify
from iquest_jax.data.documents import Conversation, Drop, File, from_json, to_json
from iquest_jax.sandbox import tracing
from iquest_jax.sandbox.pool import Pool
from iquest_jax.sandbox.tracing import Batch, Outcome

SOURCE = '''"""A file."""
import os
import re
from collections import Counter
from typing import Optional

import numpy as np

LIMIT = 3
WORD = re.compile('[a-z]+')
STATE = np.zeros(3)


def clamp(n: int) -> int:
  """Keeps a number in bounds.

  >>> clamp(11)
  3
  """
  if n > LIMIT:  # too large
    return LIMIT
  return n


def total(xs):
  result = 0
  for x in xs:
    result += clamp(x)
  return result


def words(text: Optional[str]) -> np.ndarray:
  "Words by length."
  found = WORD.findall(text)
  found.sort(key=len)
  return found


def unordered(words):
  seen = set(words)
  first = list(seen)
  return first


def letters(words):
  size = 0
  for word in set(words):
    size += len(word)
  return size


def endless(n):
  while n != 100:
    n = n * 2
  return n


def checked(n: int):
  if n < 2:
    raise ValueError('negative')
  root = 0
  while root * root < n:
    root += 1
  return root


def saves(path):
  with open(path) as file:
    text = file.read()
  return text


def shape(n):
  rows = STATE[:n]
  n += 1
  return rows


assert total([1, 2, 9]) == 6
'''


@pytest.fixture(scope='module')
def pool():
  with Pool(1) as pool:
    yield pool


@pytest.fixture(scope='module')
def made(pool) -> list[Conversation | Drop]:
  return list(predict.make(File('a.py#0', 'a.py', SOURCE, repo='owner/name'), pool, 0))


def taken(*body: str, head: str = '') -> list[functions.Function]:
  """What is found in a file with function f(x), after `head`."""
  lines = [head, 'def f(x):', '  y = 0', *(f'  {line}' for line in body), '  y += 1', '  return y', '']
  return list(functions.find('\n'.join(lines)))


def test_helpers_constants_and_imports_come_along_and_docstrings_stay_behind():
  found = {function.name: function.source for function in functions.find(SOURCE)}
  assert found.keys() == {'clamp', 'total', 'words', 'unordered', 'letters', 'endless', 'checked'}
  assert found['total'].startswith('LIMIT = 3\n\ndef clamp(n: int) -> int:\n  if n > LIMIT:  # too large\n')
  assert found['total'].endswith('  return result\n') and 'bounds' not in found['total']
  # The annotation needs a module that is not there; the rest is as it was.
  assert found['words'].startswith("import re\n\nWORD = re.compile('[a-z]+')\n\ndef words(text):\n    found = ")
  for source in found.values():
    tree = ast.parse(source)
    assert not any(ast.get_docstring(node) for node in tree.body if isinstance(node, ast.FunctionDef))


def test_a_plain_function_is_taken():
  assert [function.parameters for function in taken()] == [('x',)]


@pytest.mark.parametrize(
    ('body', 'head'),
    [
        ('y = open(x)', ''),
        ('print(x)', ''),
        ('y = eval(x)', ''),
        ('y = getattr(x, "a")', ''),
        ('y = x.__class__', ''),
        ('y = x.filename', ''),
        ('y = unknown', ''),
        ('y = os.getcwd()', 'import os'),
        ('y = random.random()', 'import random'),
        ('y = time()', 'from time import time'),
        ('y = Y', 'Y = compute()'),
        ('y = Y', 'Y = 1\nY = 2'),
        ('y = Y', 'if True:\n  Y = 1'),
        ('y = g(x)', 'def g(x):\n  return open(x)'),
        ('y = g(x)', '@decorated\ndef g(x):\n  return x'),
        ('y = g(x)', 'class g:\n  pass'),
        ('global y', ''),
        ('import os', ''),
        ('yield y', ''),
        ('math.pi = 3', 'import math'),
        ('try: y = x\n  except: y = 2', ''),
        ('try: y = x\n  except BaseException: y = 2', ''),
        ('with x: y = 2', ''),
        ('class C: pass', ''),
        ('y = x(3)', ''),
    ],
)
def test_functions_that_need_or_touch_more_than_their_arguments_are_not_taken(body, head):
  assert not [function for function in taken(body, head=head) if function.name == 'f']


WRONG = ['def f(x):\n  return (', 'def f(x):\n' + '  ' * 200 + 'x', '\0\ndef f(x): pass', '', 'def f(x): ' + '(' * 5000]


@pytest.mark.parametrize('text', WRONG)
def test_a_file_that_is_no_python_gives_one_drop(pool, text):
  (drop,) = predict.make(File('x', 'x.py', text), pool, 0)
  assert drop.rule == 'reasoning: no function that runs on its own'


def test_every_answer_is_what_a_fresh_interpreter_gives(made):
  """The oracle: the code and the call of the question as text, run by a new python, without anything of the project."""
  conversations = [one for one in made if isinstance(one, Conversation)]
  assert len(conversations) >= 12
  lines = []
  for one in conversations:
    question, answer = (message['content'] for message in one.messages)
    source = re.search(r'```python\n(.*)```', question, re.DOTALL)[1]
    if asked := re.search(r'`(?:assert )?(\w+\(.*\))(?: == \?\?)?`(?: return\?|\.)', question):
      value = f'ran({asked[1]!r})' if answer.startswith('raises ') else asked[1]
      lines.append((source, f'{value} == {answer[7:]!r}' if answer.startswith('raises ') else f'{value} == {answer}'))
      assert one.messages[1]['thinking'].endswith(f' {answer}')
    else:
      form = re.search(r'`(\w+)` in `(.*?)`(?: does|\. Which calls make) `(.*?)` (?:hold|true)', question)
      name, values, call = form.groups()
      argument = lambda text: text[text.index('(') + 1 : -1]
      found = [argument(call) for call in split_calls(answer)]
      lines.append((source, f'{found} == [repr({name}) for {name} in {values} if ran({call!r}, {name}={name})]'))
  script = 'import json, sys\nfor source, test in json.load(sys.stdin):\n  scope = {}\n  exec(source, scope)\n'
  script += '  def ran(call, **names):\n    try: return eval(call, scope, names)\n'
  script += '    except Exception as error: return names == {} and type(error).__name__\n'
  script += '  scope["ran"] = ran\n  assert eval(test, scope), (source, test)\n'
  subprocess.run([sys.executable, '-I', '-c', script], input=json.dumps(lines), text=True, check=True)


def split_calls(text: str) -> list[str]:
  """'f(1), f([2, 3])' to its calls."""
  node = ast.parse(f'[{text}]', mode='eval').body
  return [ast.get_source_segment(f'[{text}]', call) for call in node.elts]


def test_samples_know_what_they_passed_their_repository_and_their_difficulty(made):
  conversations = [one for one in made if isinstance(one, Conversation)]
  checks = {one.checks for one in conversations}
  assert checks == {
      ('two hash seeds', 'output executed again', 'trace ends in the answer'),
      ('two hash seeds', 'all inputs of the domain executed again'),
  }
  assert {one.repo for one in conversations} == {'owner/name'}
  assert len({one.difficulty for one in conversations}) >= 2 and '' not in {one.difficulty for one in conversations}
  assert all(from_json(to_json(one)) == one for one in conversations)
  assert any(one.messages[1]['content'] == 'raises ValueError' for one in conversations)
  assert any(one.messages[0]['content'].count('total([1, 2, 9])') for one in conversations), 'the call of the file itself'


def test_what_depends_on_the_hash_seed_or_never_ends_is_dropped_and_counted(made):
  drops = {(drop.rule, drop.evidence) for drop in made if isinstance(drop, Drop)}
  assert {('reasoning: not deterministic', name) for name in ('unordered', 'letters')} <= drops
  assert not any(re.search(r'`endless\(0\)', one.messages[0]['content']) for one in made if isinstance(one, Conversation))


ORDERED = {
    'loop': 'out = []\n  for n in set(n % 7 * 5 for n in xs):\n    out.append(n)\n  return out',
    'pop': 's = {n * 3 for n in xs}\n  if not s:\n    return 0\n  a = s.pop()\n  return a',
    'none': 'out = []\n  for a in {None, len(xs), len(xs) + 1}:\n    out.append(a)\n  return out',
    'tuples': 'out = []\n  for a in {(None, len(xs)), (len(xs), 1)}:\n    out.append(a)\n  return out',
    'views': 'd = dict.fromkeys(xs)\n  e = dict(d)\n  both = d.keys() & e.keys()\n  return list(both)',
    'shown': 'total = 0\n  for n in {3, *xs}:\n    total += n\n  return total',  # The trace depends on it alone.
    'floats': 's = {n / 7 for n in xs} | {1e16, 0.4, -1e16}\n  out = sum(s)\n  out += 1\n  return out',
    'ties': 's = {n * 3 for n in xs}\n  a = max(s, key=lambda n: n % 2) if s else 0\n  b = a\n  return b',
    'address': "t = str(iter(xs))\n  n = len(t) > 3\n  t = t[:6]\n  return [n, len(xs), t]",
}


@pytest.mark.parametrize('name', ORDERED)
def test_what_depends_on_the_order_of_a_set_or_an_address_gives_no_sample(pool, name):
  made = list(predict.make(File('0', 'a.py', f'def f(xs):\n  {ORDERED[name]}\n'), pool, 0))
  rule = 'reasoning: shows an address' if name == 'address' else 'reasoning: not deterministic'
  assert made == [Drop(rule, 'f')]


def test_an_order_that_shows_for_one_input_that_is_not_traced_is_seen_too(pool):
  """Were it not, the question for the inputs of a result would rest on it."""
  source = 'def f(n):\n  if n == 5:\n    return [*{n + 4, n - 3}][0]\n  m = n * 2\n  return m\n'
  for seed in range(4):
    assert list(predict.make(File('0', 'a.py', source), pool, seed)) == [Drop('reasoning: not deterministic', 'f')]


UNORDERED = (
    's = {n * 3 for n in xs}\n  t = sorted(s)\n  t.append(len(s))\n  return t',
    's = set(xs) - {3}\n  t = sum(s) + max({1, *s})\n  u = 3 in s\n  return (t, u, s)',
    's = set()\n  for x in xs:\n    s.add(x)\n  return len(s)',
    'd = dict.fromkeys(xs)\n  t = sorted(d.keys() & {*xs, 2})\n  u = t\n  return u',
    's = {True, 1}\n  t = [len(s), *xs]\n  u = t\n  return {\n      u[0],\n      len(xs) + 4,\n  }',
)


@pytest.mark.parametrize('body', UNORDERED)
def test_functions_whose_sets_have_no_say_in_their_order_are_asked_about(pool, body):
  made = list(predict.make(File('0', 'a.py', f'def f(xs):\n  {body}\n'), pool, 0))
  assert len(made) >= 3 and all(isinstance(one, Conversation) for one in made)
  assert {one.checks[:2] for one in made} == {('two hash seeds', 'four orders of sets')}


def test_the_same_file_and_seed_give_the_same_bytes_and_another_seed_others(pool, made):
  file = File('a.py#0', 'a.py', SOURCE, repo='owner/name')
  with Pool(1) as other:
    again = list(predict.make(file, other, 0))
  assert again == made
  assert list(predict.make(file, pool, 1)) != made


def test_the_steps_are_thinking_or_part_of_the_answer(pool, made):
  direct = list(predict.make(File('a.py#0', 'a.py', SOURCE, repo='owner/name'), pool, 0, thinking=False))
  for one, other in zip(made, direct, strict=True):
    if isinstance(one, Conversation):
      said, thought = other.messages[1], one.messages[1]
      assert said['content'] == f'{thought["thinking"]}\nAnswer: {thought["content"]}' and 'thinking' not in said
      assert one.id == other.id, 'the same question, which must not be in training and held out'


PROGRAM = 'def f(x):\n  y = x * x\n  return y % 5\n'
OUTPUT = Sample('?', 'f(3)', '4', 'y = 9\nreturn y % 5  # returns 4', 2)
INPUTS = Sample('?', 'f({})', '1', 'f(1) = 1\nf(4) = 1\n1: f(1), f(4)', 10, tuple('01234'), ('1', '4'))


def runs(sample: Sample) -> dict[str, Outcome]:
  return dict(zip(sample.expressions(), tracing.here(Batch(PROGRAM, sample.expressions()))))


def test_right_samples_pass():
  assert verify(OUTPUT, runs(OUTPUT)) == ('output executed again', 'trace ends in the answer')
  assert verify(INPUTS, runs(INPUTS)) == ('all inputs of the domain executed again',)


@pytest.mark.parametrize(
    ('sample', 'rule'),
    [
        (dataclasses.replace(OUTPUT, result='5', steps='# returns 5'), 'wrong output'),
        (dataclasses.replace(OUTPUT, result='4.0', steps='# returns 4.0'), 'wrong output'),
        (dataclasses.replace(OUTPUT, steps='return y % 5  # returns 14'), 'trace does not end in the answer'),
        (dataclasses.replace(OUTPUT, steps='# returns 4\n# returns 9'), 'trace does not end in the answer'),
        (dataclasses.replace(OUTPUT, steps=''), 'trace does not end in the answer'),
        (dataclasses.replace(INPUTS, inputs=('1', '2', '4')), 'wrong input'),
        (dataclasses.replace(INPUTS, inputs=('1', '6')), 'wrong input'),
        (dataclasses.replace(INPUTS, inputs=('4',)), 'incomplete set'),
        (dataclasses.replace(INPUTS, inputs=('4', '1')), 'incomplete set'),
        (dataclasses.replace(INPUTS, inputs=()), 'incomplete set'),
        (dataclasses.replace(INPUTS, result='3', inputs=()), 'no input'),
        (dataclasses.replace(INPUTS, steps='f(1) = 1\n1: f(1)'), 'trace does not end in the answer'),
    ],
)
def test_planted_wrong_samples_are_refused(sample, rule):
  assert verify(sample, runs(sample)).rule == f'reasoning: {rule}'


@pytest.mark.parametrize('sample', [OUTPUT, INPUTS])
def test_a_sample_whose_program_did_not_run_is_refused(sample):
  ended = runs(sample)
  ended[sample.expressions()[-1]] = Outcome(stopped='limit')
  for missing in ({}, ended):
    assert verify(sample, missing).rule == 'reasoning: not executed'


def test_a_result_equal_to_the_target_in_another_type_is_a_valid_input():
  sample = Sample('?', 'f({})', '1', '1: f(1), f(True)', 2, ('1', 'True', '2'), ('1', 'True'))
  of = {'f(1)': Outcome('1'), 'f(True)': Outcome('True'), 'f(2)': Outcome('4')}
  assert verify(sample, of) == ('all inputs of the domain executed again',)
  assert verify(dataclasses.replace(sample, inputs=('1',), steps='1: f(1)'), of).rule == 'reasoning: incomplete set'


def test_the_trace_reads_as_the_program_ran():
  source = (
      'def g(x):\n  if x < 1: return 7\n  return x + 1\n\n'
      'def f(n, s):\n  total = 0  # a comment\n  for i in range(n):\n    total += g(\n      i)\n    if total > 8:\n'
      '      break\n'
      "    elif s == '#':\n      total = total\n  try:\n    s = s[10]\n  except Exception:\n    s = None\n"
      '  return [\n    total, s]\n'
  )
  listing = narrate.Listing(source)
  outcome = tracing.here(Batch(source, ("f(3, '#')",), 'record', targets=listing.targets))[0]
  assert narrate.trace(outcome.events, listing) == """f(n=3, s='#')
total = 0  # total = 0
for i in range(n):  # i = 0
total += g(i)
  g(x=0)
  if x < 1: return 7  # returns 7
# total = 7
if total > 8:  # False
elif s == '#':  # True
total = total  # total = 7
for i in range(n):  # i = 1
total += g(i)
  g(x=1)
  if x < 1: return 7
  return x + 1  # returns 2
# total = 9
if total > 8:  # True
break
s = s[10]
except Exception:
s = None  # s = None
return [total, s]  # returns [9, None]"""


def test_a_trace_that_raises_ends_so():
  source = 'def f(n):\n  m = 1\n  for i in [n]:\n    m //= i\n  return m\n'
  listing = narrate.Listing(source)
  outcome = tracing.here(Batch(source, ('f(0)', 'f(1)'), 'record', targets=listing.targets))
  assert narrate.trace(outcome[0].events, listing).endswith('in [n]:  # i = 0\nm //= i  # raises ZeroDivisionError')
  assert narrate.trace(outcome[1].events, listing).endswith('for i in [n]:  # done\nreturn m  # returns 1')


@pytest.mark.parametrize(
    ('text', 'kind'),
    [
        ('def f(a: str):\n  b = a\n  c = b\n  return c\n', 'str'),
        ('def f(q):\n  b = q.split()\n  c = b\n  return c\n', 'str'),
        ('def f(q):\n  b = q.items()\n  c = b\n  return list(c)\n', 'dict'),
        ('def f(q):\n  b = []\n  for i in range(q):\n    b.append(i)\n  return b\n', 'int'),
        ('def f(nums):\n  b = nums\n  c = b\n  return c\n', 'list_int'),
        ('def f(grid):\n  b = grid[0][1]\n  c = b\n  return c\n', 'matrix'),
    ],
)
def test_plausible_types_are_tried_first(text, kind):
  (function,) = functions.find(text)
  first = inputs.domains(function, random.Random(0))[0]
  value = ast.literal_eval(first.values[0][2][-1])
  assert {'str': str, 'dict': dict, 'int': int, 'list_int': list, 'matrix': list}[kind] is type(value)
  assert kind != 'matrix' or isinstance(value[0], list)


def test_domains_are_finite_and_stated_as_what_they_are():
  (function,) = functions.find('def f(n, m, s):\n  n += m\n  s = s * n\n  return s\n')
  for domain in inputs.domains(function, random.Random(3)):
    assert 2 <= len(domain.elements()) <= 30 and len(set(domain.elements())) == len(domain.elements())
    for name, written, literals in domain.values:
      bounds = map(int, re.findall(r'-?\d+', written))
      values = range(*bounds) if written.startswith('range') else ast.literal_eval(written)
      assert list(values) == list(map(ast.literal_eval, literals)) and f'`{name}` in `{written}`' in domain.statement()


def test_answers_end_a_text_only_as_whole_words():
  assert samples.ends_with('x = 4', '4') and samples.ends_with('4', '4') and samples.ends_with('a\n4', '4')
  assert not samples.ends_with('x = 14', '4') and not samples.ends_with('4 ', '4')


def test_python_that_parses_but_does_not_compile_is_not_taken():
  assert not list(functions.find('def f(x, x):\n  y = x\n  z = y\n  return z\n'))
  deep = '+'.join(['x'] * 3000)
  assert not list(functions.find(f'def f(x):\n  y = 1\n  z = 2\n  return {deep}\n'))
