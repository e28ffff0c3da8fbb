"""One client: what it sends, what it makes of answers, how it fails, and a key that appears nowhere."""

import asyncio
import datetime
import email.utils
import importlib.util
import json
import logging
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from iquest_jax.endpoint import address, connection
from iquest_jax.endpoint.client import ContextExceeded, Endpoint, WrongModel
from iquest_jax.errors import UserError
from iquest_jax.text import chat

from tests import processes
from tests.endpoint.scripted import Raw, ScriptedEndpoint

KEY = 'sk-never-shown/0123456789'
QUESTION = [{'role': 'user', 'content': '2 + 2 ='}]
QUICK = {'waits_s': (0, 0), 'timeout_s': 5.0}


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
  monkeypatch.setenv('TEST_KEY', KEY)
  for name in ('http_proxy', 'HTTP_PROXY', 'all_proxy', 'ALL_PROXY'):
    monkeypatch.delenv(name, raising=False)


def ask(server, prompt='x', **settings):
  """What a server says to a text or to messages."""
  with Endpoint(server.url, settings.pop('model', 'm'), **(QUICK | settings)) as endpoint:
    method = endpoint.complete if isinstance(prompt, str) else endpoint.chat
    return endpoint.start(method(prompt, max_tokens=9)).result()


def test_a_reply_has_the_text_in_our_form_how_it_ended_and_its_tokens():
  call = {'function': {'name': 'f', 'arguments': '{"x": 1}'}}
  message = {'content': 'So:', 'reasoning_content': 'hm', 'tool_calls': [call]}
  with ScriptedEndpoint(lambda body: message, usage=(7, 5), model='m-2026-01-31') as server:
    reply = ask(server, QUESTION)
  said = chat.parse(reply.text)
  assert (said.thinking, said.content, said.tool_calls) == ('hm', 'So:', ({'name': 'f', 'arguments': {'x': 1}},))
  assert (reply.end, reply.input_tokens, reply.output_tokens, reply.model) == ('stop', 7, 5, 'm-2026-01-31')
  with ScriptedEndpoint(lambda body: Raw({'choices': [{'text': 'cut', 'finish_reason': 'length'}]})) as server:
    reply = ask(server)
  assert (reply.text, reply.end, reply.input_tokens, reply.output_tokens, reply.model) == ('cut', 'length', 0, 0, '')


def test_embeddings_come_in_the_order_of_the_texts():
  embed = lambda body: [[len(text), 1] for text in body['input']]
  with ScriptedEndpoint(embed) as server, Endpoint(server.url, 'm') as endpoint:
    vectors = endpoint.start(endpoint.embed(['a', 'bbb', ''])).result()
    assert endpoint.start(endpoint.embed([])).result().shape == (0, 0)
  assert vectors.dtype == np.float32 and vectors.tolist() == [[1, 1], [3, 1], [1, 1]]
  assert len(server.requests) == 1 and server.requests[0].path == '/v1/embeddings'


def test_text_that_is_no_unicode_is_sent_and_read_without_an_error():
  with ScriptedEndpoint(lambda body: Raw('{"choices": [{"text": "a\\ud800b"}]}')) as server:
    assert ask(server, 'x\ud800?').text == 'a?b'
  assert server.requests[0].body['prompt'] == 'x??'


@pytest.mark.parametrize(
    'body',
    [
        '', '[]', '7', 'null', '"text"', '{}', '<html>', '[' * 100_000, '{"choices": []}', '{"choices": {}}',
        '{"choices": [7]}', '{"choices": [{"text": 7}]}', '{"choices": [{"text": ["a"]}]}', '{"error": {"message": "x"}}',
        '{"choices": [{"message": {"content": "chat"}}]}', '{"choices": [{"text": NaN}]}', '\x00', '{"choices": "text"}',
    ],
)  # fmt: skip
def test_nonsense_is_one_clear_line(body):
  with ScriptedEndpoint(lambda _: Raw(body)) as server, pytest.raises(UserError) as error:
    ask(server)
  says = str(error.value)
  assert '\n' not in says and server.url in says and len(says) < 600
  assert 'OpenAI-compatible' in says or 'an answer that is not JSON' in says


@pytest.mark.parametrize('usage', [None, 7, [], {}, {'completion_tokens': 'x'}, {'completion_tokens': -1}])
def test_usage_that_a_server_garbles_counts_as_not_reported(usage):
  with ScriptedEndpoint(lambda _: Raw({'choices': [{'text': 'a'}], 'usage': usage})) as server:
    assert ask(server).output_tokens == 0


@pytest.mark.parametrize(
    ('ours', 'theirs', 'same'),
    [
        ('m', 'm', True),
        ('gpt-4o', 'gpt-4o-2024-08-06', True),
        ('gpt-4', 'gpt-4-0613', True),
        ('sonnet-latest', 'sonnet-20241022', True),
        ('qwen', 'accounts/x/models/Qwen', True),
        ('org/coder-7b', 'coder-7b', True),
        ('llama', 'llama:latest', True),
        ('gpt-4o', 'gpt-4o-mini', False),
        ('gpt-4o', 'gpt-4o-mini-2024-07-18', False),
        ('coder-7b', 'coder-70b', False),
        ('coder-7b', 'coder-7b-awq', False),
        ('gpt-4o-2024-05-13', 'gpt-4o-2024-08-06', False),
        ('m', 'other', False),
        ('other', 'm', False),
    ],
)
def test_another_models_name_is_an_error_and_a_dated_or_qualified_one_is_not(ours, theirs, same):
  assert address.same_model(ours, theirs) == same
  with ScriptedEndpoint(model=theirs) as server:
    if same:
      assert ask(server, model=ours).model == theirs
    else:
      with pytest.raises(WrongModel, match=f'asked for the model "{ours}" and answers as "{theirs}"'):
        ask(server, model=ours)


def test_no_more_requests_are_open_than_asked_for_and_all_are_answered():
  answer = lambda body: Raw({'choices': [{'text': body['prompt']}]}, delay=0.02)
  with ScriptedEndpoint(answer) as server, Endpoint(server.url, 'm', parallel=3) as endpoint:
    many = lambda: asyncio.gather(*[endpoint.complete(f'{i}', max_tokens=1) for i in range(12)])
    replies = asyncio.run(_awaited(many))
  assert [reply.text for reply in replies] == [f'{i}' for i in range(12)] and server.most_at_once == 3


async def _awaited(make):
  return await make()


def test_threads_and_one_event_loop_after_another_share_a_client():
  with ScriptedEndpoint(lambda body: body['prompt']) as server, Endpoint(server.url, 'm', parallel=4) as endpoint:
    once = lambda text: endpoint.complete(text, max_tokens=1)
    assert [asyncio.run(once(text)).text for text in 'abc'] == ['a', 'b', 'c']
    said = {}
    one = lambda text: said.update({text: endpoint.start(once(text)).result().text})
    threads = [threading.Thread(target=one, args=(text,)) for text in 'defghijk']
    for thread in threads:
      thread.start()
    for thread in threads:
      thread.join()
    assert said == {text: text for text in 'defghijk'}
    assert asyncio.run(once('l')).text == 'l'  # now by way of the thread that `start` began
  assert len(server.requests) == 12


def test_a_client_that_nobody_closes_says_nothing_at_the_end():
  program = (
      'import asyncio, sys\n'
      'from iquest_jax.endpoint.client import Endpoint\n'
      'endpoint = Endpoint(sys.argv[1], "m")\n'
      'for _ in range(2):\n'
      '  print(asyncio.run(endpoint.complete("x", max_tokens=1)).text)\n'
      'print(endpoint.start(endpoint.complete("x", max_tokens=1)).result().text)\n'
  )
  with ScriptedEndpoint() as server:
    line = [sys.executable, '-c', program, server.url]
    done = subprocess.run(line, capture_output=True, text=True, cwd=processes.ROOT)
  assert (done.stdout, done.stderr) == ('4\n4\n4\n', '')


def test_a_rate_that_is_exceeded_pauses_every_request_for_as_long_as_the_server_says():
  times = []

  def answer(body):
    times.append(time.monotonic())
    return Raw('', 429, {'Retry-After': '0.4'}) if len(times) == 1 else '4'

  with ScriptedEndpoint(answer) as server, Endpoint(server.url, 'm', parallel=1, waits_s=(0,)) as endpoint:
    both = lambda: asyncio.gather(*[endpoint.complete(text, max_tokens=1) for text in 'ab'])
    asyncio.run(_awaited(both))
  assert len(times) == 3 and times[1] - times[0] >= 0.4


def test_a_server_may_say_by_seconds_or_a_date_how_long_to_wait():
  later = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=60)
  assert 55 < connection.seconds(email.utils.format_datetime(later, usegmt=True)) <= 60
  said = {'7': 7, '0.5': 0.5, None: 0, '': 0, 'soon': 0, '-3': 0, 'nan': 0, 'Wed, 21 Oct 2015 07:28:00 GMT': 0}
  assert {text: connection.seconds(text) for text in said} == said


def everything_of(error):
  """All text that a report of an error could show."""
  seen, found = set(), []
  while error is not None and id(error) not in seen:
    seen.add(id(error))
    found += [str(error), repr(error), repr(error.args), repr(vars(error))]
    error = error.__cause__ or error.__context__
  return ' '.join(found), len(seen)


@pytest.mark.parametrize(
    'answer',
    [
        401, 302, 503, Raw(drop=True), Raw('no'), Raw({'model': KEY}), Raw({'choices': [KEY]}),
        Raw(json.dumps({'error': {'message': f'wrong key {KEY}'}}), 400), Raw(f'{"x" * 280} {KEY}', 400),
        Raw(json.dumps({'said': KEY}).replace('/', '\\/'), 400),
    ],
)  # fmt: skip
def test_the_key_is_in_one_header_and_in_no_error_chain_log_or_reply(answer, caplog, capfd):
  caplog.set_level(logging.DEBUG)
  with ScriptedEndpoint(lambda body: f'your key is {KEY}', failures=[answer] * 3) as server:
    with pytest.raises(UserError) as error:
      ask(server, key_env='TEST_KEY')
    server.failures = []
    assert KEY not in ask(server, key_env='TEST_KEY').text
  text, errors = everything_of(error.value)
  shown = text + caplog.text + ''.join(capfd.readouterr())
  assert errors == 1 and KEY[:14] not in shown and 'TEST_KEY' not in shown
  assert all(KEY not in json.dumps(request.body) for request in server.requests)
  assert all(request.headers['Authorization'] == f'Bearer {KEY}' for request in server.requests)


def test_a_redirect_takes_the_key_nowhere():
  with ScriptedEndpoint() as other, ScriptedEndpoint() as server:
    for status in (301, 302, 307, 308):
      server.failures = [Raw('', status, {'Location': f'{other.url}/completions'})]
      with pytest.raises(UserError, match=f'refuses with status {status}'):
        ask(server, key_env='TEST_KEY')
    assert len(server.requests) == 4 and not other.requests


def test_nothing_of_another_account_or_this_machine_is_sent(monkeypatch):
  for name in ('OPENAI_API_KEY', 'OPENAI_ORG_ID', 'OPENAI_PROJECT_ID', 'OPENAI_ADMIN_KEY'):
    monkeypatch.setenv(name, 'of-another-server')
  with ScriptedEndpoint() as server:
    ask(server)
  (request,) = server.requests
  assert 'of-another-server' not in str(request) and 'Authorization' not in request.headers
  assert not [name for name in request.headers if name.startswith(('X-Stainless', 'Openai'))]


@pytest.mark.parametrize('answer', [Raw('4', delay=1.0), Raw('{"choices": []}', trickle=0.1)])
def test_an_answer_that_comes_or_trickles_in_too_slowly_times_out(answer):
  with ScriptedEndpoint(lambda body: answer) as server, pytest.raises(UserError, match='timed out'):
    ask(server, timeout_s=0.3, waits_s=())


@pytest.mark.parametrize(
    'url', ['', 'x', 'ftp://h/v1', 'http://', 'http://[::1', 'http://h:99999/v1', 'http://h ost/v1', 'http://é/v1']
)
def test_an_address_that_is_none_is_refused(url):
  with pytest.raises(UserError, match='endpoint: must be the URL of an API, as in http://localhost:8000/v1'):
    Endpoint(url, 'm')


@pytest.mark.parametrize('settings', [{'parallel': 0}, {'timeout_s': 0}, {'requests_per_minute': -1}])
def test_numbers_that_cannot_work_are_refused(settings):
  with pytest.raises(UserError, match='endpoint: needs at least one request at a time'):
    Endpoint('http://h/v1', 'm', **settings)


def test_a_missing_package_is_one_line_that_says_what_to_install(monkeypatch):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(UserError, match=r'the package "openai" is missing; install it with pip install -e .\[data\]'):
    Endpoint('http://h/v1', 'm')


def test_what_requests_wait_for_is_told_once(capsys):
  with ScriptedEndpoint(failures=[503] * 4) as server:
    ask(server, waits_s=(0.01, 0.02, 0.03, 0.04))
  (line,) = capsys.readouterr().err.splitlines()
  assert line.startswith(f'endpoint: {server.url}/completions does not answer (status 503') and '0.01 s' in line


@pytest.mark.parametrize(
    ('said', 'exceeded'),
    [
        ('context_length_exceeded', True), ("This model's maximum context length is 9 tokens.", True),
        ('the request exceeds the available context size', True), ('unknown field', False),
    ],
)  # fmt: skip
def test_a_request_longer_than_the_context_is_an_error_of_its_own(said, exceeded):
  with ScriptedEndpoint(failures=[Raw(json.dumps({'error': said}), 400)]) as server, pytest.raises(UserError) as error:
    ask(server)
  assert isinstance(error.value, ContextExceeded) == exceeded
