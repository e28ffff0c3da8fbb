"""Endpoints: both forms, tools and thinking, tries after failures, and a key that appears nowhere."""

import json

import pytest

from iquest_jax.errors import UserError
from iquest_jax.eval import run as runs
from iquest_jax.eval.answers import Asked
from iquest_jax.eval.endpoint import EndpointAnswers
from iquest_jax.eval.suite import Prompt
from iquest_jax.infer.sampler import GREEDY, Sampling
from iquest_jax.text import chat

from tests.endpoint.scripted import Raw, ScriptedEndpoint
from tests.eval.scripted import Sums

KEY = 'sk-never-shown-0123456789'
DROP, GARBAGE, SLOW = Raw(drop=True), Raw('no'), Raw('late', delay=1.0)
CHAT = Prompt(messages=[{'role': 'user', 'content': '2 + 2 ='}])


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
  monkeypatch.setenv('TEST_KEY', KEY)
  for name in ('http_proxy', 'HTTP_PROXY', 'all_proxy', 'ALL_PROXY'):
    monkeypatch.delenv(name, raising=False)


def client(server, **changes):
  return EndpointAnswers(server.url, 'm', **({'key_env': 'TEST_KEY', 'waits_s': (0.01, 0.01), 'timeout_s': 5} | changes))


def ask(server, prompt=CHAT, sampling=GREEDY, **changes):
  (answer,) = client(server, **changes).answer([Asked(5, prompt, 7, sampling)])
  return answer


def test_chats_and_texts_are_asked_with_the_sampling_numbers():
  sampling = Sampling(temperature=0.6, top_p=0.9, top_k=20, seed=1)
  with ScriptedEndpoint() as server:
    assert ask(server, sampling=sampling) == (5, '4', 'stop', 3)
    assert ask(server, Prompt('2 + 2 =', stop=['.']), sampling)[1] == '4'
  (path, headers, body), (text_path, _, text_body) = server.requests
  assert (path, text_path) == ('/v1/chat/completions', '/v1/completions')
  assert headers['Authorization'] == f'Bearer {KEY}'
  assert body == {
      'model': 'm', 'max_tokens': 7, 'temperature': 0.6, 'top_p': 0.9, 'top_k': 20, 'seed': 6,
      'messages': [{'role': 'user', 'content': '2 + 2 ='}],
  }  # fmt: skip
  assert text_body['prompt'] == '2 + 2 =' and text_body['stop'] == ['.'] and 'messages' not in text_body


def test_an_answer_ends_at_every_stop_word_though_servers_take_four():
  words = ['a', 'b', 'c', 'd', 'e']
  with ScriptedEndpoint(lambda body: '1e2') as server:
    assert ask(server, Prompt('x', stop=words)).text == '1'
    assert server.requests[0][2]['stop'] == words[:4]


def test_tools_calls_and_thinking_are_converted_both_ways():
  call = {'name': 'f', 'arguments': {'x': 1}}
  called = {'function': {'name': 'f', 'arguments': '{"x": 1}'}}
  reply = {'content': 'So:', 'reasoning_content': 'hm', 'tool_calls': [called]}
  with ScriptedEndpoint(lambda body: reply) as server:
    prompt = Prompt(messages=CHAT.messages, tools=[{'name': 'f', 'parameters': {}}])
    said = ask(server, prompt).text
    parsed = chat.parse(said)
    assert (parsed.thinking, parsed.content, parsed.tool_calls) == ('hm', 'So:', (call,))
    follow = [*CHAT.messages, {'role': 'assistant', 'content': said}, {'role': 'tool', 'content': '7'}]
    ask(server, Prompt(messages=follow))
  assert server.requests[0][2]['tools'] == [{'type': 'function', 'function': {'name': 'f', 'parameters': {}}}]
  _, assistant, tool = server.requests[1][2]['messages']
  assert assistant['content'] == 'So:' and json.loads(assistant['tool_calls'][0]['function']['arguments']) == {'x': 1}
  assert tool == {'role': 'tool', 'content': '7', 'tool_call_id': assistant['tool_calls'][0]['id']}
  called['function']['arguments'] = '{"x": '
  with ScriptedEndpoint(lambda body: reply) as server:  # the model's mistake, not the server's
    assert chat.parse(ask(server).text).problems


@pytest.mark.parametrize('failure', [429, 500, 503, DROP, GARBAGE, SLOW])
def test_a_failure_that_passes_is_tried_again(failure):
  with ScriptedEndpoint(failures=[failure, failure]) as server:
    assert ask(server, timeout_s=0.3 if failure is SLOW else 5).text == '4'
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    ('failure', 'says', 'requests'),
    [
        (503, 'did not answer in 3 tries (the last: status 503: sorry, Bearer (key) no)', 3),
        (SLOW, 'did not answer in 3 tries (the last: timed out)', 3),
        (GARBAGE, 'did not answer in 3 tries (the last: an answer that is not JSON)', 3),
        (401, 'refuses with status 401: sorry, Bearer (key) no', 1),
        (302, 'refuses with status 302: sorry, Bearer (key) no', 1),
    ],
)
def test_a_failure_that_stays_is_one_line_without_the_key(failure, says, requests):
  with ScriptedEndpoint(failures=[failure] * 3) as server:
    with pytest.raises(UserError) as error:
      ask(server, timeout_s=0.3 if failure is SLOW else 5)
    assert says in str(error.value) and server.url in str(error.value) and '\n' not in str(error.value)
    assert KEY not in str(error.value) and len(server.requests) == requests


def test_a_redirect_takes_the_key_nowhere():
  with ScriptedEndpoint() as other, ScriptedEndpoint() as server:
    server.failures = [Raw('', 302, {'Location': f'{other.url}/chat/completions'})]
    with pytest.raises(UserError, match='refuses with status 302'):
      ask(server)
    assert len(server.requests) == 1 and not other.requests


def test_a_server_that_is_not_there_or_answers_something_else_is_one_line(unused_port):
  with pytest.raises(UserError, match='did not answer in 3 tries .*refused'):
    ask(type('Nowhere', (), {'url': f'http://127.0.0.1:{unused_port}'}))
  reply = {'refusal': 'x', 'tool_calls': [7]}
  with ScriptedEndpoint(lambda body: reply) as server, pytest.raises(UserError, match='compatible'):
    ask(server)


def test_a_run_that_a_server_ends_keeps_what_it_finished_and_resumes(tmp_path, capfd):
  suite, say = Sums(), lambda body: str(2 * int(body['messages'][0]['content'][0]))
  go = lambda server, folder: runs.run(suite, suite.problems(), runs.Plan.of(suite, True, samples=1),
                                       client(server, parallel=1), folder, None)  # fmt: skip
  with ScriptedEndpoint(say) as server:
    server.failures = [None, None, None, 400]
    with pytest.raises(UserError, match='refuses with status 400'):
      go(server, tmp_path / 'cut')
    kept = (tmp_path / 'cut/records.jsonl').read_text().count('\n') - 1
    assert kept >= 3 and len(server.requests) == kept + 1  # the next may have been on its way
    cut = go(server, tmp_path / 'cut')
    assert len(server.requests) == 6 + 1
    straight = go(server, tmp_path / 'straight')
  assert cut == straight and cut['figures'] == {'pass@1': 100.0}
  written = ''.join(path.read_text() for path in tmp_path.rglob('*') if path.is_file())
  assert KEY not in written and KEY not in ''.join(capfd.readouterr()) and 'TEST_KEY' not in written


@pytest.mark.parametrize(
    ('changes', 'says'),
    [
        (dict(url='localhost:8000'), 'endpoint: must be the URL of an API'),
        (dict(url='file:///etc/passwd'), 'endpoint: must be the URL of an API'),
        (dict(url='http://me:secret@host/v1'), 'endpoint: must hold no key or password'),
        (dict(url='http://host/v1?key=secret'), 'endpoint: must hold no key or password'),
        (dict(model=''), 'model is missing'),
        (dict(key_env='NOT_SET'), 'key_env: the environment variable NOT_SET is not set or is empty'),
    ],
)
def test_an_endpoint_that_cannot_work_is_refused(changes, says):
  with pytest.raises(UserError) as error:
    EndpointAnswers(**({'url': 'http://host/v1', 'model': 'm'} | changes))
  assert str(error.value).startswith(says) and 'secret' not in str(error.value)


def test_a_url_of_a_method_is_cut_to_that_of_the_api():
  for end in ('', '/', '/completions', '/chat/completions'):
    assert EndpointAnswers(f'http://host/v1{end}', 'm').settings == {'endpoint': 'http://host/v1', 'model': 'm'}
