"""Verification by execution: right solutions pass, and every planted wrong one is rejected by the rule that names it."""

import dataclasses
import json
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iquest_jax.data.documents import Conversation, Drop, Parallel, Problem
from iquest_jax.data.synthesis import cases, difficulty, execution
from iquest_jax.data.synthesis.cases import Case
from iquest_jax.data.synthesis.verify import CHECKS, PARALLEL_CHECKS, verify
from iquest_jax.sandbox import languages
from iquest_jax.sandbox.limits import Limits

FACTORIAL = 'def fact(n):\n  r = 1\n  for i in range(2, n + 1):\n    r *= i\n  return r\n'
JAVASCRIPT = 'function fact(n) {\n  let r = 1;\n  for (let i = 2; i <= n; i++) r *= i;\n  return r;\n}\n'
STATEMENT = 'Write `fact(n)`, the product of 1 to n: fact(3) == 6 and fact(4) == 24.'
SUM = 'a, b = map(int, input().split())\nprint(a + b)\n'
GO = 'package main\nimport "fmt"\nfunc main() { var a, b int; fmt.Scan(&a, &b); fmt.Println(a + b) }\n'
JAVA = """import java.util.Scanner;
class Main {
  public static void main(String[] args) {
    Scanner s = new Scanner(System.in);
    System.out.println(s.nextInt() + s.nextInt());
  }
}
"""


def calls(*pairs):
  return tuple({'input': json.dumps(given), 'output': json.dumps(result)} for given, result in pairs)


CALLS = calls([[3], 6], [[4], 24], [[5], 120], [[7], 5040])
FUNCTION = Problem('a', STATEMENT, CALLS, FACTORIAL, 'fact')
RUNS = tuple({'input': f'{a} {b}\n', 'output': f'{a + b}\n'} for a, b in [(1, 2), (30, 4), (5, 5), (-8, 9)])
PROGRAM = Problem('b', 'Print the sum of two numbers.', RUNS, SUM)


def chat(answer, tests=CALLS, function='fact', request=STATEMENT):
  messages = ({'role': 'user', 'content': request}, {'role': 'assistant', 'content': answer})
  return Conversation('c', messages, tests=tests, function=function)


def rule(document, pool, **changes):
  found = verify(dataclasses.replace(document, **changes), pool)
  return found.rule if isinstance(found, Drop) else 'kept'


def test_right_solutions_enter_with_the_names_of_their_checks_and_a_difficulty(pool):
  for problem in (FUNCTION, PROGRAM):
    assert verify(problem, pool) == dataclasses.replace(problem, checks=CHECKS, difficulty='easy')
  answer = f'<think>```python\ndef fact(n): return 0\n```</think>Multiply:\n```python\n{FACTORIAL}```\nThat is all.'
  assert verify(chat(answer), pool) == dataclasses.replace(chat(answer), checks=CHECKS, difficulty='easy')
  method = 'class Solution:\n  def fact(self, n):\n    return 1 if n < 2 else n * self.fact(n - 1)\n'
  assert rule(FUNCTION, pool, solution=method, function='Solution().fact') == 'kept'
  pairs = calls([['a', 1.5], ['a', [0.1 + 0.2]]], [['b', 2], ['b', [2.8]]])
  assert rule(FUNCTION, pool, solution='def f(a, b):\n  return a, [b * 1.4 if b == 2 else b / 5]\n', function='f',
              tests=pairs) == 'kept'  # fmt: skip


def test_verified_documents_stay_as_they_are_when_verified_again(pool):
  once = verify(dataclasses.replace(FUNCTION, difficulty='hard', checks=('found in a book',)), pool)
  assert once.difficulty == 'hard' and once.checks == ('found in a book', *CHECKS)
  assert verify(once, pool) == once


def test_a_chat_without_tests_has_nothing_to_be_held_against(pool):
  plain = chat('Hello.', tests=(), function='')
  assert verify(plain, pool) is plain


@pytest.mark.parametrize(
    ('solution', 'expected'),
    [
        ('def fact(n):\n  return n + 3\n', 'verify: wrong answer'),
        ('def fact(n):\n  return 1 / 0\n', 'verify: wrong answer'),
        ('def fact(n) return 1', 'verify: wrong answer'),
        ('import os\nos._exit(0)\n', 'verify: crashed'),
        ('x = b"x" * (1 << 45)\n', 'verify: too much memory'),
        ('def fact(n):\n  return {3: 6, 4: 24}.get(n, 1)\n', 'verify: wrong answer'),
        ('def fact(n):\n  if n == 3: return 6\n  return 24\n', 'verify: wrong answer'),
        ('def fact(n):\n  return {3: 6, 4: 24, 5: 120, 7: 5040}[n]\n', 'verify: literal table of answers'),
        ('def fact(n):\n  if n==3: return 6\n  elif 4 == n: return 24\n  elif n == (5): return 120\n  return 5040\n',
         'verify: literal table of answers'),
        ('def fact(n):\n  match n:\n    case 3: return 6\n    case 4: return 24\n    case 5: return 120\n  return 5040\n',
         'verify: literal table of answers'),
        ('def fact(n):\n  return dict([(3, 6), (4, 24), (5, 120), (7, 5040)])[n]\n', 'verify: literal table of answers'),
        ('T = {"[3]": 6, "[4]": 24, "[5]": 120, "[7]": 5040}\ndef fact(*n):\n  return T[repr(list(n))]\n',
         'verify: literal table of answers'),
        ('', 'verify: no solution'),
        ('x = "\ud800"', 'verify: wrong answer'),
    ],
)  # fmt: skip
def test_planted_wrong_solutions_are_rejected(pool, solution, expected):
  assert rule(FUNCTION, pool, solution=solution) == expected
  assert rule(chat(f'```python\n{solution}```'), pool) == expected


def test_what_runs_too_long_is_rejected(pool, monkeypatch):
  monkeypatch.setattr(execution, 'LIMITS', Limits(wall_s=0.5))
  assert rule(FUNCTION, pool, solution='def fact(n):\n  while True: pass\n') == 'verify: timeout'


@pytest.mark.parametrize(
    ('tests', 'expected'),
    [
        (calls([[3], 6], [[3], 6]), 'verify: tests pass on anything'),
        (calls([[3], None], [[4], None]), 'verify: tests pass on anything'),
        (calls([[3], 3], [[4], 4.0]), 'verify: tests pass on anything'),
        (calls([[3], 6], [[4], 24]), 'verify: no hidden test'),
        (calls([[3], 6], [[4], 24], [[5], 120]), 'verify: hidden tests pass on anything'),
        (calls([[3], 6], [[4], 24], [[5], 120], [[5], 120]), 'verify: hidden tests pass on anything'),
        ((), 'verify: no tests'),
        (({'input': '[3', 'output': '6'},), 'verify: malformed test'),
        (({'input': '[' * 100_000, 'output': '6'},), 'verify: malformed test'),
        (({'input': '[' * 400 + ']' * 400, 'output': '6'},), 'verify: malformed test'),
        (({'input': '3', 'output': '6'},), 'verify: malformed test'),
        (({'input': '[3]'},), 'verify: malformed test'),
        (({'input': '[3]', 'output': '"\\ud800"'},), 'verify: malformed test'),
    ],
)
def test_tests_that_cannot_say_no_are_rejected(pool, tests, expected):
  assert rule(FUNCTION, pool, tests=tests) == expected


@pytest.mark.parametrize(
    ('tests', 'expected'),
    [
        ([('1', ''), ('2', '\n')], 'verify: tests pass on anything'),
        ([('1', '5'), ('2', '5.0 \n')], 'verify: tests pass on anything'),
        ([('1\n', '1'), ('2', '2')], 'verify: tests pass on anything'),
        ([('1 2', '3'), ('2', 4)], 'verify: malformed test'),
        ([('1 2', '\ud800'), ('2', '4')], 'verify: malformed test'),
    ],
)
def test_runs_that_cannot_say_no_are_rejected(pool, tests, expected):
  assert rule(PROGRAM, pool, tests=tuple({'input': given, 'output': out} for given, out in tests)) == expected


def test_a_program_that_prints_what_it_looks_up_is_rejected(pool):
  table = 'print({"1 2": 3, "30 4": 34, "5 5": 10, "-8 9": 1}[input()])\n'
  assert rule(PROGRAM, pool, solution=table) == 'verify: literal table of answers'
  split = 'a, b = map(int, input().split())\n'
  split += ''.join(f'if a == {a} and b == {b}: print({a + b})\n' for a, b in [(1, 2), (30, 4), (5, 5), (-8, 9)])
  assert rule(PROGRAM, pool, solution=split) == 'verify: literal table of answers'


@pytest.mark.parametrize(
    ('function', 'solution', 'expected'),
    [
        ('sorted', 'x = 1\n', 'verify: built-in function'),
        ('__builtins__', 'x = 1\n', 'verify: built-in function'),
        ('(lambda n: n)', 'x = 1\n', 'verify: malformed function name'),
        ('fact.__call__', FACTORIAL, 'verify: malformed function name'),
        ('missing', FACTORIAL, 'verify: wrong answer'),
    ],
)
def test_a_grader_calls_the_solution_and_nothing_else(pool, function, solution, expected):
  tests = calls([[[2, 1]], [1, 2]], [[[4, 3]], [3, 4]])
  assert rule(FUNCTION, pool, function=function, solution=solution, tests=tests) == expected


def test_a_language_that_cannot_run_here_is_counted(pool, monkeypatch):
  assert rule(PROGRAM, pool, language='cobol') == 'verify: unknown language'
  assert rule(FUNCTION, pool, language='bash') == 'verify: functions of this language are not called'
  if not lacks(pool, 'cpp'):
    mixed = calls([[3], 6], [['a'], 24], [[5], None])
    assert rule(FUNCTION, pool, language='cpp', tests=mixed) == 'verify: types that this language does not have'
  monkeypatch.setattr(languages, 'missing', lambda name, everyone=False: ('go',))
  assert rule(PROGRAM, pool, language='go') == 'verify: toolchain missing'


def lacks(pool, language):
  return bool(languages.missing(language, pool.backend == 'landlock' and os.geteuid() == 0))


def test_a_pair_of_functions_must_agree_on_every_test(pool):
  if lacks(pool, 'javascript'):
    pytest.skip('node is not installed')
  pair = Parallel('p', (('python', FACTORIAL), ('javascript', JAVASCRIPT)), CALLS, 'fact')
  assert verify(pair, pool) == dataclasses.replace(pair, checks=PARALLEL_CHECKS)
  wrong = {
      JAVASCRIPT.replace('<=', '<'): 'verify: wrong answer',
      JAVASCRIPT.replace('return r', 'return String(r)'): 'verify: wrong answer',
      JAVASCRIPT.replace('return r', 'console.log(r)'): 'verify: wrong answer',
      'process.exit(0);' + JAVASCRIPT: 'verify: wrong answer',
      'const fact = (n) => ({3: 6, 4: 24, 5: 120})[n] ?? 5040;': 'verify: literal table of answers',
      JAVASCRIPT[:-2]: 'verify: crashed',
      ' ': 'verify: no code',
  }
  for code, expected in wrong.items():
    assert rule(pair, pool, sides=(('python', FACTORIAL), ('javascript', code))) == expected
  assert rule(pair, pool, sides=(('python', FACTORIAL), ('python', FACTORIAL))) == 'verify: one language twice'
  assert rule(pair, pool, tests=CALLS[:1]) == 'verify: tests pass on anything'


def test_results_of_javascript_are_compared_as_data(pool):
  if lacks(pool, 'javascript'):
    pytest.skip('node is not installed')
  values = [1, 1.0, -0.5, 0, True, None, 'ä"\n', [1, [2.0]], {'b': 1, 'a': [None]}, {'10': 1, '9': 2}, [], {}, ['list'], '']
  same = [Case([value], value) for value in values]
  assert execution.rejects('javascript', 'const f = (x) => x;', 'f', same, pool) is None
  for one, other in ([0, False], [None, False], ['1', 1], [[], {}], [['list'], []], [[1, 2], [2, 1]], [[[1], 2], [1, [2]]]):
    rejected = execution.rejects('javascript', 'const f = (x) => x;', 'f', [Case([one], other)], pool)
    assert rejected.rule == 'verify: wrong answer', (one, other)


@pytest.mark.parametrize(
    ('language', 'code'),
    [
        ('bash', 'read a b\necho $((a + b))\n'),
        ('c', '#include <stdio.h>\nint main() { int a, b; scanf("%d %d", &a, &b); printf("%d", a + b); }\n'),
        pytest.param('go', GO, marks=pytest.mark.long),
        pytest.param('java', JAVA, marks=pytest.mark.long),
    ],
)
def test_programs_of_other_languages_are_verified(pool, language, code):
  if lacks(pool, language):
    pytest.skip(f'the toolchain of {language} is not installed')
  assert rule(PROGRAM, pool, language=language, solution=code) == 'kept'
  assert rule(PROGRAM, pool, language=language, solution=code.replace('a + b', 'a - b').replace('+ s', '- s')) != 'kept'
  answer = chat(f'```{language}\n{code}```', RUNS, '', PROGRAM.statement)
  assert rule(answer, pool) == 'kept'


_PLAIN = st.one_of(st.integers(0, 2), st.sampled_from([None, True, 1.0, '', 'a', [1], [1.0]]))


@settings(max_examples=12)
@given(pairs=st.lists(st.tuples(_PLAIN, _PLAIN), min_size=1, max_size=3), by_run=st.booleans())
def test_what_stubs_answer_is_what_the_sandbox_sees_them_answer(pool, pairs, by_run):
  function = '' if by_run else 'f'
  found = [Case(str(a), str(b)) if by_run else Case([a], b) for a, b in pairs]
  constant = found[0].expected
  stubs = [f'print({constant!r})', 'print(input())'] if by_run else [f'def f(x): return {constant!r}', 'def f(x): return x']
  passing = [execution.rejects('python', stub, function, found, pool) is None for stub in stubs]
  assert bool(cases.stubs_pass(found, function)) == any(passing)


_WRITTEN = st.sampled_from(['[3]', '6', '{', '\ud800'])
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | _WRITTEN,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=4,
)
_NAMES = st.sampled_from(['', 'fact', 'fact()', 'sum', 'a b', 'ä', 'Solution().fact', '()'])
_TESTS = st.lists(st.fixed_dictionaries({}, optional={'input': _JSON, 'output': _JSON, 'more': _JSON}), max_size=3)


@settings(max_examples=40)
@given(tests=_TESTS, function=_NAMES, text=st.text())
def test_malformed_documents_are_dropped_with_a_reason(pool, tests, function, text):
  tests = tuple(tests)
  for document in (
      dataclasses.replace(FUNCTION, tests=tests, function=function, statement=text),
      dataclasses.replace(PROGRAM if not function else FUNCTION, tests=tests, function=function, solution=text),
      Conversation('c', ({'role': 'user', 'content': text},), tests=tests, function=function),
      Parallel('p', (('python', FACTORIAL), ('javascript', text)), tests, function),
  ):
    found = verify(document, pool)
    assert isinstance(found, Drop) and found.rule.startswith('verify: ') or not tests


@pytest.mark.parametrize(
    ('statement', 'shown'),
    [
        ('add(1, 2) == 3', [0]),
        ('add(1,2) gives 3', [0]),
        ('for 1, 2 the answer is 3; for -1, 2: 1', [0, 1]),
        ('add(11, 2) == 3', []),
        ('add(1, 2.5) == 3', []),
        ('add(1, 2) == 33', []),
        ('Add two numbers.', []),
    ],
)
def test_shown_tests_are_told_from_hidden_ones(statement, shown):
  found = [Case([1, 2], 3), Case([-1, 2], 1), Case([40, 2], 42)]
  assert cases.hidden(found, statement, 'add') == [case for place, case in enumerate(found) if place not in shown]
  for one, text in ((['it', 'x'], "f('it', \"x\") -> ['x']"), ([True, None], "f(true, null) is ['x']")):
    assert not cases.hidden([Case(one, ['x'])], text, 'f')
  assert not cases.hidden([Case('2\n3 4\n', '7\n')], 'Input\n```\n2\n3 4\n```\nOutput\n```\n7\n```', '')


def test_a_solution_may_treat_small_inputs_on_their_own():
  found = cases.parse(calls([[0], 0], [[1], 1], [[2], 1], [[3], 2], [[10], 55]), 'fib')
  assert not cases.holds_answers(found, 'def fib(n):\n  if n == 0: return 0\n  if n == 1: return 1\n  ...', 'fib')
  even = cases.parse(calls([[0], True], [[1], False], [[2], True]), 'even')
  assert not cases.holds_answers(even, 'def even(n):\n  if n % 2 == 0: return True\n  return False', 'even')


def test_a_solution_may_repeat_the_examples_of_its_request(pool):
  example = '  """The product of 1 to n.\n\n  >>> fact(3) == 6, fact(4) == 24, fact(5) == 120\n  """\n'
  assert rule(FUNCTION, pool, solution=FACTORIAL.replace(':\n', f':\n{example}', 1)) == 'kept'


def test_difficulty_grows_with_statements_and_with_nesting():
  flat = 'def f(a):\n' + '  a += 1\n' * 14
  nested = 'def f(a):\n' + ''.join(f'{"  " * depth}for i in a:\n' for depth in range(1, 9)) + '  ' * 9 + 'a += 1\n'
  assert [difficulty.label(code, 'python') for code in (FACTORIAL, flat, nested, flat * 3)] == [
      'easy', 'medium', 'medium', 'hard']  # fmt: skip
  assert difficulty.label(JAVASCRIPT, 'javascript') == 'easy' and difficulty.label('select 1', 'sql') == ''
  assert difficulty.score([(0, 9), (1, 8), (2, 7), (3, 4), (5, 6), (9, 10)]) == 1 + 1 + 1 + 2 + 2 + 1
