"""Agents' sessions: published forms read as one conversation; what is malformed is left out with its result and counted."""

import collections
import json
import time

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iquest_jax.data import sources
from iquest_jax.data.build.fim import Proportions
from iquest_jax.data.documents import Drop
from iquest_jax.data.read import text_calls, trajectories
from iquest_jax.text import chat
from iquest_jax.text.tokenizer import Tokenizer

TOOLS = [
    {'type': 'function', 'function': {'name': 'run', 'parameters': {'type': 'object', 'properties': {
        'command': {'type': 'string'}, 'seconds': {'type': 'integer'}, 'lines': {'type': ['array', 'null']}}}}},
    {'name': 'submit', 'input_schema': {'type': 'object', 'properties': {}}},
]  # fmt: skip
ISSUE = {'role': 'user', 'content': 'Fix a.py.'}
DONE = {'role': 'assistant', 'content': 'Fixed.'}
LS = {'name': 'run', 'arguments': {'command': 'ls'}}
XML = '<function=run>\n<parameter=command>\nls\n</parameter>\n</function>'


def called(*calls, content='', **more):
  return {'role': 'assistant', 'content': content, 'tool_calls': list(calls), **more}


def openai(id='1', **changes):
  function = {'name': 'run', 'arguments': '{"command": "ls"}'} | changes
  return {'id': id, 'type': 'function', 'function': function}


def result(content='a.py', **more):
  return {'role': 'tool', 'content': content, **more}


def said(content):
  return {'role': 'assistant', 'content': content}


def user(content):
  return {'role': 'user', 'content': content}


def read(*messages, **fields):
  """(conversation or drop, {what was left out: how often})."""
  seen = collections.Counter()
  found = trajectories.read({'messages': list(messages), **fields}, 'f:1', seen)
  return found, {name.removeprefix('turns left out: '): count for name, count in seen.items()}


EXPECTED = (ISSUE, called(LS), result(), DONE)
STEPS = [
    {'step_id': 1, 'source': 'user', 'message': 'Fix a.py.'},
    {'step_id': 2, 'source': 'agent', 'message': '', 'tool_calls': [
        {'tool_call_id': 'c', 'function_name': 'run', 'arguments': {'command': 'ls'}}],
     'observation': {'results': [{'source_call_id': 'c', 'content': 'a.py'}]}},
    {'step_id': 3, 'source': 'agent', 'message': 'Fixed.', 'metrics': {'cost_usd': 0.1}},
]  # fmt: skip
FORMS = {
    'openai': {'messages': [ISSUE, called(openai()), result(tool_call_id='1'), DONE]},
    'json text': {'messages': json.dumps([ISSUE, called(openai()), result(tool_call_id='1'), DONE])},
    'list of parts': {'messages': [
        ISSUE, called(openai(), content=None), result([{'type': 'text', 'text': 'a.py'}], tool_call_ids=['1']), DONE]},
    'xml, wrapped': {'messages': [
        ISSUE, said(f'<tool_call>\n{XML}\n</tool_call>'), user('<tool_response>\na.py\n</tool_response>'), DONE]},
    'xml, bare, as SWE-smith': {'messages': [ISSUE, said(XML), user('OBSERVATION:\na.py'), DONE]},
    'xml, as OpenHands': {'messages': [ISSUE, said(XML), user('EXECUTION RESULT of [execute_bash]:\na.py'), DONE]},
    'xml, as R2E-Gym': {'messages': [ISSUE, said(XML), user('Execution output of [run]:\na.py'), DONE]},
    'xml, result without a heading': {'messages': [ISSUE, said(XML), user('a.py'), DONE]},
    'xml, result of a tool': {'history': [ISSUE, said(XML), result(), DONE]},
    'json in tags': {'trajectory': [
        {'role': 'user', 'text': 'Fix a.py.'}, {'role': 'ai', 'text': f'<tool_call>{json.dumps(LS)}</tool_call>'},
        {'role': 'user', 'text': 'a.py'}, {'role': 'ai', 'text': 'Fixed.'}]},
    'from and value': {'conversations': [
        {'from': 'human', 'value': 'Fix a.py.'}, {'from': 'function_call', 'value': json.dumps(LS)},
        {'from': 'observation', 'value': 'a.py'}, {'from': 'gpt', 'value': 'Fixed.'}]},
    'interchange format': {
        'schema_version': 'ATIF-v1.4', 'agent': {'name': 'x', 'tool_definitions': TOOLS}, 'steps': STEPS},
}  # fmt: skip


@pytest.mark.parametrize('form', FORMS)
def test_every_form_reads_as_the_same_conversation(form):
  seen = collections.Counter()
  found = trajectories.read(FORMS[form], '', seen)
  assert found.messages == EXPECTED and not seen
  assert found.tools == (tuple(TOOLS) if form == 'interchange format' else ())


def test_sessions_of_a_file_are_read_in_order_and_lines_that_are_none_are_drops(tmp_path):
  lines = [json.dumps(form | {'id': name, 'repo': 'a/b'}) for name, form in FORMS.items()]
  (tmp_path / 'a.jsonl').write_text('\n'.join([*lines, 'no', '{"messages": []}', '{"messages": "["}', '{"x": 1}']))
  found = list(trajectories.read_trajectories(tmp_path / 'a.jsonl'))
  assert [one.id for one in found[: len(FORMS)]] == list(FORMS) and found[0].repo == 'a/b'
  assert [one.rule for one in found[len(FORMS) :]] == [
      'line: not JSON', 'trajectory: no list of messages', 'trajectory: messages or tools are not JSON',
      'trajectory: no list of messages',
  ]  # fmt: skip


def test_sessions_in_tables_are_read(tmp_path):
  row = {'trajectory': FORMS['openai']['messages'], 'instance_id': 'django__django-123', 'tools': json.dumps(TOOLS)}
  pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row, row]), tmp_path / 'a.parquet')
  one, two = trajectories.read_trajectories(tmp_path / 'a.parquet')
  assert one.messages == EXPECTED and one.repo == 'django/django'
  # Sessions about one instance do not share its id.
  assert one.id == two.id != 'django__django-123'


def test_thinking_is_taken_out_of_the_text_in_all_its_tags():
  for text in ('<think>\nHm.\n</think>\nFixed.', '<thinking>\nHm.\n</thinking>\n\nFixed.', 'Hm.\n</think>\n\nFixed.'):
    found, left_out = read(ISSUE, called(openai()), result(), said(text))
    assert found.messages[-1] == {'role': 'assistant', 'content': 'Fixed.', 'thinking': 'Hm.'} and not left_out
  found, _ = read(ISSUE, said(f'<think>Hm.</think>Look.\n{XML}'), user('a.py'), DONE)
  assert found.messages[1] == {**called(LS, content='Look.'), 'thinking': 'Hm.'}
  found, _ = read(ISSUE, called(openai(), content='<think>So.</think>', reasoning_content='Hm.'), result(), DONE)
  assert found.messages[1] == {**called(LS), 'thinking': 'Hm.\nSo.'}


def test_tags_within_thinking_and_within_values_are_text():
  text = f'<think>Like {XML}?</think>{XML}'
  found, _ = read(ISSUE, said(text), user('a.py'), DONE)
  assert found.messages[1]['tool_calls'] == [LS] and XML in found.messages[1]['thinking']
  value = '<thinking>no</thinking> and <think>'
  found, _ = read(ISSUE, said(XML.replace('ls', value)), user('a.py'), DONE)
  assert found.messages[1]['tool_calls'] == [{'name': 'run', 'arguments': {'command': value}}]
  assert 'thinking' not in found.messages[1]


def xml(**arguments):
  return f'<function=run>{"".join(f"<parameter={key}>{value}</parameter>" for key, value in arguments.items())}</function>'


def test_values_of_text_get_the_types_of_their_tool():
  found, _ = read(ISSUE, said(xml(command='7', seconds='30', lines='[1, 5]', other='1')), user('a.py'), DONE, tools=TOOLS)
  arguments = {'command': '7', 'seconds': 30, 'lines': [1, 5], 'other': '1'}
  assert found.messages[1]['tool_calls'] == [{'name': 'run', 'arguments': arguments}]
  # Without definitions they stay text; in JSON they have their types.
  found, _ = read(ISSUE, said(xml(seconds='30')), user('a.py'), DONE)
  assert found.messages[1]['tool_calls'][0]['arguments'] == {'seconds': '30'}
  found, _ = read(ISSUE, called(openai(arguments='{"seconds": "30"}')), result(), DONE, tools=TOOLS)
  assert found.messages[1]['tool_calls'][0]['arguments'] == {'seconds': '30'}


@pytest.mark.parametrize(
    ('text', 'schema', 'expected'),
    [
        ('3', {'type': 'integer'}, 3), (' 3\n', {'type': 'integer'}, 3), ('2.5', {'type': 'number'}, 2.5),
        ('3', {'type': 'number'}, 3), ('True', {'type': 'boolean'}, True), ('false', {'type': 'boolean'}, False),
        ('None', {'type': ['integer', 'null']}, None), ('{"a": [1]}', {'type': 'object'}, {'a': [1]}),
        ('3', {'type': ['integer', 'string']}, '3'), ('3', {'anyOf': [{'type': 'integer'}, {'type': 'null'}]}, 3),
        ('3', {'anyOf': [{'type': 'integer'}, {'type': 'string'}]}, '3'), ('3', {'anyOf': [{'type': 'integer'}, {}]}, '3'),
        ('3', {}, '3'), ('3', None, '3'), ('3', {'type': 3}, '3'), (3, {'type': 'boolean'}, 3),
    ],
)  # fmt: skip
def test_a_value_is_read_by_its_schema(text, schema, expected):
  found = text_calls.value(text, schema)
  assert found == expected and type(found) is type(expected)


@pytest.mark.parametrize(
    ('text', 'kind'),
    [
        ('three', 'integer'), ('2.5', 'integer'), ('true', 'integer'), ('True', 'number'), ('1', 'boolean'),
        ('[1', 'array'), ('{}', 'array'), ('', 'integer'), ('NaN', 'number'), ('Infinity', 'number'), ('"x"', 'object'),
        ('1', 'date'), ('[' * 50_000, 'array'), ('9' * 5000, 'integer'),
    ],
)  # fmt: skip
def test_a_value_of_another_type_is_refused(text, kind):
  with pytest.raises(ValueError):
    text_calls.value(text, {'type': kind})


OPEN = XML.replace('</function>', '')
LEFT_OUT = [
    # (what is left out and counted, turns between the request and the end, results that stay)
    ({'malformed tool call': 1, 'result of a call that was left out': 1}, [said(OPEN), user('error')]),
    ({'malformed tool call': 1, 'result of a call that was left out': 1},
     [said('<tool_call>{"name": </tool_call>'), user('error')]),
    ({'arguments are not a JSON object': 1, 'result of a call that was left out': 1},
     [called(openai('2', arguments='{"command": ')), result('error', tool_call_id='2')]),
    ({'malformed tool call': 1, 'result of a call that was left out': 2},
     [called(openai('2'), 'no', openai('3')), result('b', tool_call_id='2'), result('c', tool_call_id='3')]),
    ({'malformed tool call': 1, 'result without its call': 1}, [called('no'), user('And?'), result('x')]),
    ({'a turn that must not be learned': 1, 'result of a call that was left out': 1},
     [called(openai('2'), weight=0), result('b', tool_call_id='2')]),
    ({'an empty turn of the assistant': 1}, [said('')]),
    ({'content that is not text': 1}, [said(3)]),
    ({'content that is not text': 1}, [user(None)]),
    ({'content that is not text': 1, 'call without its result': 1}, [called(openai('2')), result(3)]),
    ({'thinking that does not end': 1}, [said('<think>Hm.')]),
    ({'function_call instead of tool_calls': 1}, [{'role': 'assistant', 'content': 'x', 'function_call': {'name': 'run'}}]),
    ({'unknown role': 1}, [{'role': 'wizard', 'content': 'x'}]),
    ({'unknown role': 1}, ['turn']),
    ({'unknown role': 1}, [{'role': ['user'], 'content': 'x'}]),
    ({'unknown role': 1}, [{}]),
    ({'system message not first': 1}, [{'role': 'system', 'content': 'x'}]),
    ({'result without its call': 1}, [result('b')]),
    ({'call without its result': 1}, [called(openai('2'))]),
    ({'call without its result': 2}, [called(openai('2'), openai('3')), result('c', tool_call_id='3')]),
    ({'result without its call': 1, 'call without its result': 1}, [called(openai('2')), result('b', tool_call_id='4')]),
    ({'call of a tool that is not defined': 1, 'result of a call that was left out': 1},
     [called(openai('2', name='fly')), result('error', tool_call_id='2')]),
    ({'argument of another type than its tool takes': 1, 'result of a call that was left out': 1},
     [said(xml(seconds='soon')), user('error')]),
]  # fmt: skip


@pytest.mark.parametrize('where', ['before', 'after'])
@pytest.mark.parametrize(('counts', 'turns'), LEFT_OUT, ids=[f'{n}-{"+".join(c)}' for n, (c, _) in enumerate(LEFT_OUT)])
def test_a_malformed_turn_is_left_out_with_its_result_and_the_session_goes_on(counts, turns, where):
  step = [called(openai()), result(tool_call_id='1')]
  middle = [*turns, *step] if where == 'before' else [*step, *turns]
  found, left_out = read(ISSUE, *middle, DONE, tools=TOOLS)
  stays = [turn for turn in turns if turn == user('And?')]
  expected = [*stays, called(LS), result()] if where == 'before' else [called(LS), result(), *stays]
  assert left_out == counts and list(found.messages) == [ISSUE, *expected, DONE]


def test_a_request_after_the_answer_to_a_call_that_was_left_out_stays():
  found, left_out = read(ISSUE, said(XML), user('a.py'), said(OPEN), user('error'), user('Go on.'), DONE)
  assert [message['content'] for message in found.messages] == ['Fix a.py.', '', 'a.py', 'Go on.', 'Fixed.']
  assert left_out == {'malformed tool call': 1, 'result of a call that was left out': 1}


def test_an_equal_call_before_one_without_a_result_stays():
  found, left_out = read(ISSUE, called(openai()), result(), called(openai()), user('And?'), DONE)
  assert [message['role'] for message in found.messages] == ['user', 'assistant', 'tool', 'user', 'assistant']
  assert left_out == {'call without its result': 1}


def test_several_calls_get_their_results_in_their_order():
  pwd = {'name': 'run', 'arguments': {'command': 'pwd'}}
  calls = called(openai(), openai('2', arguments='{"command": "pwd"}'))
  found, _ = read(ISSUE, calls, result('/', tool_call_id='2'), result(tool_call_id='1'), DONE)
  assert found.messages == (ISSUE, called(LS, pwd), result(), result('/'), DONE)
  answers = user('<tool_response>\na.py\n</tool_response>\n<tool_response>\n/\n</tool_response>')
  assert read(ISSUE, said(XML + XML.replace('ls', 'pwd')), answers, DONE)[0].messages == found.messages
  assert read(ISSUE, said(XML + XML.replace('ls', 'pwd')), user('a.py'), user('/'), DONE)[0].messages == found.messages


SUBMIT = called(openai('9', name='submit', arguments='{}'))
ENDS = [
    ('trajectory: no tool call', (ISSUE, DONE)),
    ('trajectory: no tool call', (ISSUE, said(OPEN), user('error'), DONE)),
    ('trajectory: no end', (ISSUE, called(openai()), result())),
    ('trajectory: no end', (ISSUE, called(openai()), result(), called(openai('2')))),
    ('trajectory: no end', (ISSUE, called(openai()), result(), user('Go on.'))),
    ('trajectory: no end', (ISSUE, SUBMIT, result('really?'), called(openai()), result())),
    ('trajectory: no request at the start', (called(openai()), result(), DONE)),
    ('trajectory: no request at the start', (user(3), called(openai()), result(), DONE)),
    ('trajectory: no request at the start', ({'role': 'system', 'content': 'x'},)),
    ('trajectory: no request at the start', ('turn',)),
    (None, (ISSUE, called(openai()), result(), DONE)),
    (None, (ISSUE, SUBMIT)),
    (None, (ISSUE, called(openai()), result(), SUBMIT, result('thanks'))),
    (None, (ISSUE, called(openai()), result(), DONE, user('Thanks!'))),
    (None, (ISSUE, said(XML), user('a.py'), said('<function=finish>\n</function>'))),
]


@pytest.mark.parametrize(('rule', 'messages'), ENDS)
def test_a_session_without_a_request_a_call_or_an_end_is_a_drop(rule, messages):
  found, _ = read(*messages)
  assert (found.rule if isinstance(found, Drop) else None) == rule
  if rule:
    assert found.evidence == 'f:1'
  else:
    assert found.messages[-1]['role'] != 'user'


@pytest.mark.parametrize('tools', ['run', [{'type': 'function', 'function': {}}], [3], {'name': 'run'}])
def test_malformed_tools_are_a_drop(tools):
  found, _ = read(*FORMS['openai']['messages'], tools=json.dumps(tools))
  assert found.rule == 'trajectory: malformed tools'
  assert read(*FORMS['openai']['messages'], tools='[')[0].rule == 'trajectory: messages or tools are not JSON'


_TEXTS = st.sampled_from(
    ['', 'x', XML, OPEN, '<think>Hm.</think>y', '</think>', xml(seconds='3'), '<tool_response>z</tool_response>']
)
_CALLS = [openai(), openai('2', name='submit', arguments='{}'), openai('3', arguments='{'), 'no']
_TURNS = st.builds(
    lambda role, content, calls, id: {'role': role, 'content': content}
    | ({'tool_calls': calls} if calls else {})
    | ({'tool_call_id': id} if id else {}),
    st.sampled_from(['user', 'assistant', 'assistant', 'tool', 'system', 'wizard']),
    _TEXTS | st.none(),
    st.lists(st.sampled_from(_CALLS), max_size=2),
    st.sampled_from([None, '1', '2']),
)


@given(st.lists(_TURNS, max_size=8), st.booleans())
def test_every_session_that_is_kept_is_whole_and_nothing_is_lost_without_a_count(turns, defined):
  found, left_out = read(ISSUE, *turns, **({'tools': TOOLS} if defined else {}))
  if isinstance(found, Drop):
    return
  chat.segments(found.messages, found.tools)
  waiting = 0
  for message in found.messages:
    assert (message['role'] == 'tool') == (waiting > 0)
    waiting = waiting - 1 if message['role'] == 'tool' else len(message.get('tool_calls', ()))
  # A turn of a user may hold several results.
  assert len(found.messages) + sum(left_out.values()) >= len(turns) + 1
  # A conversation that was read is read again as it is.
  again, dropped = read(*found.messages, **({'tools': TOOLS} if defined else {}))
  assert again.messages == found.messages and not dropped


_NAMES = ['role', 'content', 'from', 'value', 'tool_calls', 'function', 'observation', 'results', 'name']
_JSON = st.recursive(
    st.none() | st.integers() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(_NAMES), inner, max_size=4),
)


@given(_JSON)
def test_whatever_a_record_holds_it_is_no_traceback(value):
  assert isinstance(trajectories.read({'messages': value, 'agent': value, 'tools': value}), Drop)
  assert isinstance(trajectories.read({'messages': [ISSUE, value, {'role': 'assistant', 'tool_calls': value}]}), Drop)


@pytest.mark.parametrize(
    'turns',
    [
        [said(XML), user('<tool_response>a</tool_response>' * 50_000 + 'x')], [said(XML), user('<tool_response>' * 50_000)],
        [said('<function=a>' * 50_000)], [said('<think>' * 50_000)], [said('</think>' * 50_000)],
        [said(f'<function=a>{"<parameter=a>" * 50_000}</function>')], [said(f'<function=a>{" " * 50_000}x</function>')],
        [said(f'<function=a>{"<parameter=a></parameter>" * 9}{"<parameter=a>" * 50_000}</function>')],
    ],
    ids=range(8),
)  # fmt: skip
def test_tags_that_nothing_closes_take_linear_time(turns):
  start = time.process_time()
  read(ISSUE, *turns, DONE)
  assert time.process_time() - start < 2  # quadratic: minutes


@pytest.mark.parametrize('learn', ['assistant', 'all'])
def test_results_of_tools_have_no_weight_in_the_loss(learn):
  found, _ = read(ISSUE, said(f'Look.\n{XML}'), user('OBSERVATION:\nzebra zebra'), DONE)
  tokenizer = Tokenizer.train(['Fix a.py. Look. zebra Fixed. ls run assistant user tool_response'] * 9, 400)
  how = sources.Rendering(4096, 0, learn, Proportions(0, 0, {'lines': 1.0}))
  (example,) = sources.render('agent_trajectories', found, tokenizer, how)
  learned = tokenizer.decode(example.tokens[example.loss_weights > 0].tolist())
  others = tokenizer.decode(example.tokens[example.loss_weights == 0].tolist())
  assert 'zebra' in others and 'zebra' not in learned
  assert 'Look.' in learned and '"command": "ls"' in learned and 'Fixed.' in learned
  assert ('Fix a.py.' in learned) == (learn == 'all')


@pytest.mark.parametrize('form', FORMS)
def test_results_are_known_as_such_whatever_the_form_of_a_session(form):
  found = trajectories.read(FORMS[form])
  weights = [weight for part, weight in chat.segments(found.messages, learn_all=True) if 'tool_response' in str(part)]
  assert weights == [0.0]
