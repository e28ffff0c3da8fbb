"""Environments and their tools: results are text, also of what a model got wrong, and nothing evaluates a model's text."""

import contextlib
import dataclasses
import math
import re
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iquest_jax.rl.environment import SingleTurn, ToolUse
from iquest_jax.rl.tools import PYTHON_LIMITS, ToolError, calculator, evaluate, python
from iquest_jax.rl.types import Prompt
from iquest_jax.sandbox.limits import Limits
from iquest_jax.text import chat

PROMPT = Prompt('p', ({'role': 'user', 'content': 'What is 2 + 3?'},))
CALCULATE = calculator()


def said(*calls):
  return chat.parse(''.join(f'<tool_call>\n{call}\n</tool_call>' for call in calls))


def call(name, **arguments):
  return chat.rendered({'role': 'assistant', 'content': '', 'tool_calls': [{'name': name, 'arguments': arguments}]})[1]


def test_a_single_turn_is_over_after_one_reply():
  environment = SingleTurn()
  assert environment.reset(PROMPT) == (PROMPT.messages, ())
  assert environment.step(chat.parse('5')) is None


def test_tools_are_offered_called_in_order_and_the_first_reply_without_a_call_is_the_answer():
  environment = ToolUse([CALCULATE], max_turns=2)
  prompt = dataclasses.replace(PROMPT, tools=(CALCULATE.definition,), executes=('calculator',))
  assert environment.reset(prompt) == (PROMPT.messages, (CALCULATE.definition,))
  reply = chat.parse(call('calculator', expression='2 + 3') + call('calculator', expression='2 * 3'))
  assert environment.step(reply) == ({'role': 'tool', 'content': '5'}, {'role': 'tool', 'content': '6'})
  assert environment.step(chat.parse('It is 5.')) is None


@pytest.mark.parametrize(
    ('reply', 'result'),
    [
        (call('shell', expression='1'), 'error: tool "shell" does not exist; choose from calculator'),
        (call('calculator', text='1'), 'error: calculator takes one argument, the string "expression"'),
        (call('calculator', expression=1), 'error: calculator takes one argument, the string "expression"'),
        (call('calculator', expression='1 / 0'), 'error: division by zero'),
        ('<tool_call>{"name": </tool_call>', 'error: malformed tool call: Expecting value'),
        ('<tool_call>{}', 'error: <tool_call> is not closed'),
    ],
)
def test_a_wrong_call_is_answered_with_what_is_wrong(reply, result):
  (message,) = ToolUse([CALCULATE], max_turns=2).step(chat.parse(reply))
  assert message['content'].startswith(result)


@pytest.mark.parametrize(
    ('expression', 'value'),
    [
        ('2 + 3 * 4', '14'),
        ('(2 + 3) * 4', '20'),
        ('-2 ** 2', '-4'),
        ('2 ** 3 ** 2', '512'),
        ('2 ^ -2', '0.25'),
        ('7 // -2 + 7 % -2', '-5'),
        ('0.1 + 0.2', '0.3'),
        ('1 - -1', '2'),
        ('8 / 2 / 2', '2'),
        ('10 - 3 - 2', '5'),
        ('1e3 + .5', '1000.5'),
        ('2 ** 200', str(2**200)),
    ],
)
def test_the_calculator_follows_the_precedence_of_arithmetic(expression, value):
  assert CALCULATE({'expression': expression}) == value


def trees():
  """Expressions as Python writes them, with more parentheses than they need."""
  numbers = st.integers(0, 99).map(str)
  join = lambda inner: st.tuples(inner, st.sampled_from(['+', '-', '*', '//', '%', '/']), inner)
  written = lambda inner: join(inner).map(lambda parts: f'({" ".join(parts)})')
  return st.recursive(numbers, written, max_leaves=12)


@given(trees())
def test_the_calculator_computes_what_python_computes(expression):
  exact = re.sub(r'\d+', lambda number: f'Fraction({number[0]})', expression)
  try:
    value = eval(exact, {'Fraction': Fraction})
  except ZeroDivisionError:
    with pytest.raises(ToolError, match='division by zero'):
      evaluate(expression)
  else:
    assert evaluate(expression) == value


@given(st.text('0123456789+-*/%^(). e', max_size=60) | st.text(max_size=20))
def test_whatever_a_model_writes_the_calculator_answers(text):
  with contextlib.suppress(ToolError, OverflowError):  # whole numbers may have more digits than a float
    assert math.isfinite(float(CALCULATE({'expression': text})))


@pytest.mark.parametrize(
    'expression',
    ['', '1 +', '(1', '1)', '1 2', '2 ** 0.5', '9 ** 9 ** 9', '1e9999', '(' * 200, '*'.join(['9' * 40] * 7) + '**9**9',
     '__import__("os")', '1' * 301, '0 ** -1', '1 % 0'],
)  # fmt: skip
def test_the_calculator_refuses_what_is_no_arithmetic_or_too_large(expression):
  with pytest.raises(ToolError):
    CALCULATE({'expression': expression})


def test_python_returns_what_is_printed_errors_and_limits_as_text(pool):
  run = lambda code, limits=PYTHON_LIMITS: python(pool, limits)({'code': code})
  assert run('print(2 ** 10)') == '1024'
  assert run('x = 1') == '(no output)'
  failed = run('print(1)\ndef g():\n  return 1 / 0\ng()')
  assert failed.startswith('1\nerror: the program ended with status 1\n  File "main.py", line 4, in <module>')
  assert failed.endswith('ZeroDivisionError: division by zero') and '/opt' not in failed
  assert run('while True: pass', Limits(wall_s=1, cpu_s=0.3)).startswith('error: the program exceeded the limit of ')
  long = run('print("a" * 5000 + "b" * 5000)')
  assert len(long) < 2100 and long.startswith('aaa') and long.endswith('bbb') and '8001 characters' in long
  assert 'Error' in run('open("/etc/shadow").read()')
