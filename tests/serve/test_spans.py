"""However a text is cut into pieces, its parts are those of the whole text."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from iquest_jax.serve.spans import CALL, CONTENT, THINKING, Splitter
from iquest_jax.text import chat

CALLS = ['{"name": "f", "arguments": {"x": "<\\/tool_call>"}}', '<function=f>\n<parameter=x>\n1\n</parameter>\n</function>']
WHOLE = [f'<tool_call>{call}</tool_call>' for call in CALLS]
fragments = st.sampled_from(
    ['<think>', '</think>', '\n', '<tool_call>', '</tool_call>', '<', '<th', '</tool', 'ink>', 'a', 'é ', '{', *WHOLE]
)
texts = st.lists(fragments, max_size=12).map(''.join)


def split(text, cuts, calls=True):
  """{kind: joined parts}, calls as a list."""
  splitter, places = Splitter(calls), [0, *sorted(cut % (len(text) + 1) for cut in cuts), len(text)]
  parts = [part for a, b in zip(places, places[1:]) for part in splitter.add(text[a:b], last=False)]
  parts += splitter.add('', last=True)
  joined = {kind: ''.join(part.value for part in parts if part.kind == kind) for kind in (CONTENT, THINKING)}
  return joined | {CALL: [part.value for part in parts if part.kind == CALL]}


@given(texts, st.lists(st.integers(0, 99), max_size=6))
@example('<think>\nhm\n</think>\nSo.\n' + WHOLE[0] + '\n' + WHOLE[1], range(99))
@example('<think>a\n\n</think>\n\nb<think>\n</think>c<think>d', range(99))
def test_parts_are_those_of_the_whole_text(text, cuts):
  reply = chat.parse(text)
  parts = split(text, cuts)
  assert parts == split(text, [])
  assert parts[THINKING] == reply.thinking and parts[CALL] == list(reply.tool_calls)
  if not any('tool_call' in problem or 'tool call' in problem for problem in reply.problems):
    assert parts[CONTENT] == reply.content


@pytest.mark.parametrize('written', ['<tool_call>{"name": 3}</tool_call>', '\n<tool_call>{"name": "f"', '<tool_call>'])
def test_a_call_that_is_none_stays_in_the_content(written):
  assert split('a' + written, range(99)) == {CONTENT: 'a' + written, THINKING: '', CALL: []}


@given(texts, st.lists(st.integers(0, 99), max_size=6))
def test_without_tools_a_call_is_text(text, cuts):
  parts = split(text, cuts, calls=False)
  assert parts[CALL] == [] and parts == split(text, [], calls=False)
  if '<think>' not in text:
    assert parts == {CONTENT: text, THINKING: '', CALL: []}


def test_a_piece_comes_as_soon_as_it_is_certain():
  splitter = Splitter(calls=True)
  taken = [splitter.add(piece) for piece in ('Hi', '\n', '<', 'b', '<think', '>\n', 'hm', '\n', 'so', '\n</think>')]
  assert [''.join(part.value for part in parts) for parts in taken] == [
      'Hi', '', '', '\n<b', '', '', 'hm', '', '\nso', '',
  ]  # fmt: skip
