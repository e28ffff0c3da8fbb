"""Code is found in answers as models write them: fenced or not, thought about first, cut off, or a megabyte of anything."""

import time

import pytest

from iquest_jax.text import extract
from iquest_jax.text.extract import Block

ADD = 'def add(a, b):\n  return a + b\n'
SUB = 'def sub(a, b):\n  return a - b\n'


@pytest.mark.parametrize(
    ('answer', 'code'),
    [
        (f'```python\n{ADD}```', ADD),
        (f'Here it is:\n\n```py\n{ADD}```\nIt adds.', ADD),
        (f'```\n{ADD}```', ADD),
        (f'~~~python\n{ADD}~~~', ADD),
        (f'Here it is: ```python\n{ADD}``` as you wished', ADD + '``` as you wished\n'),  # not a closing fence
        (f'```python\n{ADD}', ADD),  # cut off
        (f'```python title="a.py"\n{ADD}```', ADD),
        (f'```{{.python}}\n{ADD}```', ADD),
        (f'````\n```python\n{ADD}```\n````', f'```python\n{ADD}```\n'),
        ('1. So:\n   ```python\n   def f():\n     return 1\n   ```', 'def f():\n  return 1\n'),
        (f'```python\r\n{ADD}```'.replace('\n', '\r\n').replace('\r\r', '\r'), ADD),
        ('```python\nx = "a\x0cb\u2028c"\n```', 'x = "a\x0cb\u2028c"\n'),
        (f'Use ```add``` so: ```x```\n{ADD}', ADD),
        ('', ''),
        ('I cannot do that.', ''),
        ('```', ''),
        ('```\n```', ''),
    ],
)
def test_a_block_is_the_code_of_an_answer(answer, code):
  assert extract.code(answer) == code


@pytest.mark.parametrize(
    ('answer', 'code'),
    [
        (f'<think>\n```python\n{SUB}```\n</think>\n```python\n{ADD}```', ADD),
        (f'```python\n{SUB}```\n</think>\n```python\n{ADD}```', ADD),  # the prompt opened the span
        (f'```python\n{ADD}```\n<think>or\n```python\n{SUB}```', ADD),  # cut off in its second thoughts
        (f'<think>```python\n{SUB}```', ''),
        (f'```python\n{SUB}```\n</think>\nI do not know.', ''),
        (f'```python\n{SUB}```\n<think>a</think>b</think>\nI do not know.', ''),
        (f'<think>a</think>b</think>```\n{ADD}```', ADD),
        (f'<think>a<think>b</think>```\n{ADD}```', ADD),
    ],
)
def test_thinking_is_no_part_of_the_code(answer, code):
  assert extract.code(answer) == code


def test_of_several_blocks_the_last_of_the_language_that_defines_the_name_is_taken():
  answer = f'```python\n{ADD}```\n```python\n{SUB}```\n```bash\npython add.py\n```\n```python\nprint(add(1, 2))\n```'
  assert extract.code(answer) == 'print(add(1, 2))\n'
  assert extract.code(answer, defines='add') == ADD and extract.code(answer, defines='sub') == SUB
  assert extract.code(answer, defines='ad') == extract.code(answer)  # a whole name
  assert extract.code(answer, 'bash') == 'python add.py\n' and extract.code('```sql\nselect 1\n```') == 'select 1\n'
  assert extract.code(f'```python\nclass A:\n  pass\n```\n```python\n{SUB}```', defines='A') == 'class A:\n  pass\n'


def test_blocks_are_listed_with_their_languages_in_order():
  assert extract.blocks(f'a\n```C++\nint x;\n```\nb\n```\n{ADD}') == [Block('c++', 'int x;\n'), Block('', ADD)]
  assert extract.code('```rs\nfn f() {}\n```\n```c++\nint x;\n```', 'rust') == 'fn f() {}\n'


@pytest.mark.parametrize(
    ('answer', 'code'),
    [
        (ADD, ADD),
        (f'Here is the function.\n\n{ADD}\nIt returns the sum of both.', ADD),
        (f'import os\n\n@cache\n{ADD}\nprint(add(1, 2))\nThat is all', f'import os\n\n@cache\n{ADD}\nprint(add(1, 2))\n'),
        ('x = """\nIt stays.\n"""\ny = 1\nDone, I think', 'x = """\nIt stays.\n"""\ny = 1\n'),
        ('It\'s """ here\nx = 1\nEnd of it', 'x = 1\n'),
        ('def f(a,\n      b\n):\n  return a\nBye bye', 'def f(a,\n      b\n):\n  return a\n'),
        ('x = 1\nif x:\n  y = 2\nelse:\n  y = 3\nassert y\n', 'x = 1\nif x:\n  y = 2\nelse:\n  y = 3\nassert y\n'),
    ],
)  # fmt: skip
def test_prose_around_unfenced_python_is_dropped(answer, code):
  assert extract.code(answer) == code


def test_unfenced_text_of_other_languages_is_taken_whole():
  assert extract.code('\nSELECT 1;\nSELECT 2;', 'sql') == 'SELECT 1;\nSELECT 2;\n' and extract.code(' \n', 'sql') == ''


MEGABYTES = {
    'backticks': '`' * (1 << 20),
    'fences': '```\n' * (1 << 18),
    'fences in a line': '```x' * (1 << 18),
    'opened thoughts': '<think>' * (1 << 17),
    'closed thoughts': '</think>' * (1 << 17),
    'quotes': 'x = 1\n' + '"""' * (1 << 18),
    'mixed quotes': 'x = 1\n' + '\'\'\'"""' * (1 << 17),
    'blanks': 'def f():' + ' \n' * (1 << 19),
    'one word': 'def f(): pass\n' + 'a' * (1 << 20),
    'dots and brackets': 'x = 1\n' + 'a.b[' * (1 << 18),
    'definitions': '```\n' + 'def ' * (1 << 18),
    'indented definitions': '```\n' + '\n \t' * (1 << 18),
}


@pytest.mark.parametrize('text', MEGABYTES)
def test_a_megabyte_takes_time_linear_in_its_length(text):
  """A quadratic scan of any of these takes a minute or more, where one pass takes up to a second."""
  start = time.process_time()
  extract.code(MEGABYTES[text], defines='f')
  assert time.process_time() - start < 10
