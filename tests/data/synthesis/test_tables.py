"""Answers that are literals beside their inputs are found in Python, and branches that compute are left alone."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iquest_jax.data.synthesis import cases, tables
from iquest_jax.data.synthesis.cases import Case

ADD = [Case([1, 2], 3), Case([5, 7], 12), Case([0, 9], 9), Case([-4, 1], -3)]
SUMS = [Case('1 2\n', '3\n'), Case('30 4\n', '34\n'), Case('5 5\n', '10\n'), Case('-8 9\n', '1\n')]


@pytest.mark.parametrize(
    'body',
    [
        'return {1: 3, 5: 12, 0: 9, -4: -3}[a]',
        'return {2: 3, 7: 12, 9: 9}.get(b, -3)',
        'return {(1, 2): 3, (5, 7): 12, (0, 9): 9}.get((a, b), -3)',
        'return {"1,2": 3, "5,7": 12, "0,9": 9, "-4,1": -3}[f"{a},{b}"]',
        'return {"1 2": 3, "5 7": 12, "0 9": 9}.get(f"{a} {b}", a)',
        'if a == 1: return 3\n  if a == 5: return 12\n  if a == 0: return 9\n  return -3',
        'if a - 1 == 0: return 2 + 1\n  if a == 6 - 1: return 6 * 2\n  if not a: return 3 * 3\n  return 1 - 4',
        'return 3 if a == 1 else 12 if a == 5 else 9 if a == 0 else -3',
        'if a in (1,): r = 3\n  elif a in [5]: r = 12\n  elif b == 9: r = 9\n  return r',
        'match a, b:\n    case 1, 2: return 3\n    case 5, 7: return 12\n    case 0, 9: return 9',
        'match a:\n    case 1 | 11: return 3\n    case 5: return 12\n    case 0: return 9',
        'return a + b if (a, b) in [(1, 2), (5, 7), (0, 9), (-4, 1)] else 0',
        'return a + b if [a, b] in ([1, 2], [5, 7], [0, 9]) else 0',
        'return dict([(1, 3), (5, 12), (0, 9), (-4, -3)])[a]',
        'return dict(zip([1, 5, 0, -4], [3, 12, 9, -3]))[a]',
        't = {}\n  t[1] = 3\n  t[5] = 12\n  t[0] = 9\n  return t.get(a)',
    ],
)
def test_tables_of_a_function_are_found(body):
  assert tables.holds_answers(ADD, f'def add(a, b):\n  {body}\n', 'add')


@pytest.mark.parametrize(
    'code',
    [
        'a, b = map(int, input().split())\nprint({1: 3, 30: 34, 5: 10}.get(a, 1))',
        'print({"1 2": 3, "30 4": 34, "5 5": 10}.get(input(), 1))',
        'a, b = input().split()\nif a == "1": print(3)\nelif a == "30": print("34")\nelse: print(1 if b == "9" else 10)',
        's = input()\nprint(sum(map(int, s.split())) if s in ["1 2", "30 4", "5 5", "-8 9"] else 0)',
        'a, b = map(int, input().split())\nprint(a + b if (a, b) in {(1, 2), (30, 4), (5, 5)} else 0)',
    ],
)
def test_tables_of_a_program_are_found(code):
  assert tables.holds_answers(SUMS, code, '')


@pytest.mark.parametrize(
    ('tests', 'code'),
    [
        (ADD, 'def f(a, b):\n  if a == 0: return b\n  if b == 0: return a\n  return a + b'),
        (ADD, 'def f(a, b):\n  """f(1, 2) == 3, f(5, 7) == 12, f(0, 9) == 9."""\n  return a + b'),
        ([Case([0], 0), Case([1], 1), Case([2], 1), Case([3], 2), Case([10], 55)],
         'def f(n):\n  if n == 0: return 0\n  if n == 1: return 1\n  return f(n - 1) + f(n - 2)'),
        ([Case([5], 1), Case([0], 0), Case([-3], -1)],
         'def f(x):\n  if x > 0: return 1\n  if x < 0: return -1\n  return 0'),
        ([Case(['+', 1, 2], 3), Case(['-', 5, 1], 4), Case(['*', 2, 2], 4)],
         'def f(o, a, b):\n  if o == "+": return a + b\n  if o == "-": return a - b\n  return a * b'),
        ([Case([95], 'A'), Case([85], 'B'), Case([10], 'C')],
         'def f(s):\n  if s >= 90: return "A"\n  if s >= 80: return "B"\n  return "C"'),
        ([Case([90], 'A'), Case([80], 'B'), Case([79], 'C')],
         'def f(s):\n  if s >= 90: return "A"\n  if s >= 80: return "B"\n  return "C"'),
        ([Case([3], 'Fizz'), Case([5], 'Buzz'), Case([15], 'FizzBuzz'), Case([7], '7')],
         'def f(n):\n  if n % 15 == 0: return "FizzBuzz"\n  if n % 3 == 0: return "Fizz"\n'
         '  return "Buzz" if n % 5 == 0 else str(n)'),
        ([Case([2], True), Case([3], True), Case([9], False), Case([11], True), Case([1], False)],
         'def f(n):\n  if n == 1: return False\n  if n in (2, 3): return True\n  return all(n % d for d in range(2, n))'),
        ([Case(['III'], 3), Case(['IX'], 9), Case(['XL'], 40)],
         'V = {"I": 1, "V": 5, "X": 10, "L": 50}\ndef f(s):\n  return sum(V[c] for c in s)'),
        (SUMS, 'a, b = map(int, input().split())\nif a == 0: print(b)\nelse: print(a + b)'),
        (ADD, 'def broken('),
        (ADD, 'x = "\ud800"'),
        (ADD, f'x = {"1 + " * 3000}1\ny = 0x{"f" * 9000}'),
    ],
)  # fmt: skip
def test_branches_that_compute_are_left_alone(tests, code):
  assert not tables.holds_answers(tests, code, '' if tests is SUMS else 'f')


def test_a_table_of_a_predicate_is_found():
  tests = [Case([2], True), Case([3], True), Case([9], False)]
  assert tables.holds_answers(tests, 'def f(n):\n  return {2: True, 3: True, 9: False}[n]', 'f')


_VALUE = st.recursive(
    st.integers(-9, 999) | st.text('abc ', min_size=1, max_size=4), lambda inner: st.lists(inner, max_size=3)
)


@settings(max_examples=30)
@given(
    pairs=st.dictionaries(st.tuples(st.integers(-9, 99), st.text('xy', max_size=2)), _VALUE, min_size=2, max_size=6),
    form=st.sampled_from(['{{({0}, {1}): {2}}}', 'x[{0}, {1}] = {2}', '[[({0}, {1}), {2}]]', '{{"{3}": {2}}}']),
)
def test_every_literal_pair_of_input_and_answer_counts(pairs, form):
  known = [Case(list(key), value) for key, value in pairs.items()]
  lines = [form.format(*map(repr, (*case.given, case.expected)), ','.join(map(str, case.given))) for case in known]
  assert tables.holds_answers(known, '\n'.join(lines), 'f')
  half = len(known) // 2
  others = [Case([f'other {place}', 0], [0, place, 0]) for place in range(len(known))]
  assert not tables.holds_answers(others, '\n'.join(lines), 'f')
  assert tables.holds_answers(known, '\n'.join(lines[:half]), 'f') == (half >= 2 and 2 * half > len(known))


@pytest.mark.parametrize(
    ('pairs', 'stub'),
    [
        ([([1, 2], 2), ([3, 4], 4), ([3, 5], 5)], 'a stub that returns argument 2'),
        ([([1, [2]], [2]), ([1, [4]], [4.0])], 'a stub that returns argument 2'),
        ([([1, 2], 1), ([3, 4], 3)], 'a stub that returns argument 1'),
        ([([1, 2], 2), ([3, 4], 3)], ''),
        ([([1, 2], 2), ([3], 3)], ''),
        ([([[4, 5]], 4), ([[6]], 6)], ''),
    ],
)
def test_stubs_return_each_argument(pairs, stub):
  tests = [{'input': json.dumps(given), 'output': json.dumps(result)} for given, result in pairs]
  assert cases.stubs_pass(cases.parse(tests, 'f'), 'f') == stub


def test_stubs_print_each_end_of_the_input():
  assert cases.stubs_pass([Case('2\n5 6\n', '5 6\n'), Case('1\n7\n', '7')], '') == 'a stub that returns the last line'
  assert cases.stubs_pass([Case('2\n5 6\n', '2\n'), Case('1\n7\n', '1')], '') == 'a stub that returns the first line'
  assert cases.stubs_pass([Case('', '1'), Case('1\n7\n', '7')], '') == ''
