"""Replies on disk: nothing is paid twice, by a killed run or by two, and no torn line is an error."""

import asyncio
import json
import os
import subprocess
import sys
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iquest_jax.endpoint.cache import Cache, key_of
from iquest_jax.endpoint.client import Endpoint
from iquest_jax.errors import UserError

from tests import processes
from tests.endpoint.scripted import Raw, ScriptedEndpoint


def ask(server, cache, prompts, **settings):
  """Texts that the server says to each prompt, and the usage."""
  with Endpoint(server.url, settings.pop('model', 'm'), cache=cache, waits_s=(), **settings) as endpoint:

    async def every():
      return await asyncio.gather(*[endpoint.complete(prompt, max_tokens=9) for prompt in prompts])

    return [reply.text for reply in asyncio.run(every())], endpoint.usage


def test_what_was_answered_is_not_asked_again(tmp_path):
  with ScriptedEndpoint(lambda body: f'{body["prompt"]}!') as server:
    first, paid = ask(server, tmp_path / 'c', 'abc', prices=(1, 2))
    again, free = ask(server, tmp_path / 'c', 'cabd', prices=(1, 2))
    assert (first, again) == (['a!', 'b!', 'c!'], ['c!', 'a!', 'b!', 'd!']) and len(server.requests) == 4
    assert (paid.requests, paid.cached, paid.input_tokens, paid.output_tokens) == (3, 0, 30, 9)
    assert (free.requests, free.cached, free.input_tokens) == (1, 3, 10)
    assert paid.cost == pytest.approx(3 * 16e-6) and free.cost == pytest.approx(16e-6)
    assert ask(server, tmp_path / 'c', 'a', model='other')[0] == ['a!'] and len(server.requests) == 5


def test_a_chat_and_embeddings_come_from_disk_as_they_were(tmp_path):
  message = {'content': 'é\u2028', 'reasoning_content': 'hm'}
  with ScriptedEndpoint(lambda body: [[0.1, 2]] if 'input' in body else message) as server:
    seen = []
    for _ in range(2):
      with Endpoint(server.url, 'm', cache=tmp_path / 'c') as endpoint:
        reply = endpoint.start(endpoint.chat([{'role': 'user', 'content': 'x'}], max_tokens=1)).result()
        seen.append((reply, endpoint.start(endpoint.embed(['a'])).result().tobytes()))
  assert seen[0] == seen[1] and len(server.requests) == 2


def test_the_same_request_made_twice_at_a_time_is_paid_once(tmp_path):
  with ScriptedEndpoint(lambda body: Raw({'choices': [{'text': 'a'}]}, delay=0.05)) as server:
    said, usage = ask(server, tmp_path / 'c', ['same'] * 5 + ['other'])
  assert said == ['a'] * 6 and len(server.requests) == 2 and (usage.requests, usage.cached) == (2, 4)


def test_failures_are_not_kept(tmp_path):
  with ScriptedEndpoint(failures=[500, Raw('{}'), Raw({'model': 'other'})]) as server:
    for _ in range(3):
      with pytest.raises(UserError):
        ask(server, tmp_path / 'c', 'a')
    assert (tmp_path / 'c').read_bytes() == b'' and ask(server, tmp_path / 'c', 'a')[0] == ['4']


@given(st.data())
def test_whatever_changes_a_request_changes_its_key(data):
  value = st.none() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=4)
  bodies = st.dictionaries(st.sampled_from('abc'), value | st.lists(value, max_size=2), max_size=3)
  one, two = (json.dumps(data.draw(bodies), sort_keys=True).encode() for _ in range(2))
  urls = st.sampled_from(['http://a/v1/completions', 'http://b/v1/completions'])
  first, second = data.draw(urls), data.draw(urls)
  assert (key_of(first, one) == key_of(second, two)) == ((first, one) == (second, two))


def add(path, records):
  cache = Cache(path)

  async def every():
    await asyncio.gather(*[cache.add(key, 'u', 'm', 0.5, {'text': text}) for key, text in records])

  asyncio.run(every())
  assert all(cache.get(key) == {'text': text} for key, text in records)
  cache.close()


def texts(path):
  cache = Cache(path)
  found = {key: cache.get(key)['text'] for key in 'abcd' if cache.get(key)}
  cache.close()
  return found, cache.spent


def test_replies_that_are_written_together_are_found_apart(tmp_path):
  add(tmp_path / 'c', [(f'{number}', 'x' * number) for number in range(20)])
  cache = Cache(tmp_path / 'c')
  assert [cache.get(str(number))['text'] for number in range(20)] == ['x' * number for number in range(20)]
  cache.close()


def test_a_line_that_a_crash_tore_is_skipped_and_what_follows_is_read(tmp_path):
  add(tmp_path / 'whole', [('a', 'x\n'), ('b', 'é')])
  whole = (tmp_path / 'whole').read_bytes()
  assert texts(tmp_path / 'whole') == ({'a': 'x\n', 'b': 'é'}, {('u', 'm'): 1.0})
  second = whole.index(b'\n') + 1
  for end in range(second, len(whole) + 1):
    path = tmp_path / 'torn'
    path.write_bytes(whole[:end])
    add(path, [('c', 'y')])
    add(path, [('d', 'z')])
    kept = {'a': 'x\n', 'c': 'y', 'd': 'z'} | ({'b': 'é'} if end >= len(whole) - 1 else {})
    assert texts(path)[0] == kept


def test_two_processes_that_append_at_a_time_lose_and_mix_up_nothing(tmp_path, monkeypatch):
  seen = {}

  def seek(*how, seek=os.lseek):
    at = seek(*how)
    time.sleep(0.001)  # for the other one to come between
    return at

  def one(side):
    cache = Cache(tmp_path / 'c')

    async def every():
      for number in range(40):
        await cache.add(f'{side}{number}', 'u', 'm', 0.5, {'text': f'{side}{number}' * (number + 1)})

    asyncio.run(every())
    seen[side] = [cache.get(f'{side}{number}') for number in range(40)]
    cache.close()

  monkeypatch.setattr('iquest_jax.endpoint.cache.os.lseek', seek)
  threads = [threading.Thread(target=one, args=(side,)) for side in 'ab']
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  expected = {side: [{'text': f'{side}{number}' * (number + 1)} for number in range(40)] for side in 'ab'}
  cache = Cache(tmp_path / 'c')
  assert seen == {side: [cache.get(f'{side}{number}') for number in range(40)] for side in 'ab'} == expected
  assert (tmp_path / 'c').read_bytes().count(b'\n') == 80
  cache.close()


PROGRAM = """
import asyncio, pathlib, sys
from iquest_jax.endpoint.client import Endpoint

async def main(endpoint):
  replies = await asyncio.gather(*[endpoint.complete(f'{i}', max_tokens=1) for i in range(20)])
  print(*[reply.text for reply in replies])

with Endpoint(sys.argv[1], 'm', parallel=2, cache=pathlib.Path(sys.argv[2])) as endpoint:
  asyncio.run(main(endpoint))
"""


def test_a_run_that_was_killed_resumes_and_pays_for_nothing_twice(tmp_path):
  run = None

  def answer(body):
    if run and body['prompt'] == '7' and run.poll() is None:
      run.kill()
      run.wait()
    return f'{body["prompt"]}!'

  line = [sys.executable, '-c', PROGRAM]
  with ScriptedEndpoint(answer) as server:
    line += [server.url, str(tmp_path / 'c')]
    run = subprocess.Popen(line, cwd=processes.ROOT)
    assert run.wait() == -9
    paid = [request.body['prompt'] for request in server.requests]
    kept = (tmp_path / 'c').read_bytes().count(b'\n')
    assert kept >= len(paid) - 2 and len(paid) >= 7  # two were on their way
    run = None
    done = subprocess.run(line, capture_output=True, text=True, cwd=processes.ROOT)
  assert done.stdout.split() == [f'{i}!' for i in range(20)] and len(server.requests) <= 20 + 2


def test_a_cache_that_cannot_be_used_is_one_line(tmp_path):
  (tmp_path / 'other').write_text('{"kind": "file"}\n')
  for path, says in ((tmp_path, 'cannot be read and written'), (tmp_path / 'other', 'holds something else')):
    with pytest.raises(UserError, match=says):
      Endpoint('http://h/v1', 'm', cache=path)
  assert (tmp_path / 'other').read_text() == '{"kind": "file"}\n'


def test_a_full_disk_is_one_line(tmp_path, monkeypatch):
  def full(*_):
    raise OSError(28, 'No space left on device')

  with ScriptedEndpoint() as server:
    monkeypatch.setattr('iquest_jax.endpoint.cache.os.fsync', full)
    with pytest.raises(UserError, match='the cache .* cannot be written .No space left on device'):
      ask(server, tmp_path / 'c', 'a')


def test_the_key_is_not_in_the_cache(tmp_path, monkeypatch):
  monkeypatch.setenv('TEST_KEY', 'sk-secret-1')
  message = {'content': 'sk-secret-1', 'reasoning_content': 'sk-secret-1'}
  settings = {'cache': tmp_path / 'c', 'key_env': 'TEST_KEY'}
  with ScriptedEndpoint(lambda body: message) as server, Endpoint(server.url, 'm', **settings) as endpoint:
    endpoint.start(endpoint.chat([{'role': 'user', 'content': 'x'}], max_tokens=1)).result()
  assert b'sk-secret' not in (tmp_path / 'c').read_bytes() and b'(key)' in (tmp_path / 'c').read_bytes()
