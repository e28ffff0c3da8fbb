"""Tracing: the lines, changes and results of a program are what an interpreter of the test's own finds, within limits."""

import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iquest_jax.sandbox import tracing
from iquest_jax.sandbox.inside import tracer
from iquest_jax.sandbox.limits import Limits
from iquest_jax.sandbox.pool import Pool
from iquest_jax.sandbox.tracing import Batch

from tests.sandbox.conftest import backends

NESTED = """def g(x):
  return x + 1

def f(n):
  total = 0
  for i in range(n):
    total += g(i)
  return total
"""
NAMES = ('a', 'b', 'c')
NUMBERS = st.integers(-9, 9)
TERMS = st.one_of(NUMBERS, st.sampled_from(NAMES))
ASSIGNMENTS = st.one_of(  # Factors are constants, so that numbers stay short.
    st.tuples(st.sampled_from(NAMES), TERMS, st.sampled_from('+-'), TERMS),
    st.tuples(st.sampled_from(NAMES), TERMS, st.just('*'), NUMBERS),
)
BLOCKS = st.one_of(
    ASSIGNMENTS.map(lambda one: ('assign', one)),
    st.tuples(st.just('if'), TERMS, st.lists(ASSIGNMENTS, min_size=1, max_size=2), ASSIGNMENTS),
    st.tuples(st.just('loop'), st.integers(0, 3), st.lists(ASSIGNMENTS, min_size=1, max_size=2)),
)


FLAT = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text())
DATA = st.recursive(
    FLAT,
    lambda inner: st.one_of(st.lists(inner), st.tuples(inner, inner), st.dictionaries(st.binary(), inner)),
    max_leaves=8,
)


@pytest.fixture(scope='module', params=backends())
def pool(request):
  with Pool(1, request.param) as pool:
    yield pool


def write(blocks) -> str:
  """The program of blocks, a function of a."""
  lines = ['def f(a):', '  b = 1', '  c = 2']
  say = lambda one, indent: lines.append(f'{" " * indent}{one[0]} = {one[1]} {one[2]} {one[3]}')
  for number, (kind, *rest) in enumerate(blocks):
    if kind == 'assign':
      say(rest[0], 2)
    elif kind == 'if':
      lines.append(f'  if {rest[0]} > 0:')
      for one in rest[1]:
        say(one, 4)
      lines.append('  else:')
      say(rest[2], 4)
    else:
      lines.append(f'  for i{number} in range({rest[0]}):')
      for one in rest[1]:
        say(one, 4)
  return '\n'.join([*lines, '  return a - b + c', ''])


def interpret(blocks, a: int) -> tuple[list[tuple[str, int]], int]:
  """(every assignment in order, the result), without Python's own interpreter of programs."""
  values, log = {'a': a}, []
  term = lambda text: values[text] if isinstance(text, str) else text

  def assign(one):
    name, left, sign, right = one
    left, right = term(left), term(right)
    values[name] = {'+': left + right, '-': left - right, '*': left * right}[sign]
    log.append((name, values[name]))

  assign(('b', 0, '+', 1))
  assign(('c', 0, '+', 2))
  for number, (kind, *rest) in enumerate(blocks):
    if kind == 'assign':
      assign(rest[0])
    elif kind == 'if':
      for one in rest[1] if term(rest[0]) > 0 else [rest[2]]:
        assign(one)
    else:
      for i in range(rest[0]):
        log.append((f'i{number}', i))
        for one in rest[1]:
          assign(one)
  return log, values['a'] - values['b'] + values['c']


@settings(max_examples=60)
@given(st.lists(BLOCKS, max_size=5), NUMBERS)
def test_the_trace_of_a_program_is_what_another_interpreter_finds(blocks, a):
  source = write(blocks)
  targets = {}
  for number, line in enumerate(source.splitlines(), 1):
    if ' = ' in line:
      targets[number] = [line.split()[0]]
  outcome = tracing.here(Batch(source, (f'f({a})',), 'record', targets=targets))[0]
  log, result = interpret(blocks, a)
  seen = [(name, int(value)) for e in outcome.events if e.kind == 'line' for name, value in e.changes.items()]
  assert seen == log and outcome.text == str(result)
  first, last = outcome.events[0], outcome.events[-1]
  assert first.changes == {'a': str(a)} and (last.kind, last.depth, last.text) == ('return', 0, str(result))
  assert outcome.steps == sum(e.kind == 'line' for e in outcome.events)
  plain, counted = (tracing.here(Batch(source, (f'f({a})',), mode))[0] for mode in ('plain', 'count'))
  assert plain.text == counted.text == outcome.text and counted.steps == outcome.steps and not counted.events


def test_calls_are_one_deeper_and_whole_programs_are_traced_from_their_first_line():
  events = tracing.here(Batch(NESTED, ('f(2)',), 'record'))[0].events
  assert [(e.kind, e.depth, e.text) for e in events if e.kind != 'line'] == [
      ('call', 0, 'f'), ('call', 1, 'g'), ('return', 1, '1'), ('call', 1, 'g'), ('return', 1, '2'), ('return', 0, '3'),
  ]  # fmt: skip
  whole = tracing.here(Batch('x = 3\nfor i in range(2):\n  x += i\n', ('x',), 'whole'))[0]
  assert [e.changes for e in whole.events if e.kind == 'line'] == [{'x': '3'}, {'i': '0'}, {}, {'i': '1'}, {'x': '4'}, {}]


def test_a_set_is_written_in_order_and_what_is_no_plain_data_has_no_text():
  assert tracer.literal(set('tracing'), 99) == "{'a', 'c', 'g', 'i', 'n', 'r', 't'}" and tracer.literal(set(), 9) == 'set()'
  assert tracer.literal((1,), 9) == '(1,)' and tracer.literal({1: [None, True]}, 99) == '{1: [None, True]}'
  for value in (float('nan'), 1j, object(), range(3), frozenset(), [lambda: 1]):
    with pytest.raises(tracer.NotPlain):
      tracer.literal(value, 99)
  itself = []
  itself.append(itself)
  for value in ('x' * 100, list(range(50)), 10**100, itself):
    with pytest.raises(tracer.TooLong):
      tracer.literal(value, 99)


@settings(max_examples=60)
@given(DATA)
def test_literals_of_plain_data_are_those_of_python(value):
  assert tracer.literal(value, 1 << 20) == repr(value)


@pytest.mark.parametrize(
    ('body', 'stopped', 'error'),
    [
        ('while True: n += 1', 'steps', ''),
        ('try:\n    while True: n += 1\n  except Exception:\n    return 0', 'steps', ''),
        ('return [0] * 1000', 'size', ''),
        ('while True: n *= n + 1', 'size', ''),
        ('n = [n]\n  while True: n += n', 'size', ''),
        ('return lambda: n', 'kind', ''),
        ('return n / 0', '', 'ZeroDivisionError'),
        ('raise ValueError(n)', '', 'ValueError'),
    ],
)
def test_each_end_of_a_call_has_its_name(body, stopped, error):
  for mode in ('count', 'record'):
    before = sys.gettrace()
    outcome = tracing.here(Batch(f'def f(n):\n  {body}\n', ('f(1)',), mode, steps=100))[0]
    assert (outcome.stopped, outcome.error, outcome.text) == (stopped, error, '')
    assert sys.gettrace() is before


def test_the_limit_on_lines_is_exact():
  lines = tracing.here(Batch(NESTED, ('f(2)',), 'count'))[0].steps
  assert [tracing.here(Batch(NESTED, ('f(2)',), 'record', steps=n))[0].stopped for n in (lines, lines - 1)] == ['', 'steps']


def test_a_variable_that_grows_too_long_stops_the_trace():
  source = 'def f(n):\n  x = "a" * n\n  return len(x)\n'
  assert tracing.here(Batch(source, ('f(500)',), 'record'))[0].stopped == 'size'
  assert tracing.here(Batch(source, ('f(500)',), 'count'))[0].text == '500'


def test_a_caught_and_an_uncaught_exception_are_told_apart():
  source = 'def f(n):\n  try:\n    n = 1 // n\n  except ZeroDivisionError:\n    n = 7\n  return [n][n - 7]\n'
  batch = Batch(source.replace('ZeroDivisionError', 'ValueError'), ('f(1)',), 'record')
  assert tracing.here(batch)[0].events[-1][:4:3] == ('raise', 'IndexError')
  assert tracing.here(Batch('def f(n):\n  n.x\n', ('f(1)',), 'record'))[0].events[-1].text == 'AttributeError'


def test_the_sandbox_finds_the_same_as_this_process(pool):
  batch = Batch(NESTED, ('f(3)', 'f(0)', "f('x')"), 'record', targets={5: ['total']})
  assert tracing.in_sandbox(pool, [batch], hash_seed=1) == [tracing.here(batch)]


def test_hash_seeds_show_what_depends_on_the_order_of_sets(pool):
  batch = Batch('def f(words):\n  return list(set(words))\n', ("f(['red', 'green', 'blue', 'grey', 'black'])",))
  runs = [tracing.in_sandbox(pool, [batch], hash_seed=seed)[0][0].text for seed in (1, 1, 2)]
  assert runs[0] == runs[1] != runs[2]


SHOWS_ORDER = (  # Each makes a set of xs, or of its parts, and lets its order be seen.
    'list(set(xs))', '[x for x in {x for x in xs}]', 'tuple({*xs, 1})', 'list(frozenset(xs))', 'list(set(xs) | {9})',
    'list(dict.fromkeys(xs).keys() & set(xs))', 'list(dict.fromkeys(xs).keys() - {5})', 'list(set().union(xs))',
    'set(xs).pop()', 'sorted(set(xs), key=lambda x: 0)', 'max(set(xs), key=lambda x: 0)', 'next(iter(set(xs).copy()))',
    'str(set(xs))', 'list(set(xs).intersection(xs))', 'list(map(list, [set(xs)]))', '[*{*xs}]', 'list(zip(set(xs)))',
    'list(dict.fromkeys(set(xs)))', 'list({3, 11} ^ {6, 20})', 'list({None, *xs})', 'list({(x, None) for x in xs})',
    'list(set(xs) - {5})', 'list(set.union({1}, xs))', '[*{*xs}][len(xs) // 2]',
)  # fmt: skip
NO_ORDER = (
    'sorted(set(xs))', 'set(xs)', 'len({*xs})', 'sum(set(xs))', 'min(frozenset(xs))', '3 in set(xs)', 'set(xs) == {*xs}',
    'all({*xs})', '{x % 3 for x in xs} - {1}', 'set(xs) < {1, *xs}', 'xs[0] - xs[1] | 4', '[set(), str({7}), str(set())]',
    'isinstance({1}, set)', '{frozenset(xs): 1}[frozenset(xs)]', 'set(xs).isdisjoint({4})', '{1, 2} & {2: 1}.keys()',
)  # fmt: skip


@pytest.mark.parametrize('items', [[3, 11], [11, 3, 6], [3, 11, 6, 20, 5], [9, 2, 40, 73]])
@pytest.mark.parametrize('expression', SHOWS_ORDER + NO_ORDER)
def test_other_orders_of_sets_show_what_depends_on_them_and_nothing_else(expression, items):
  outcomes = []
  for order in ('', *tracer.ORDERS):
    batch = Batch(f'def f(xs):\n  return {expression}\n', (f'f({items})',), 'count', order=order)
    outcomes.append(tracer.run_all(vars(batch))[0]['text'])
  assert (len({*outcomes}) > 1) == (expression in SHOWS_ORDER), outcomes


@given(st.lists(NUMBERS), st.lists(NUMBERS), st.sampled_from(tracer.ORDERS))
def test_sets_in_another_order_are_equal_to_the_built_in_ones(one, other, order):
  names = tracer._ORDERS[order]
  for kind in ('set', 'frozenset'):
    left, right, plain = names[kind](one), names['frozenset'](other), set(other)
    pairs = [(left | right, {*one} | plain), (left & right, {*one} & plain), (left ^ right, {*one} ^ plain)]
    for found, expected in [*pairs, (left - right, {*one} - plain), (left.union(other), plain.union(one))]:
      assert found == expected and type(found) is names[kind] and len(list(found)) == len(expected)
      assert tracer.literal(set(found), 1000) == tracer.literal(expected, 1000)


def test_a_batch_beyond_the_limits_costs_only_itself(pool):
  good, slow = Batch(NESTED, ('f(2)',)), Batch('def f(n):\n  return sum(range(10**11))\n', ('f(1)', 'f(2)'))
  start = time.monotonic()
  found = tracing.in_sandbox(pool, [good, slow, good], 1, Limits(cpu_s=0.5))
  assert [[o.text or o.stopped for o in outcomes] for outcomes in found] == [['3'], ['limit', 'limit'], ['3']]
  assert time.monotonic() - start < 20


def test_what_a_program_prints_or_does_to_its_process_is_no_outcome(pool):
  forged = 'print(\'[{"text": "9", "steps": 0, "events": []}]\')\ndef f(n):\n  print(n)\n  return n\n'
  ends = 'def f(n):\n  import os\n  os._exit(0)\n'
  found = tracing.in_sandbox(pool, [Batch(forged, ('f(1)',)), Batch(ends, ('f(1)',)), Batch('def f(', ('f(1)',))], 1)
  assert [outcomes[0].text or outcomes[0].stopped for outcomes in found] == ['1', 'sandbox', 'load']
