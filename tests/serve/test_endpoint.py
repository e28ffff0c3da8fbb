"""The official client talks to the endpoint; texts are those of the engine, whatever else is decoded."""

import concurrent.futures
import time

import httpx
import openai
import pytest

from iquest_jax.endpoint.client import Endpoint
from iquest_jax.infer import text as infer_text
from iquest_jax.infer.engine import Request
from iquest_jax.infer.sampler import Sampling

from tests.serve.serving import NAME, SLOTS, TOKENIZER, ScriptedEngine, serving, small_engine

TOOLS = [{'type': 'function', 'function': {'name': 'run', 'parameters': {'type': 'object', 'properties': {}}}}]
USER = [{'role': 'user', 'content': 'hi'}]
CALLING = (
    '<think>\nhm\n</think>\nLet me see.\n<tool_call>\n{"name": "run", "arguments": {"x": "é"}}\n</tool_call>'
    '\n<tool_call>\n{"name": "run", "arguments": {}}\n</tool_call>'
)


@pytest.fixture(scope='module')
def small():
  """A server of the small model, which also waits for slots."""
  with serving(small_engine()) as running:
    yield running


@pytest.fixture(scope='module')
def scripted():
  """A server whose assistant says what the prompt quotes, or calls a tool."""
  say = lambda prompt: prompt.split('say:')[1].split('<|im_end|>')[0] if 'say:' in prompt else CALLING
  with serving(ScriptedEngine(say)) as running:
    yield running


def drawn(prompt, length, sampling, noise=0):
  """What the engine draws if nothing else is decoded: (text, [log-probability])."""
  request = Request(0, infer_text.completion(TOKENIZER, prompt), length, sampling, TOKENIZER.ends, noise=noise)
  tokens = list(small_engine().run([request]))
  return TOKENIZER.decode([token.token for token in tokens if token.end != 'stop']), [token.logp for token in tokens]


def complete(client, prompt='def add', seed=1, **more):
  return client.completions.create(model=NAME, prompt=prompt, seed=seed, **{'max_tokens': 24} | more)


def test_a_completion_is_what_the_engine_draws(small):
  reply = complete(small.client(), n=2, logprobs=0, temperature=0.7, top_p=0.9, extra_body={'top_k': 50})
  for choice in reply.choices:
    text, logps = drawn('def add', 24, Sampling(0.7, 0.9, 50, 1), choice.index)
    assert choice.text == text and choice.logprobs.token_logprobs == pytest.approx(logps[: len(choice.logprobs.tokens)])
  assert reply.choices[0].text != reply.choices[1].text
  assert reply.model == NAME and reply.system_fingerprint == 'f' * 16
  prompt = len(TOKENIZER.encode('def add'))
  drawn_tokens = sum(len(one.logprobs.tokens) + (one.finish_reason == 'stop') for one in reply.choices)
  usage = reply.usage
  assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (prompt, drawn_tokens, prompt + drawn_tokens)


def test_eight_at_a_time_are_their_sequential_selves(small):
  client = small.client()
  asked = [dict(prompt='def ' * (i % 4 + 1), seed=i // 2, temperature=i % 3) for i in range(8)]
  alone = [complete(client, **one).choices[0].text for one in asked]
  with concurrent.futures.ThreadPoolExecutor(8) as clients:
    together = list(clients.map(lambda one: complete(client, **one).choices[0].text, asked))
  assert together == alone and len(set(alone)) >= 6


def test_identical_requests_in_flight_give_the_same_text(small):
  client = small.client()
  with concurrent.futures.ThreadPoolExecutor(6) as clients:
    texts = list(clients.map(lambda _: complete(client, temperature=1.0, max_tokens=60).choices[0].text, range(6)))
  assert len(set(texts)) == 1 and texts[0]


def test_a_seed_decides_the_text_and_none_is_drawn_at_random(small):
  client = small.client()
  text = lambda **how: complete(client, **how).choices[0].text
  assert text(seed=5) == text(seed=5) != text(seed=6)
  assert text(seed=None) != text(seed=None)


def test_each_prompt_of_a_list_gets_the_text_that_it_gets_alone(small):
  client = small.client()
  prompts = ['def add', 'class', 'return']
  together = complete(client, prompts, n=2)
  assert [one.index for one in together.choices] == list(range(6))
  assert [one.text for one in together.choices[2:4]] == [one.text for one in complete(client, 'class', n=2).choices]
  assert together.usage.prompt_tokens == sum(len(TOKENIZER.encode(prompt)) for prompt in prompts)


@pytest.mark.parametrize('how', [{}, {'stop': ['e', 'ü']}, {'n': 3}], ids=str)
def test_a_stream_is_the_whole_text_in_pieces(small, how):
  client = small.client()
  whole = complete(client, **how)
  texts, ends, usage = [''] * len(whole.choices), {}, None
  for chunk in complete(client, stream=True, stream_options={'include_usage': True}, **how):
    usage = chunk.usage or usage
    for choice in chunk.choices:
      assert choice.index not in ends
      texts[choice.index] += choice.text
      ends |= {choice.index: choice.finish_reason} if choice.finish_reason else {}
  assert texts == [one.text for one in whole.choices] and usage == whole.usage
  assert ends == {one.index: one.finish_reason for one in whole.choices}


def test_a_stop_word_ends_a_text_and_frees_its_slot(scripted):
  reply = complete(scripted.client(), 'say:one two three', stop=' two', max_tokens=100)
  assert reply.choices[0].text == 'one' and reply.choices[0].finish_reason == 'stop'
  assert reply.usage.completion_tokens == len(TOKENIZER.encode('one two')) and scripted.engine.free == SLOTS


def test_a_text_that_is_cut_off_says_so(scripted):
  choice = complete(scripted.client(), 'say:one two', max_tokens=1).choices[0]
  assert choice.finish_reason == 'length' and 'one two'.startswith(choice.text)


def chat(running, **more):
  return running.client().chat.completions.create(model=NAME, messages=USER, **more)


def test_thinking_and_calls_are_apart_from_the_content(scripted):
  reply = chat(scripted, tools=TOOLS)
  message = reply.choices[0].message
  assert message.content == 'Let me see.' and message.reasoning_content == 'hm'
  assert [(call.type, call.function.name, call.function.arguments) for call in message.tool_calls] == [
      ('function', 'run', '{"x": "é"}'),
      ('function', 'run', '{}'),
  ]
  assert len({call.id for call in message.tool_calls}) == 2 and reply.choices[0].finish_reason == 'tool_calls'
  assert scripted.engine.seen[-1].prompt.tolist() == infer_text.turn(TOKENIZER, USER, TOOLS).tolist()


def test_a_streamed_chat_is_the_whole_one(scripted):
  chunks = [chunk.choices[0] for chunk in chat(scripted, tools=TOOLS, stream=True)]
  assert chunks[0].delta.role == 'assistant' and chunks[-1].finish_reason == 'tool_calls'
  assert ''.join(one.delta.content or '' for one in chunks) == 'Let me see.'
  assert ''.join(getattr(one.delta, 'reasoning_content', '') for one in chunks) == 'hm'
  calls = [call for one in chunks for call in one.delta.tool_calls or ()]
  assert [(call.index, call.function.arguments) for call in calls] == [(0, '{"x": "é"}'), (1, '{}')]
  assert sum(bool(one.delta.content) for one in chunks) > 3  # as it came


def test_without_tools_a_call_is_content(scripted):
  message = chat(scripted).choices[0].message
  assert message.content == CALLING.split('</think>\n')[1] and not message.tool_calls


def test_an_answer_can_be_the_next_turns_history(scripted):
  said = chat(scripted, tools=TOOLS).choices[0].message
  results = [{'role': 'tool', 'tool_call_id': call.id, 'content': 'done'} for call in said.tool_calls]
  history = [*USER, said.model_dump(exclude_none=True), *results]
  scripted.client().chat.completions.create(model=NAME, messages=history, tools=TOOLS)
  prompt = TOKENIZER.decode(scripted.engine.seen[-1].prompt)
  assert f'<|im_start|>assistant\n{CALLING}<|im_end|>' in prompt and prompt.count('<tool_response>\ndone') == 2


def test_the_client_of_this_project_gets_the_text_that_the_model_wrote(scripted):
  with Endpoint(scripted.url, NAME) as endpoint:
    reply = endpoint.start(endpoint.chat(USER, tools=TOOLS, max_tokens=200)).result()
  assert (reply.text, reply.end, reply.model) == (CALLING, 'stop', NAME)
  assert reply.output_tokens == len(TOKENIZER.encode(CALLING)) + 1


def test_log_probabilities_of_a_chat_are_those_of_its_tokens(scripted):
  logprobs = chat(scripted, logprobs=True, max_tokens=5).choices[0].logprobs.content
  assert [(one.token, one.logprob) for one in logprobs] == [
      (TOKENIZER.decode([id]), -0.5) for id in TOKENIZER.encode(CALLING)[:5]
  ]
  streamed = [one for chunk in chat(scripted, logprobs=True, max_tokens=5, stream=True) for one in
              (chunk.choices[0].logprobs.content if chunk.choices[0].logprobs else ())]  # fmt: skip
  assert streamed == logprobs


def test_half_of_a_character_in_a_call_does_not_break_the_answer(scripted):
  said = '<tool_call>{"name": "run", "arguments": {"x": "\\ud800"}}</tool_call>'
  messages = [{'role': 'user', 'content': f'say:{said}'}]
  client = scripted.client()
  whole = client.chat.completions.create(model=NAME, messages=messages, tools=TOOLS)
  assert whole.choices[0].message.tool_calls[0].function.name == 'run'
  assert len(list(client.chat.completions.create(model=NAME, messages=messages, tools=TOOLS, stream=True))) >= 2


def test_models_lists_the_one_model(scripted):
  client = scripted.client()
  (model,) = client.models.list().data
  assert (model.id, model.max_model_len, model.fingerprint) == (NAME, 512, 'f' * 16)
  assert client.models.retrieve(NAME) == model
  with pytest.raises(openai.NotFoundError, match='model "x" does not exist'):
    client.models.retrieve('x')


def test_more_requests_than_may_wait_are_told_to_try_later(scripted):
  engine = scripted.engine
  engine.steps.clear()
  client = scripted.client()
  most = SLOTS + 16
  with concurrent.futures.ThreadPoolExecutor(4) as clients:
    waiting = clients.submit(complete, client, 'say:one', n=most - 1)
    until(lambda: len(engine.live) == SLOTS)
    with pytest.raises(openai.RateLimitError, match='the server is busy') as caught:
      complete(client, 'say:one', n=2)
    assert caught.value.response.headers['retry-after'] == '1'
    with pytest.raises(openai.BadRequestError, match=f'at most {most} texts, got {most + 1}'):
      complete(client, 'say:one', n=most + 1)
    last = clients.submit(complete, client, 'say:two')
    engine.steps.set()
    assert len(waiting.result().choices) == most - 1 and last.result().choices[0].text == 'two'
  assert complete(client, 'say:one', n=most).usage.completion_tokens


@pytest.mark.parametrize('stream', [True, False], ids=['streamed', 'whole'])
def test_a_client_that_leaves_frees_its_slots(scripted, stream):
  """Two texts, one of which has a slot and the other waits for one."""
  engine, seen = scripted.engine, len(scripted.engine.seen)
  engine.steps.clear()
  stay = concurrent.futures.ThreadPoolExecutor(1).submit(complete, scripted.client(), 'say:stay', n=SLOTS - 1)
  until(lambda: len(engine.live) == SLOTS - 1)
  asked = dict(prompt=f'say:{"long " * 20}', n=2, max_tokens=200)
  if stream:
    pieces = complete(scripted.client(), **asked, stream=True)
    until(lambda: len(engine.live) == SLOTS)
    pieces.close()
  else:
    with pytest.raises(openai.APITimeoutError):
      complete(scripted.client().with_options(timeout=0.3), **asked)
  until(lambda: scripted.server.service.texts == SLOTS - 1)
  engine.steps.set()
  assert {choice.text for choice in stay.result().choices} == {'stay'}
  until(lambda: engine.free == SLOTS)
  assert len(engine.seen) - seen == SLOTS  # the one that waited never got a slot
  assert engine.drawn[engine.seen[-1].id] <= 1 and scripted.server.service.texts == 0


def until(true, seconds=20):
  deadline = time.monotonic() + seconds
  while not true():
    assert time.monotonic() < deadline
    time.sleep(0.002)


def test_a_signal_ends_the_server_after_what_was_admitted():
  engine = ScriptedEngine(lambda prompt: 'a text of some length')
  with serving(engine) as running:
    engine.steps.clear()
    pieces = complete(running.client(), 'x', n=SLOTS + 2, stream=True)
    until(lambda: len(engine.live) == SLOTS)
    running.server.handle_exit(15, None)
    until(lambda: refused(running))
    engine.steps.set()
    texts = [''] * (SLOTS + 2)
    for chunk in pieces:
      texts[chunk.choices[0].index] += chunk.choices[0].text
    assert set(texts) == {'a text of some length'}
    running.thread.join(20)
    assert not running.thread.is_alive() and not running.failure


def refused(running):
  """Whether nobody listens any more."""
  try:
    running.client().models.list()
  except openai.APIConnectionError:
    return True
  return False


def test_a_second_signal_ends_the_server_at_once():
  with serving(ScriptedEngine(lambda prompt: 'a ' * 100_000, size=300_000)) as running:
    pieces = complete(running.client(), 'x', max_tokens=200_000, stream=True)
    next(iter(pieces))
    running.server.handle_exit(15, None)
    running.thread.join(0.3)
    assert running.thread.is_alive()
    running.server.handle_exit(15, None)
    running.thread.join(20)
    assert not running.thread.is_alive()
    with pytest.raises((openai.APIError, httpx.HTTPError)):  # the connection was closed in the middle
      list(pieces)


def test_a_failure_of_the_engine_is_answered_and_ends_the_server():
  engine = ScriptedEngine(lambda prompt: 'a text')
  with serving(engine) as running:
    engine.steps.clear()
    with concurrent.futures.ThreadPoolExecutor(2) as clients:
      whole = clients.submit(complete, running.client(), 'x', n=SLOTS)
      until(lambda: len(engine.live) == SLOTS)
      waiting = clients.submit(lambda: list(complete(running.client(), 'x', stream=True)))
      until(lambda: running.server.service.texts == SLOTS + 1)
      engine.fails = MemoryError('no room')
      engine.steps.set()
      with pytest.raises(openai.InternalServerError, match='decoding failed'):
        whole.result()
      with pytest.raises(openai.APIError, match='decoding failed'):
        waiting.result()
    running.thread.join(20)
    assert not running.thread.is_alive() and running.failure == [engine.fails]
