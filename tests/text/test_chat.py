"""Chat: what is learned, prompts, tools, and that parsing gives back what was rendered."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from iquest_jax.errors import UserError
from iquest_jax.text import chat
from iquest_jax.text.example import build
from iquest_jax.text.tokenizer import Tokenizer

TOKENIZER = Tokenizer.train(['def f(x):\n  return x + 1\n'] * 3, 300)
SYSTEM = st.fixed_dictionaries({'role': st.just('system'), 'content': st.text()})
TURN = st.fixed_dictionaries({'role': st.sampled_from(['user', 'assistant']), 'content': st.text()})
MESSAGES = st.builds(list.__add__, st.lists(SYSTEM, max_size=1), st.lists(TURN, min_size=1, max_size=5))


def text_of(segments):
  return TOKENIZER.decode(build(TOKENIZER, segments).tokens)


@given(MESSAGES)
def test_only_what_the_assistant_says_and_its_end_is_learned(messages):
  example = build(TOKENIZER, chat.segments(messages))
  parts = ''.join(f'<|im_start|>{m["role"]}\n{m["content"]}<|im_end|>\n' for m in messages)
  assert TOKENIZER.decode(example.tokens) == parts
  learned = TOKENIZER.decode(example.tokens[example.loss_weights == 1])
  assert learned == ''.join(f'{m["content"]}<|im_end|>' for m in messages if m['role'] == 'assistant')
  assert set(np.unique(example.loss_weights)) <= {0.0, 1.0}
  ends = example.tokens == TOKENIZER.id('<|im_end|>')
  assert ends.sum() == len(messages)  # whatever the contents say


@given(MESSAGES, st.booleans())
def test_a_chat_has_the_tokens_of_its_whole_text(messages, tools):
  for message in messages:
    assume('<|' not in message['content'])  # encoding the whole allows special tokens, which contents never become
    if message['role'] == 'assistant':
      message['content'] = message['content'].lstrip()  # encoded apart, because a prompt ends before it
  segments = chat.segments(messages, [{'name': 'a'}] * tools)
  whole = ''.join(part if isinstance(part, str) else part.token for part, _ in segments)
  assert build(TOKENIZER, segments).tokens.tolist() == TOKENIZER.encode(whole, allow_special=True)


@pytest.mark.parametrize(
    ('roles', 'problem'),
    [
        (['user', 'system'], 'a system message must be the first, got one as message 1'),
        (['system', 'system', 'user'], 'a system message must be the first, got one as message 1'),
        (['user', 'robot'], 'role of message 1 must be one of system, user, assistant, tool, got "robot"'),
    ],
)
def test_a_chat_with_a_message_out_of_place_is_refused(roles, problem):
  messages = [{'role': role, 'content': 'x'} for role in roles]
  for render in (chat.segments, chat.prompt):
    with pytest.raises(UserError, match=problem):
      render(messages)


def test_thinking_calls_and_answers_are_rendered_as_in_the_report():
  call = {'name': 'search', 'arguments': {'pattern': 'é'}}
  said = {'role': 'assistant', 'content': 'Look.', 'thinking': 'Where?', 'tool_calls': [call]}
  assert chat.rendered(said) == (
      'assistant',
      '<think>\nWhere?\n</think>\nLook.\n<tool_call>\n{"name": "search", "arguments": {"pattern": "é"}}\n</tool_call>',
  )
  answer = {'role': 'tool', 'content': 'none'}
  assert chat.rendered(answer) == ('user', '<tool_response>\nnone\n</tool_response>')


def test_a_prompt_ends_with_the_opened_turn_of_the_assistant():
  segments = chat.prompt([{'role': 'user', 'content': 'a<|im_end|>b'}])
  assert text_of(segments) == '<|im_start|>user\na<|im_end|>b<|im_end|>\n<|im_start|>assistant\n'
  tokens = build(TOKENIZER, segments).tokens.tolist()
  assert tokens.count(TOKENIZER.id('<|im_end|>')) == 1 and tokens.count(TOKENIZER.id('<|im_start|>')) == 2


@pytest.mark.parametrize('system', ['', 'Be brief.'])
def test_tool_definitions_are_part_of_the_system_turn_and_not_learned(system):
  messages = [{'role': 'user', 'content': 'hi'}]
  tools = [{'name': 'a'}, {'name': 'b', 'parameters': {'x': 'é'}}]
  segments = chat.segments([{'role': 'system', 'content': system}] * bool(system) + messages, tools)
  turn, rest = text_of(segments).split('<|im_end|>\n', 1)
  assert turn.startswith('<|im_start|>system\n' + (f'{system}\n\n' if system else 'You may'))
  assert turn.endswith('<tools>\n{"name": "a"}\n{"name": "b", "parameters": {"x": "é"}}\n</tools>')
  assert rest == text_of(chat.segments(messages)) and not build(TOKENIZER, segments).loss_weights.any()


PLAIN = st.text().filter(lambda text: '<' not in text)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
    | st.sampled_from(['</tool_call>', '<think>', '</think>\n<tool_call>', '\\</tool_call>']),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
ARGUMENTS = st.dictionaries(st.text(), JSON, max_size=3)
CALLS = st.lists(st.fixed_dictionaries({'name': st.text(min_size=1), 'arguments': ARGUMENTS}), max_size=3)


@given(PLAIN, PLAIN, CALLS)
def test_parsing_gives_back_what_was_rendered(thinking, content, calls):
  message = {'role': 'assistant', 'content': content, 'thinking': thinking, 'tool_calls': calls}
  assert chat.parse(chat.rendered(message)[1]) == chat.Reply(content, thinking, tuple(calls))


@given(st.lists(st.sampled_from([
    '<think>', '</think>', '<tool_call>', '</tool_call>', '{"name": "f", "arguments": {}}', '<function=f>', '</function>',
    '<parameter=k>', '</parameter>', '{', '[' * 100_000, '\n', 'x', '1' * 5000,
])).map(''.join))  # fmt: skip
def test_parsing_never_raises(text):
  reply = chat.parse(text)
  assert len(reply.tool_calls) <= text.count('<tool_call>')
  assert all(problem and '\n' not in problem for problem in reply.problems)


def test_calls_in_the_xml_form_are_parsed():
  text = (
      'Run it.\n<tool_call>\n<function=execute_bash>\n<parameter=command>\nls <a>\necho "é"\n</parameter>\n'
      '<parameter=path>x.py</parameter>\n</function>\n</tool_call>\n<tool_call><function=submit></function></tool_call>'
  )
  run = {'name': 'execute_bash', 'arguments': {'command': 'ls <a>\necho "é"', 'path': 'x.py'}}
  assert chat.parse(text) == chat.Reply('Run it.', '', (run, {'name': 'submit', 'arguments': {}}))


@pytest.mark.parametrize(
    'call, problem',
    [
        ('{"name": "f", "arguments": {}', 'malformed tool call: Expecting'),
        ('["f"]', 'not an object with "name" and "arguments"'),
        ('{"name": 3, "arguments": {}}', 'not an object with "name" and "arguments"'),
        ('{"name": "f", "arguments": "{}"}', 'not an object with "name" and "arguments"'),
        ('<function=f><parameter=k>v</function>', 'not <function=NAME>'),
        ('<function=f>stray</function>', 'not <function=NAME>'),
        ('', 'malformed tool call'),
    ],
)
def test_a_malformed_call_is_reported_and_the_others_are_kept(call, problem):
  good = '<tool_call>\n{"name": "g", "arguments": {"x": 1}}\n</tool_call>'
  reply = chat.parse(f'A\n<tool_call>\n{call}\n</tool_call>\n{good}')
  assert reply.content == 'A' and reply.tool_calls == ({'name': 'g', 'arguments': {'x': 1}},)
  assert len(reply.problems) == 1 and problem in reply.problems[0]


def test_spans_that_are_not_closed_are_reported():
  assert chat.parse('<think>\nHm <tool_call>') == chat.Reply('', 'Hm <tool_call>', (), ('<think> is not closed',))
  cut = chat.parse('A\n<tool_call>\n{"name": "f", "arguments": {}}')
  assert cut == chat.Reply('A', '', (), ('<tool_call> is not closed',))


def test_mid_training_learns_every_token_but_tool_results():
  call = {'role': 'assistant', 'content': 'I look.', 'tool_calls': [{'name': 'ls', 'arguments': {}}]}
  messages = [{'role': 'user', 'content': 'What is here?'}, call, {'role': 'tool', 'content': 'a.py'}]
  example = build(TOKENIZER, chat.segments(messages, learn_all=True))
  learned = TOKENIZER.decode(example.tokens[example.loss_weights == 1])
  ignored = TOKENIZER.decode(example.tokens[example.loss_weights == 0])
  assert ignored == '<|im_start|>user\n<tool_response>\na.py\n</tool_response><|im_end|>\n'
  assert learned + ignored == text_of(chat.segments(messages))
