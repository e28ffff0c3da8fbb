"""Answers of an OpenAI-compatible server: chats by /chat/completions, texts to continue by /completions.

The key comes from an environment variable and goes into one header; it is in no file, log or error.
"""

import concurrent.futures
import contextlib
import http.client
import json
import os
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from iquest_jax.errors import UserError
from iquest_jax.eval.answers import Answer, Asked
from iquest_jax.text import chat
from iquest_jax.text.chat import Message

_ENDS = ('/chat/completions', '/completions')
_TIMEOUT_S = 600.0  # of one request; long reasoning takes minutes
_WAITS_S = (1, 2, 4, 8, 16, 32)  # before each further try
_LONGEST_WAIT_S = 120.0  # that a server may ask for
_MOST_STOP_WORDS = 4  # that the interface takes; all are cut here, too


class EndpointAnswers:
  """Answers of a server, several requests at a time."""

  def __init__(
      self,
      url: str,
      model: str,
      key_env: str = '',
      parallel: int = 8,
      timeout_s: float = _TIMEOUT_S,
      waits_s: Sequence[float] = _WAITS_S,
  ):
    """Makes no request yet.

    Args:
      url: of the API, as in http://localhost:8000/v1; one that ends in /completions is cut there.
      key_env: name of the environment variable with the key; empty if the server asks for none.
      parallel: requests at a time.
      timeout_s: how long an answer may take.
      waits_s: before each further try after a timeout, a lost connection, or status 429 or 5xx.

    Raises:
      UserError: the URL is none of http or https, or carries a password; the model has no name; the variable is not set.
    """
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ('http', 'https') or not parts.hostname:
      raise UserError(f'--endpoint: must be the URL of an API, as in http://localhost:8000/v1, got scheme "{parts.scheme}"')
    if parts.username or parts.password or parts.query:
      raise UserError('--endpoint: must hold no key or password; put the key into an environment variable, see --key_env')
    if not model:
      raise UserError('--model is missing; name the model as the server does')
    self._key = ''
    if key_env:
      self._key = os.environ.get(key_env, '').strip()
      if not self._key:
        raise UserError(f'--key_env: the environment variable {key_env} is not set or is empty; export the key there')
      if not (self._key.isascii() and self._key.isprintable()):
        raise UserError(f'--key_env: the key in {key_env} must be printable ASCII without blanks around it')
    base = url.rstrip('/')
    for end in _ENDS:
      base = base.removesuffix(end)
    self._url, self._model, self._parallel = base, model, parallel
    self._timeout_s, self._waits_s = timeout_s, waits_s
    self.settings: dict[str, Any] = {'endpoint': base, 'model': model}

  def answer(self, asked: Sequence[Asked]) -> Iterator[Answer]:
    """Yields the answers as they come.

    Raises:
      UserError: the server refuses, or does not answer after all tries; answers that still came are yielded first.
    """
    failure = None
    with concurrent.futures.ThreadPoolExecutor(self._parallel) as asking:
      pending = {asking.submit(self._one, one) for one in asked}
      try:
        while pending:
          done, pending = concurrent.futures.wait(pending, return_when=concurrent.futures.FIRST_COMPLETED)
          for future in done:
            if error := future.exception():
              failure = failure or error
              pending = {other for other in pending if not other.cancel()}
            else:
              yield future.result()
      finally:
        asking.shutdown(wait=False, cancel_futures=True)
    if failure:
      raise failure

  def _one(self, asked: Asked) -> Answer:
    prompt, sampling = asked.prompt, asked.sampling
    body = {
        'model': self._model,
        'max_tokens': asked.length,
        'temperature': sampling.temperature,
        'top_p': sampling.top_p,
        # A server draws the same for the same seed, so samples of a problem need different ones.
        'seed': (sampling.seed + asked.id) % 2**31,
    }
    if sampling.top_k:
      body['top_k'] = sampling.top_k
    if prompt.stop:
      body['stop'] = list(prompt.stop)[:_MOST_STOP_WORDS]
    if prompt.messages:
      body['messages'] = _to_server(prompt.messages)
      if prompt.tools:
        body['tools'] = [tool if 'function' in tool else {'type': 'function', 'function': tool} for tool in prompt.tools]
    else:
      body['prompt'] = prompt.text
    path = _ENDS[0] if prompt.messages else _ENDS[1]
    reply = self._post(path, body)
    try:
      (choice, *_) = reply['choices']
      text = _from_server(choice['message']) if prompt.messages else choice['text'] or ''
      end = 'length' if choice.get('finish_reason') == 'length' else 'stop'
      tokens = int((reply.get('usage') or {}).get('completion_tokens') or 0)
      found = [at for word in prompt.stop if (at := text.find(word)) >= 0]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
      raise UserError(
          f'endpoint: {self._url}{path} must answer with choices of messages or texts, but {error!r} is wrong with its '
          'answer; is it OpenAI-compatible?'
      ) from None
    return Answer(asked.id, text[: min(found)] if found else text, end, tokens)

  def _post(self, path: str, body: Mapping[str, Any]) -> Any:
    """The server's JSON; tries again after a failure that may pass."""
    headers = {'Content-Type': 'application/json'} | ({'Authorization': f'Bearer {self._key}'} if self._key else {})
    request = urllib.request.Request(self._url + path, json.dumps(body).encode(), headers, method='POST')
    for wait in (*self._waits_s, None):
      try:
        with _OPENER.open(request, timeout=self._timeout_s) as response:
          return json.loads(response.read())
      except urllib.error.HTTPError as error:
        problem, asked_wait = f'status {error.code}: {_said(error)}', _seconds(error.headers.get('Retry-After'))
        if error.code not in (408, 429) and error.code < 500:
          raise UserError(self._clean(f'endpoint: {self._url}{path} refuses with {problem}')) from None
      except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, 'reason', error)
        problem, asked_wait = str(reason) or type(reason).__name__, 0.0
      except ValueError:
        problem, asked_wait = 'an answer that is not JSON', 0.0
      if wait is not None:
        time.sleep(max(wait, min(asked_wait, _LONGEST_WAIT_S)))
    tries = len(self._waits_s) + 1
    raise UserError(
        self._clean(
            f'endpoint: {self._url}{path} did not answer in {tries} tries (the last: {problem}); what is finished is kept: '
            'rerun the same command to resume'
        )
    )

  def _clean(self, text: str) -> str:
    """One line, in which a server that repeats the key has not put it."""
    text = ' '.join(text.split())
    return text.replace(self._key, '(key)') if self._key else text


class _NoRedirects(urllib.request.HTTPRedirectHandler):
  """A redirect would take the key to another server."""

  def redirect_request(self, *_):
    return None


_OPENER = urllib.request.build_opener(_NoRedirects)


def _said(error: urllib.error.HTTPError) -> str:
  """What a server says about a failure, shortened."""
  try:
    text = error.read(4096).decode(errors='replace')
  except (OSError, http.client.HTTPException):
    text = ''
  return re.sub(r'\s+', ' ', text)[:300] or str(error.reason)


def _seconds(retry_after: str | None) -> float:
  """Of a Retry-After header; 0 if there is none or it names a date."""
  return float(retry_after) if retry_after and retry_after.isdigit() else 0.0


def _to_server(messages: Sequence[Message]) -> list[dict[str, Any]]:
  """Messages as the interface has them: calls apart from the content, results tied to them by an id."""
  converted, waiting = [], []
  for number, message in enumerate(messages):
    role, content = message['role'], message['content']
    calls = list(message.get('tool_calls', ()))
    if role == 'assistant' and not calls:
      reply = chat.parse(content)
      content, calls = reply.content, list(reply.tool_calls)
    one = {'role': role, 'content': content}
    if role == 'tool' and waiting:
      one['tool_call_id'] = waiting.pop(0)
    if calls:
      waiting = [f'call_{number}_{index}' for index in range(len(calls))]
      one['tool_calls'] = [
          {
              'id': key,
              'type': 'function',
              'function': {'name': call['name'], 'arguments': json.dumps(call['arguments'], ensure_ascii=False)},
          }
          for key, call in zip(waiting, calls)
      ]
    converted.append(one)
  return converted


def _from_server(message: Mapping[str, Any]) -> str:
  """What the model said as one text, thinking and calls in their tags, as this project's models write it."""
  calls = []
  for call in message.get('tool_calls') or ():
    function, arguments = call['function'], call['function']['arguments']
    with contextlib.suppress(ValueError):  # what the model got wrong is graded, not refused
      arguments = json.loads(arguments) if isinstance(arguments, str) else arguments
    calls.append({'name': function['name'], 'arguments': arguments})
  thinking = message.get('reasoning_content') or message.get('reasoning') or ''
  content = message.get('content') or ''
  return chat.rendered({'role': 'assistant', 'content': content, 'thinking': thinking, 'tool_calls': calls})[1]
