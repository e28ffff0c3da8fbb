"""What a model was asked for is taken out of its answer, and whatever else it says is None, never an error."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iquest_jax.data.synthesis import answers

TYPES = {'question': str, 'number': int}
RECORD = {'question': 'What?', 'number': 3}


@pytest.mark.parametrize(
    'text',
    [
        json.dumps(RECORD), f'Here it is:\n{json.dumps(RECORD)}\nThat is all.',
        f'```json\n{json.dumps(RECORD, indent=1)}\n```',
        f'<think>{{"question": "no", "number": 1}}</think>{json.dumps(RECORD)}', json.dumps(RECORD | {'more': [1]}),
        f'```python\nx = {{}}\n```\n```\n{json.dumps(RECORD)}\n```',
    ],
)  # fmt: skip
def test_an_object_is_found_wherever_it_stands(text):
  assert answers.fields(text, TYPES) == RECORD


@pytest.mark.parametrize(
    'text',
    [
        '', 'no', '[]', '{}', '3', '{"question": "What?"}', '{"question": "What?", "number": "3"}', '[' * 99999,
        '{"question": "What?", "number": true}', '{"question": " ", "number": 3}', '{"question": null, "number": 3}',
        '{"question": "What?", "number": 3', '{"question": "What?", "number": NaN}', '{' * 99999 + '}',
        '<think>{"question": "What?", "number": 3}',
    ],
)  # fmt: skip
def test_what_is_no_such_object_is_none(text):
  assert answers.fields(text, TYPES) is None


def test_sections_are_told_apart_by_their_headings_outside_of_fences():
  text = 'Sure.\n## Problem\nTwo\nlines\n\n### solution:\n```python\n# Problem\n## Answer\nx = 1\n```\n## Answer ##\n4\n'
  assert answers.sections(text, ('Problem', 'Solution', 'Answer')) == {
      'Problem': 'Two\nlines', 'Solution': '```python\n# Problem\n## Answer\nx = 1\n```', 'Answer': '4',
  }  # fmt: skip
  assert answers.sections(text, ('Problem', 'Proof')) is None
  assert answers.sections(text + '## Answer\n5', ('Problem', 'Answer')) is None  # given twice
  assert answers.sections('## Problem\n\n## Answer\n4', ('Problem', 'Answer')) is None  # empty


@given(st.text(alphabet='#`~ aA\n{}":[]<think>/', max_size=80))
def test_any_text_gives_what_was_asked_for_or_nothing(text):
  fields, sections = answers.fields(text, {'a': str}), answers.sections(text, ('A', 'a b'))
  assert fields is None or isinstance(fields['a'], str) and fields['a'].strip()
  assert sections is None or set(sections) == {'A', 'a b'} and all(map(str.strip, sections.values()))


_LINES = st.lists(st.sampled_from(['x = 1', '', '  y', 'word # no heading', '- item']), min_size=1).map('\n'.join)


@given(_LINES.filter(str.strip), _LINES.filter(str.strip))
def test_sections_come_back_as_they_were_written(one, other):
  text = f'## One\n{one}\n## Other\n{other}'
  assert answers.sections(text, ('Other', 'One')) == {'One': one.strip(), 'Other': other.strip()}
