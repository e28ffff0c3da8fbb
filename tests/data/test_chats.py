"""Chats in OpenAI's form: calls, results and thinking as text/chat.py takes them; what is malformed is dropped by rule."""

import json

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iquest_jax.data.documents import Conversation, Drop
from iquest_jax.data.read import chats
from iquest_jax.data.read.jsonl import read_documents
from iquest_jax.text import chat

USER = {'role': 'user', 'content': 'Which files?'}
ANSWER = {'role': 'assistant', 'content': 'a.py'}
TOOL = {'type': 'function', 'function': {'name': 'run', 'parameters': {'type': 'object', 'properties': {}}}}


def call(id, arguments='{"command": "ls"}', **changes):
  return {'id': id, 'type': 'function', 'function': {'name': 'run', 'arguments': arguments}, **changes}


def calls(*given, content=None):
  return {'role': 'assistant', 'content': content, 'tool_calls': list(given)}


def result(id, content='a.py'):
  return {'role': 'tool', 'tool_call_id': id, 'content': content}


def read(*messages, **fields):
  return chats.read({'messages': list(messages), **fields}, 'f:1')


SESSION = (
    {'role': 'developer', 'content': 'Be brief.'},
    {'role': 'user', 'content': [{'type': 'text', 'text': 'Which '}, {'type': 'text', 'text': 'files?'}]},
    calls(call('1'), call('2', '{"command": "pwd"}')),
    result('2', '/'),
    result('1'),
    {'role': 'assistant', 'content': 'a.py', 'reasoning_content': 'One.', 'name': 'x', 'refusal': None},
)
CONVERSATION = (
    {'role': 'system', 'content': 'Be brief.'},
    USER,
    {'role': 'assistant', 'content': '', 'tool_calls': [
        {'name': 'run', 'arguments': {'command': 'ls'}}, {'name': 'run', 'arguments': {'command': 'pwd'}}]},
    {'role': 'tool', 'content': 'a.py'},
    {'role': 'tool', 'content': '/'},
    {'role': 'assistant', 'content': 'a.py', 'thinking': 'One.'},
)  # fmt: skip


def test_a_session_with_tools_reads_as_the_chat_that_is_rendered(tmp_path):
  path = tmp_path / 'a.jsonl'
  path.write_text(json.dumps({'id': 'c', 'messages': SESSION, 'tools': [TOOL]}) + '\nno\n')
  session, drop = chats.read_chats(path)
  assert session == Conversation('c', CONVERSATION, (TOOL,)) and drop.rule == 'line: not JSON'
  # Results follow in the order of their calls.
  text = ''.join(part for part, _ in chat.segments(session.messages, session.tools) if isinstance(part, str))
  assert '{"command": "pwd"}' in text and text.index('a.py\n</tool_response>') < text.index('/\n</tool_response>')


def test_a_conversation_that_was_read_is_read_again_as_it_is():
  first = read(*SESSION, id='c')
  assert chats.read({'id': 'c', 'messages': list(first.messages), 'tools': list(first.tools)}) == first


def test_messages_may_be_json_text_as_in_tables(tmp_path):
  row = {'id': 3, 'messages': json.dumps(SESSION), 'tools': json.dumps([TOOL])}
  pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), tmp_path / 'a.parquet')
  assert list(chats.read_chats(tmp_path / 'a.parquet')) == [Conversation('3', CONVERSATION, (TOOL,))]


def test_structures_of_parquet_have_every_field_in_every_message(tmp_path):
  pyarrow.parquet.write_table(pyarrow.Table.from_pylist([{'messages': [USER, calls(call('1')), result('1'), ANSWER]}]),
                              tmp_path / 'a.parquet')  # fmt: skip
  (conversation,) = chats.read_chats(tmp_path / 'a.parquet')
  assert conversation.messages[1]['tool_calls'] == [{'name': 'run', 'arguments': {'command': 'ls'}}]
  assert set(conversation.messages[0]) == {'role', 'content'}


MALFORMED = [
    ('chat: empty', ()),
    ('chat: no turn of the assistant', (USER,)),
    ('chat: unknown role', ({'role': 'wizard', 'content': 'x'}, ANSWER)),
    ('chat: unknown role', ({'content': 'x'}, ANSWER)),
    ('chat: unknown role', ({'role': ['user'], 'content': 'x'}, ANSWER)),
    ('chat: unknown role', (USER, {'role': 'function', 'name': 'run', 'content': 'x'}, ANSWER)),
    ('chat: messages are not a list of objects', ('user', ANSWER)),
    ('chat: system message not first', (USER, {'role': 'system', 'content': 'x'}, ANSWER)),
    ('chat: system message not first', (USER, {'role': 'developer', 'content': 'x'}, ANSWER)),
    ('chat: tool result without its call', (USER, result('1'), ANSWER)),
    ('chat: tool result without its call', (USER, calls(call('1')), result('2'), ANSWER)),
    ('chat: tool result without its call', (USER, calls(call('1')), result('1'), result('1'), ANSWER)),
    ('chat: tool result without its call', (USER, calls(call('1')), result('1'), ANSWER, result('1'))),
    ('chat: call without its result', (USER, calls(call('1')), ANSWER)),
    ('chat: call without its result', (USER, calls(call('1'), call('2')), result('2'), ANSWER)),
    ('chat: call without its result', (USER, calls(call('1'), call('2')), result('2'))),
    ('chat: arguments are not a JSON object', (USER, calls(call('1', '{"command": ')))),
    ('chat: arguments are not a JSON object', (USER, calls(call('1', '')))),
    ('chat: arguments are not a JSON object', (USER, calls(call('1', '["ls"]')))),
    ('chat: arguments are not a JSON object', (USER, calls(call('1', None)))),
    ('chat: arguments are not a JSON object', (USER, calls(call('1', '{"a":' * 500 + '1' + '}' * 500)))),
    ('chat: arguments are not a JSON object', (USER, calls(call('1', '{"a":' * 50_000)))),
    ('chat: malformed tool call', (USER, calls('ls'))),
    ('chat: malformed tool call', (USER, calls(call('1', function={'arguments': '{}'})))),
    ('chat: malformed tool call', (USER, {'role': 'assistant', 'content': '', 'tool_calls': 'run'})),
    ('chat: function_call instead of tool_calls',
     (USER, {'role': 'assistant', 'content': None, 'function_call': {'name': 'run', 'arguments': '{}'}})),
    ('chat: a turn that must not be learned', (USER, ANSWER | {'weight': 0})),
    ('chat: an empty turn of the assistant', (USER, {'role': 'assistant', 'content': None})),
    ('chat: content that is not text', ({'role': 'user', 'content': None}, ANSWER)),
    ('chat: content that is not text', ({'role': 'user', 'content': 3}, ANSWER)),
    ('chat: content that is not text', ({'role': 'user', 'content': [{'type': 'image_url', 'image_url': {}}]}, ANSWER)),
    ('chat: content that is not text', (USER, ANSWER | {'reasoning_content': ['x']})),
]  # fmt: skip


@pytest.mark.parametrize('rule, messages', MALFORMED, ids=[f'{n}-{rule}' for n, (rule, _) in enumerate(MALFORMED)])
def test_a_malformed_chat_is_dropped_by_its_rule(rule, messages):
  drop = read(*messages)
  assert isinstance(drop, Drop) and drop.rule == rule and drop.evidence.startswith('f:1')


@pytest.mark.parametrize('tools', ['run', {'name': 'run'}, ['run'], [{'type': 'function', 'function': {}}], [3]])
def test_malformed_tools_are_dropped(tools):
  tools = tools if not isinstance(tools, str) else json.dumps(tools)
  assert read(USER, ANSWER, tools=tools).rule == 'chat: malformed tools'
  assert read(USER, ANSWER, tools='{').rule == 'chat: messages or tools are not JSON'


def test_results_without_ids_answer_the_calls_in_order_and_a_chat_may_end_with_calls():
  plain = [{'role': 'tool', 'content': text} for text in 'ab']
  assert [m['content'] for m in read(USER, calls(call('1'), call('2')), *plain, ANSWER).messages[2:4]] == ['a', 'b']
  assert len(read(USER, calls(call('1'))).messages) == 2


def test_a_chat_without_an_id_gets_one_of_its_content():
  one, two, other = read(USER, ANSWER), read(USER, ANSWER, id=''), read(USER, ANSWER, tools=[TOOL])
  assert one.id == two.id != other.id and read(USER, ANSWER, id=0).id == '0'


def test_our_own_lines_are_checked_by_the_same_rules(tmp_path):
  path = tmp_path / 'a.jsonl'
  lines = [{'kind': 'conversation', 'id': '1', 'messages': messages} for _, messages in MALFORMED]
  path.write_text('\n'.join(map(json.dumps, lines)))
  assert [one.rule for one in read_documents(path)] == [rule for rule, _ in MALFORMED]


_TEXT = st.text(max_size=5)
_MESSAGES = st.lists(
    st.fixed_dictionaries({'role': st.sampled_from(('user', 'tool', 'system')), 'content': _TEXT})
    | st.builds(lambda n, text: calls(*(call(str(i)) for i in range(n)), content=text), st.integers(0, 2), _TEXT),
    max_size=6,
)


@given(_MESSAGES)
def test_every_chat_that_is_kept_can_be_rendered_and_has_a_result_per_call(messages):
  conversation = read(*messages)
  if isinstance(conversation, Drop):
    return
  chat.segments(conversation.messages, conversation.tools)
  waiting = 0
  for message in conversation.messages:
    assert (message['role'] == 'tool') == (waiting > 0)
    waiting = waiting - 1 if waiting else len(message.get('tool_calls', ()))
  assert [m['content'] for m in conversation.messages] == [m['content'] or '' for m in messages]


def test_a_chat_keeps_the_tests_that_its_code_must_pass_and_foreign_scales_of_difficulty_are_ignored():
  chat = {'messages': [USER, ANSWER], 'tests': '[{"input": "[1]", "output": "2"}]', 'function': 'f', 'difficulty': 'hard'}
  read = chats.read(chat)
  assert (read.tests, read.function, read.difficulty) == (({'input': '[1]', 'output': '2'},), 'f', 'hard')
  assert chats.read(chat | {'difficulty': 7}).difficulty == ''
  assert chats.read(chat | {'tests': 'assert f(1) == 2'}).rule == 'line: not a document'
