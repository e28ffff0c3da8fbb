"""What a body asks for, and the one error that a wrong body is answered with."""

import json
import re

import numpy as np
import pytest

from iquest_jax.infer import text as infer_text
from iquest_jax.infer.sampler import Sampling
from iquest_jax.serve.fields import Refused
from iquest_jax.serve.requests import Served, read
from iquest_jax.text import chat, example

from tests.serve.serving import NAME, TOKENIZER

SERVED = Served(NAME, TOKENIZER, 400, 'f' * 16)
USER = {'role': 'user', 'content': 'hi'}
TOOL = {'type': 'function', 'function': {'name': 'run', 'parameters': {'type': 'object'}}}


def asked(chat=True, **body):
  form = {'messages': [USER]} if chat else {'prompt': 'def '}
  return read({'model': NAME, **form, **body}, chat, SERVED)


def test_what_is_not_named_has_the_defaults_of_the_reference():
  one, other = asked(seed=7), asked(chat=False, seed=7)
  assert one.sampling == other.sampling == Sampling(temperature=1.0, top_p=1.0, top_k=0, seed=7)
  assert one.n == 1 and not (one.stop_words or one.stream or one.usage or one.logprobs or one.calls)
  assert one.length == (400 - len(one.prompts[0]),) and other.length == (16,)
  assert asked().sampling.seed != asked().sampling.seed  # of 2^31


def test_null_is_what_is_not_named():
  assert asked(max_tokens=None, stop=None, temperature=None, tools=None, seed=1).length == asked(seed=1).length


def test_parameters_say_how_is_drawn():
  given = dict(temperature=0, top_p=0.5, top_k=3, seed=-1, n=2, stop='x', max_completion_tokens=5, stream=True)
  one = asked(**given, stream_options={'include_usage': True}, logprobs=True, user='me', frequency_penalty=0.0)
  assert one.sampling == Sampling(0.0, 0.5, 3, 2**31 - 1)
  assert (one.n, one.stop_words, one.length, one.stream, one.usage, one.logprobs) == (2, ('x',), (5,), True, True, True)
  assert asked(chat=False, logprobs=0).logprobs and asked(chat=False, stop=['a', 'b']).stop_words == ('a', 'b')


def test_a_prompt_may_be_text_or_ids_or_several():
  ids = lambda prompt, **more: [one.tolist() for one in asked(chat=False, prompt=prompt, **more).prompts]
  assert ids('a<|im_end|>') == [infer_text.completion(TOKENIZER, 'a<|im_end|>').tolist()]
  assert ids([5, 6]) == [[5, 6]] and ids([[5, 6], [7]]) == [[5, 6], [7]]
  assert ids(['a', 'b']) == ids('a') + ids('b')
  assert ids('a', suffix='b') == [infer_text.infill(TOKENIZER, 'a', 'b').tolist()]


def test_a_conversation_is_that_of_the_chat_format():
  call = lambda id, x: {'id': id, 'type': 'function', 'function': {'name': 'run', 'arguments': json.dumps({'x': x})}}
  given = [
      {'role': 'developer', 'content': 'Be brief.'},
      {'role': 'user', 'content': [{'type': 'text', 'text': 'a <|im'}, {'type': 'text', 'text': '_end|>'}]},
      {'role': 'assistant', 'content': None, 'reasoning_content': 'hm', 'tool_calls': [call('p', 1), call('q', 2)]},
      {'role': 'tool', 'tool_call_id': 'q', 'content': 'two'},
      {'role': 'tool', 'tool_call_id': 'p', 'content': 'one'},
      {'role': 'user', 'content': 'and?'},
  ]
  ours = [
      {'role': 'system', 'content': 'Be brief.'},
      {'role': 'user', 'content': 'a <|im_end|>'},
      {'role': 'assistant', 'content': '', 'thinking': 'hm', 'tool_calls': [
          {'name': 'run', 'arguments': {'x': 1}}, {'name': 'run', 'arguments': {'x': 2}}]},
      {'role': 'tool', 'content': 'one'},
      {'role': 'tool', 'content': 'two'},
      {'role': 'user', 'content': 'and?'},
  ]  # fmt: skip
  one = asked(messages=given, tools=[TOOL], max_tokens=5)
  np.testing.assert_array_equal(one.prompts[0], example.build(TOKENIZER, chat.prompt(ours, [TOOL])).tokens)
  assert one.calls and not asked(tools=[TOOL], tool_choice='none').calls
  np.testing.assert_array_equal(asked(tools=[TOOL], tool_choice='none').prompts[0], asked().prompts[0])


WRONG = [
    ([], 'the body must be a JSON object, got a list', None),
    ({'model': ''}, 'model is missing; this server offers "small"', 'model'),
    ({'model': 3}, 'model must be a string, got an integer', 'model'),
    ({'temperature': -1}, 'temperature must be finite and at least 0, got -1.0', 'temperature'),
    ({'temperature': float('nan')}, 'temperature must be finite', 'temperature'),
    ({'temperature': 10**400}, 'temperature and top_p must be finite', None),
    ({'temperature': '1'}, 'temperature must be a number, got a string', 'temperature'),
    ({'temperature': True}, 'temperature must be a number, got a boolean', 'temperature'),
    ({'top_p': 0}, 'top_p must be in (0, 1], got 0.0', 'top_p'),
    ({'top_k': -1}, 'top_k must be at least 0 and below 2^31, got -1', 'top_k'),
    ({'seed': 1.5}, 'seed must be an integer, got a number', 'seed'),
    ({'n': 0}, 'n must be at least 1', 'n'),
    ({'n': 129}, 'n must be at most 128, got 129', 'n'),
    ({'max_tokens': 0}, 'max_tokens must be at least 1', 'max_tokens'),
    ({'max_tokens': 2**31}, 'max_tokens must be at least 1 and below 2^31', 'max_tokens'),
    ({'stop': ['']}, 'stop must be a string or a list of strings, none of them empty', 'stop'),
    ({'stop': 3}, 'stop must be', 'stop'),
    ({'stop': ['x'] * 17}, 'stop must be at most 16 strings, got 17', 'stop'),
    ({'stream': 'yes'}, 'stream must be true or false, got a string', 'stream'),
    ({'stream': True, 'stream_options': {'include_usage': 1}}, 'must be true or false', 'stream_options.include_usage'),
    ({'temprature': 1}, 'parameter "temprature" is not supported; did you mean "temperature"?', 'temprature'),
    ({'min_p': 0.1}, 'parameter "min_p" is not supported', 'min_p'),
    ({'frequency_penalty': 0.5}, 'frequency_penalty 0.5 is not supported; leave it out', 'frequency_penalty'),
    ({'echo': True}, 'echo true is not supported', 'echo'),
]  # fmt: skip
said = lambda **message: {'messages': [{'role': 'assistant', 'content': 'a'} | message]}
WRONG_CHATS = [
    ({'messages': []}, 'messages is missing or empty', 'messages'),
    ({'messages': 'hi'}, 'messages must be a list, got a string', 'messages'),
    ({'messages': ['hi']}, 'messages[0] must be an object with a role', 'messages[0]'),
    (said(role='poet'), 'role of message 0 must be one of system, user, assistant, tool', 'messages'),
    ({'messages': [USER, {'role': 'system', 'content': ''}]}, 'a system message must be the first', 'messages'),
    (said(role='user', content=None), 'must be a string or a list of parts of type text', 'messages[0].content'),
    (said(content=[{'type': 'image_url'}]), 'messages[0].content must be', 'messages[0].content'),
    (said(content='\ud800'), 'messages[0].content must be Unicode text', 'messages[0].content'),
    (said(tool_calls=[{}]), 'must have a function with a name and arguments', 'messages[0].tool_calls[0]'),
    (said(tool_calls=[{'function': {'name': 'f', 'arguments': '[]'}}]), 'with a JSON object', 'messages[0].tool_calls[0]'),
    (said(reasoning_content=3), 'must be a string, got an integer', 'messages[0].reasoning_content'),
    ({'tools': [{}]}, 'tools[0] must be an object with a function that has a name', 'tools'),
    ({'tools': [TOOL], 'tool_choice': 'required'}, 'tool_choice must be "auto" or "none", got required', 'tool_choice'),
    ({'response_format': {'type': 'json_object'}}, '{"type": "json_object"} is not supported', 'response_format'),
    ({'logprobs': 1}, 'logprobs must be true or false, got an integer', 'logprobs'),
    ({'prompt': 'x'}, 'parameter "prompt" is not supported', 'prompt'),
]  # fmt: skip
WRONG_PROMPTS = [
    ({'prompt': None}, 'prompt is missing', 'prompt'),
    ({'prompt': ''}, 'prompt must not be empty', 'prompt'),
    ({'prompt': []}, 'prompt must not be empty', 'prompt'),
    ({'prompt': 3}, 'prompt must be a string, token ids below', 'prompt'),
    ({'prompt': [-1]}, 'prompt must be a string, token ids below', 'prompt'),
    ({'prompt': [True]}, 'prompt must be a string, token ids below', 'prompt'),
    ({'prompt': ['a', 3]}, 'prompt must be a string, token ids below', 'prompt'),
    ({'prompt': '\ud800'}, 'prompt must be Unicode text, got an unpaired surrogate', 'prompt'),
    ({'prompt': [5], 'suffix': 'x'}, 'suffix needs a prompt of text', 'suffix'),
    ({'logprobs': 2}, 'logprobs must be 0', 'logprobs'),
    ({'messages': [USER]}, 'parameter "messages" is not supported', 'messages'),
]  # fmt: skip


@pytest.mark.parametrize(
    ('chat', 'body', 'says', 'param'),
    [(chat, *wrong) for chat in (True, False) for wrong in WRONG]
    + [(True, *wrong) for wrong in WRONG_CHATS]
    + [(False, *wrong) for wrong in WRONG_PROMPTS],
    ids=lambda value: re.sub(r'\W+', '_', str(value))[:40],
)
def test_a_wrong_body_is_refused_in_one_line(chat, body, says, param):
  with pytest.raises(Refused) as caught:
    asked(chat, **body) if isinstance(body, dict) else read(body, chat, SERVED)
  assert says in str(caught.value) and '\n' not in str(caught.value)
  assert (caught.value.status, caught.value.param) == (400, param)


def test_another_model_does_not_exist():
  with pytest.raises(Refused, match='model "gpt-5" does not exist; this server offers "small"') as caught:
    asked(model='gpt-5')
  assert (caught.value.status, caught.value.code) == (404, 'model_not_found')


@pytest.mark.parametrize(('prompt', 'length'), [(400, None), (390, 11)])
def test_prompt_and_answer_must_fit_the_context(prompt, length):
  assert asked(chat=False, prompt=[5] * (prompt - 1), max_tokens=length).length == (length or 1,)
  body = {'prompt': [5] * prompt, 'max_tokens': length}
  with pytest.raises(Refused, match=f'the context holds 400 tokens, got {prompt} in the prompt') as caught:
    asked(chat=False, **body)
  assert (caught.value.status, caught.value.code) == (400, 'context_length_exceeded')
