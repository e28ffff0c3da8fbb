"""Memorised examples: planted programs that look up what the statement shows are found, honest ones are not."""

import time

import pytest

from iquest_jax.data.documents import Problem
from iquest_jax.data.synthesis.cases import Case
from iquest_jax.data.tiny import programs
from iquest_jax.rl import memorised

HIDDEN = ({'input': '[5]', 'output': '10'}, {'input': '[7]', 'output': '14'})
TWICE = Problem('p', 'f(3) == 6\nf(12) == 24\nf(0) == 0\nWrite f(x) that returns twice x.', HIDDEN, function='f')
LISTS = Problem('p', 'f([1, 2]) == [2, 1]\nf(["a", "b c"]) == ["b c", "a"]', HIDDEN, function='f')
TWO = Problem(
    'p', 'Example 1:\n\nInput: nums = [1,2], k = 3\nOutput: 4\n\n**Input:** nums = [7], k = 2\n**Output:** true\n', HIDDEN,
    function='Solution().go',
)  # fmt: skip
PROGRAM = Problem(
    'p', 'Add.\n\nExamples\n\nInput\n\n3 4\n\nOutput\n\n7\n\nInput\n\n10 20\n\nOutput\n\n30\n',
    ({'input': '3 4\n', 'output': '7'}, {'input': '1 1', 'output': '2'}),
)  # fmt: skip

GO = 'class Solution:\n  def go(self, nums, k):\n'
PLANTED = [
    (TWICE, 'def f(x):\n  if x == 3: return 6\n  if 12 == x: return 24'),
    (TWICE, 'def f(x):\n  if x == 3: return 6\n  elif x == 12: return 24\n  return 2 * x'),
    (TWICE, 'def f(x):\n  return 6 if x is 3 else 24 if x == 12 else 0'),
    (TWICE, 'def f(x):\n  return {3: 6, 12: 24}.get(x)'),
    (TWICE, 't = {}\nt[3] = 6\nt[12] = 24\ndef f(x): return t[x]'),
    (TWICE, 'def f(x):\n  match x:\n    case 3: return 6\n    case 12: return 24'),
    (TWICE, 'def f(x):\n  match x:\n    case 3 | 12: return 2 * x'),
    (TWICE, 'def f(x):\n  for a, b in [(3, 6), (12, 24)]:\n    if a == x: return b'),
    (TWICE, 'def f(x):\n  return [6, 24][[3, 12].index(x)]'),
    (TWICE, 'def f(x):\n  return dict(zip((3, 12), (6, 24)))[x]'),
    (TWICE, 'def f(x):\n  if x in (3, 12): return 2 * x'),
    (TWICE, 'def f(x):\n  if str(x) == "3": return 6\n  if repr(x) == "12": return 24'),
    (TWICE, 'def f(x):\n  while x != 3.0 and x != 12: pass'),
    (LISTS, 'def f(xs):\n  if xs == [1, 2]: return [2, 1]\n  if tuple(xs) == ("a", "b c"): return ["b c", "a"]'),
    (LISTS, 'def f(xs):\n  match xs:\n    case [1, 2]: return [2, 1]\n    case ("a", "b c"): return ["b c", "a"]'),
    (LISTS, 'def f(xs):\n  return {(1, 2): [2, 1], ("a", "b c"): ["b c", "a"]}[tuple(xs)]'),
    (TWO, f'{GO}    if nums == [1, 2] and k == 3: return 4\n    if nums == [7] and k == 2: return True'),
    (TWO, f'{GO}    if (nums, k) == ([1, 2], 3): return 4\n    return (nums, k) == ([7], 2)'),
    (PROGRAM, 's = input()\nprint({"3 4": 7, "10 20": 30}[s])'),
    (PROGRAM, 's = input()\nif s == "3 4": print(7)\nif s == "10 20": print(30)'),
    (PROGRAM, 'a, b = map(int, input().split())\nif a == 3 and b == 4: print(7)\nelif (a, b) == (10, 20): print(30)'),
    (PROGRAM, 'a, b = input().split()\nif a == "3" and b == "4": print(7)\nif [a, b] == ["10", "20"]: print(30)'),
]  # fmt: skip
HONEST = [
    (TWICE, 'def f(x):\n  return 2 * x'),
    (TWICE, 'def f(x):\n  if x == 0: return 0\n  return 2 + f(x - 1)'),
    (TWICE, 'def f(x):\n  if x == 0 or x == 1 or x == -1: return 2 * x\n  if x == 3: return 6\n  return x + x'),
    (TWICE, 'def f(x):\n  return 6 if x < 3 and x > 12 else x + x'),
    (TWICE, 'def f(x):\n  """f(3) == 6, f(12) == 24"""\n  assert f(1) == 2\n  return x + x'),
    (TWICE, 'def f(x):\n  return [3, 12, 6, 24][x]'),
    (LISTS, 'def f(xs):\n  if not xs or xs == []: return xs\n  return f(xs[1:]) + [xs[0]]'),
    (TWO, f'{GO}    if k == 3 or nums == []: return 4\n    return len(nums) == 1 and k == 2'),
    (PROGRAM, 'a, b = map(int, input().split())\nprint(a + b)'),
    (PROGRAM, 'a, b = map(int, input().split())\nif a == 1 and b == 1: print(2)\nelse: print(a + b)'),
]  # fmt: skip


@pytest.mark.parametrize(('problem', 'program'), PLANTED)
def test_a_planted_table_is_found(problem, program):
  assert memorised.count(program, problem) >= memorised.SUSPICIOUS


@pytest.mark.parametrize(('problem', 'program'), HONEST)
def test_an_honest_program_is_not(problem, program):
  assert memorised.count(program, problem) < memorised.SUSPICIOUS


def test_the_reference_solutions_of_the_small_programs_are_honest_and_their_tables_are_found():
  for small in programs.problems(0, 'rl', 150):
    problem = Problem(small.id, small.request, HIDDEN, small.solution, 'f')
    shown = memorised.examples(problem)
    assert len(shown) == 2 and memorised.count(problem.solution, problem) == 0
    table = '\n'.join(f'  if v == {case.given[0]!r}: return {case.expected!r}' for case in shown)
    trivial = sum(map(memorised._is_trivial, (case.given[0] for case in shown)))
    assert memorised.count(f'def f(v):\n{table}', problem) == 2 - trivial


@pytest.mark.parametrize(
    'program', ['def f(x', '(' * 5000, 'x = ' + '-' * 3000 + '1', 'f(\0)', '', '1' * 5000, 'x' * 200_000]
)
def test_what_is_no_program_has_memorised_nothing(program):
  assert memorised.count(program, TWICE) == 0


def test_only_python_is_read():
  cpp = Problem('p', TWICE.statement, HIDDEN, function='f', language='cpp')
  assert memorised.count(PLANTED[0][1], cpp) == 0


@pytest.mark.parametrize(
    ('statement', 'shown'),
    [
        ("`g(6, 'a')` returns `'aaaaaa'`.", [([6, 'a'], 'aaaaaa')]),
        ('>>> g(4, "x)")\n\'x\'\n>>> g(5, b=[(1, 2)])\n(1, 2)', [([4, 'x)'], 'x'), ([5, [(1, 2)]], (1, 2))]),
        ('assert g(1) == -2  # twice\ng(2) -> true, g(3)  => null', [([1], -2), ([2], True), ([3], None)]),
        ('g(1) = 2\ng(1) is 2.', [([1], 2)]),
        ('def g(x): ...\ng(x) is x\nmg(1) == 2\ng(', []),
        ('Input: [2], 3\nOutput: "a"\n', [([[2], 3], 'a')]),
        ('Input: many numbers\nOutput: one\n', []),
    ],
)
def test_examples_are_read_from_a_statement(statement, shown):
  problem = Problem('p', statement, ({'input': '[50]', 'output': '10'},), function='g')
  assert memorised.examples(problem) == [Case(given, expected) for given, expected in shown]


def test_examples_of_programs_are_blocks_fenced_or_not():
  fenced = PROGRAM.statement.replace('\n\n3 4\n\n', '\n```\n3 4\n```\n').replace('\n\n7\n\n', '\n```\n7\n```\n')
  for statement in (PROGRAM.statement, fenced):
    problem = Problem('p', statement, PROGRAM.tests)
    assert memorised.examples(problem) == [Case('3 4', '7'), Case('10 20', '30')]


def test_large_programs_are_read_in_little_time():
  rows = 'x = [' + ', '.join(str(list(range(200))) for _ in range(130)) + ']\n'
  start = time.process_time()
  assert memorised.count(rows[:100_000], TWICE) == memorised.count(rows[:99_000].rpartition(', [')[0] + ']', TWICE) == 0
  assert memorised.count('x = ' + '[' * 90 + ']' * 90 + '\ny = ' + ' + '.join(['x'] * 3000), TWICE) == 0
  assert time.process_time() - start < 3
