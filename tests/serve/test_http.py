"""What is not the API, or not JSON, is answered with one clear error in OpenAI's form."""

import socket

import httpx
import pytest

from tests.serve.serving import NAME, ScriptedEngine, serving


@pytest.fixture(scope='module')
def running():
  with serving(ScriptedEngine(lambda prompt: 'fine')) as one:
    yield one


@pytest.fixture(scope='module')
def http(running):
  with httpx.Client(base_url=running.url, trust_env=False, timeout=30) as client:
    yield client


CHAT = '/chat/completions'
DEEP = '{"model": "small", "messages": ' + '[' * 100_000 + ']' * 100_000 + '}'
NESTED = '{"function":' * 900 + '1' + '}' * 900
TOOLS = f'{{"model": "small", "messages": [{{"role": "user", "content": ""}}], "tools": [{NESTED}]}}'
LONG = f'{{"model": "{NAME}", "prompt": "{"x" * 600}"}}'


@pytest.mark.parametrize(
    ('method', 'path', 'content', 'status', 'says'),
    [
        ('POST', CHAT, '', 400, 'the body must be JSON'),
        ('POST', CHAT, '{"model": ', 400, 'the body must be JSON'),
        ('POST', CHAT, b'\xff\xfe{', 400, 'the body must be JSON'),
        ('POST', CHAT, DEEP, 400, 'the body must be JSON'),
        ('POST', CHAT, TOOLS, 400, ''),
        ('POST', CHAT, '[1]', 400, 'the body must be a JSON object, got a list'),
        ('POST', CHAT, '{"model": "\\ud800"}', 404, 'does not exist; this server offers "small"'),
        ('POST', CHAT, '{"\\ud800": 1}', 400, 'is not supported'),
        ('POST', '/completions', LONG, 400, 'the context holds 512 tokens, got 6'),
        ('POST', '/embeddings', '{}', 404, 'POST /v1/embeddings does not exist; this server has GET /v1/models, POST'),
        ('GET', CHAT, None, 405, 'GET /v1/chat/completions does not exist'),
        ('GET', '/models/x', None, 404, 'model "x" does not exist'),
    ],
)
def test_what_cannot_be_answered_is_refused_in_one_line(http, method, path, content, status, says):
  reply = http.request(method, path, content=content)
  error = reply.json()['error']
  assert reply.status_code == status and says in error['message'] and '\n' not in error['message']
  assert error['type'] == 'invalid_request_error' and error.keys() == {'message', 'type', 'param', 'code'}


def test_a_body_that_is_too_large_is_refused(http, monkeypatch):
  monkeypatch.setattr('iquest_jax.serve.app._MOST_BYTES', 1000)
  assert http.post(CHAT, content=b' ' * 2000).status_code == 413


def test_a_client_that_leaves_in_the_middle_of_its_body_harms_nobody(running, http):
  host, port = running.url.removeprefix('http://').removesuffix('/v1').split(':')
  with socket.create_connection((host, int(port))) as left:
    left.sendall(b'POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{"model"')
  reply = http.post('/completions', json={'model': NAME, 'prompt': 'x'})
  assert reply.json()['choices'][0]['text'] == 'fine'


def test_a_stream_is_server_sent_events(http):
  reply = http.post('/completions', json={'model': NAME, 'prompt': 'x', 'stream': True})
  assert reply.headers['content-type'] == 'text/event-stream; charset=utf-8'
  events = reply.text.split('\n\n')
  assert events[-2:] == ['data: [DONE]', ''] and all(event.startswith('data: {') for event in events[:-2])
