"""A client of one OpenAI-compatible server and model.

Coroutines of any event loop and threads may use one client at a time. The key comes from an environment variable and goes
into one header; it is in no file, log, cache or error.
"""

import asyncio
import dataclasses
import json
import math
import pathlib
import sys
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np

from iquest_jax.endpoint import address
from iquest_jax.endpoint import cache as caches
from iquest_jax.endpoint import messages as forms
from iquest_jax.endpoint.connection import Connection, Failure
from iquest_jax.endpoint.home import Home
from iquest_jax.endpoint.limits import Limits
from iquest_jax.endpoint.usage import Budget, BudgetSpent, Usage
from iquest_jax.errors import UserError
from iquest_jax.text.chat import Message

__all__ = ['BudgetSpent', 'ContextExceeded', 'Endpoint', 'Reply', 'Usage', 'WrongModel']

_CHAT, _COMPLETE, _EMBED = address.METHODS
_FORMS = {_CHAT: 'choices of messages', _COMPLETE: 'choices of texts', _EMBED: 'an embedding per text'}
_LONGEST_WAIT_S = 120.0  # that a server may ask for
_TELL_S = 5.0  # ours: between two lines about what is waited for
_MOST_STOP_WORDS = 4  # that the interface takes; all are cut here, too
_BYTES_PER_TOKEN = 4  # ours: of a prompt, for the limit on tokens; the answer corrects it
_TEMPLATE_TOKENS = 256  # ours: most that a server's template adds to what the JSON of the messages already exceeds


Body = Callable[[], dict[str, Any]]
Parse = Callable[[Any], dict[str, Any]]  # an answer of the server to what is kept of it


class WrongModel(UserError):
  """The server answers with another model than it was asked for."""


class ContextExceeded(UserError):
  """The model's context has no room for the prompt and as many tokens as were asked for."""


@dataclasses.dataclass(frozen=True)
class Reply:
  """What a model said.

  Attributes:
    text: without the stop word that ended it; thinking and calls in their tags, as text/chat.py renders them.
    end: 'stop', or 'length' (cut off).
    input_tokens, output_tokens: as the server reports them, 0 if it does not.
    model: the name that the server answered with, '' if it gave none.
  """

  text: str
  end: str
  input_tokens: int
  output_tokens: int
  model: str


class Endpoint:
  """One model of one server. Close it, or use it in a `with`, when it is no longer needed.

  Attributes:
    url, model: as in the requests.
    usage: tokens and dollars so far.
  """

  def __init__(
      self,
      url: str,
      model: str,
      *,
      key_env: str = '',
      parallel: int = 8,
      timeout_s: float = 600.0,
      waits_s: Sequence[float] = (1, 2, 4, 8, 16, 32),
      requests_per_minute: float = 0,
      tokens_per_minute: float = 0,
      cache: pathlib.Path | None = None,
      budget: float = math.inf,
      prices: tuple[float, float] = (0, 0),
  ):
    """Makes no request yet.

    Args:
      url: of the API, as in http://localhost:8000/v1; one that ends in a method such as /completions is cut there.
      key_env: name of the environment variable with the key; empty if the server asks for none.
      parallel: requests at a time.
      timeout_s: how long an answer may take.
      waits_s: before each further try after a timeout, a lost connection, an answer that is not JSON, or status 408, 429
        or 5xx; longer where the server asks for it by Retry-After.
      requests_per_minute, tokens_per_minute: limits, spaced evenly; 0 for none.
      cache: file of replies, JSONL; a request that it holds is not made. Only with it does a killed run pay nothing twice.
      budget: dollars that the requests may cost, those included whose replies lie in the cache: a run that resumes has
        spent what it spent before. A request that could exceed it is not sent.
      prices: dollars per million input and output tokens.

    Raises:
      UserError: the URL is none of http or https, or carries a password; the model has no name; the variable is not set;
        the cache cannot be used; a budget has no prices; the package is missing.
    """
    self.url, self.model, self.usage = address.base(url), model, Usage()
    if not model:
      raise UserError('model is missing; name the model as the server does')
    if parallel < 1 or not timeout_s > 0 or min(requests_per_minute, tokens_per_minute) < 0:
      raise UserError('endpoint: needs at least one request at a time, a positive timeout, and no negative limit')
    self._connection = Connection(self.url, address.key(key_env), timeout_s, parallel)
    self._budget = Budget(budget, prices)
    self._cache = caches.Cache(cache) if cache else None
    if self._cache:
      self._budget = Budget(budget, prices, self._cache.spent.get((self.url, model), 0.0))
    self._limits = Limits(requests_per_minute, tokens_per_minute)
    self._parallel, self._waits_s, self._told_at = parallel, tuple(waits_s), -math.inf
    self._home = Home(self._enter)

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self.close()

  async def chat(
      self,
      messages: Sequence[Message],
      *,
      tools: Sequence[Mapping[str, Any]] = (),
      max_tokens: int,
      temperature: float = 0.0,
      top_p: float = 1.0,
      top_k: int = 0,
      seed: int = 0,
      stop: Sequence[str] = (),
  ) -> Reply:
    """The assistant's next turn.

    Args:
      messages: as in text/chat.py.
      max_tokens: most tokens of the answer.
      top_k: 0 for all, which is not sent, as not every server knows it.
      seed: a server draws the same for the same seed, so samples of one prompt need different ones.
      stop: words at which the answer ends.

    Raises:
      BudgetSpent: the request could exceed the budget.
      ContextExceeded: the prompt and `max_tokens` together are longer than the model's context.
      WrongModel: another model answered.
      UserError: the server refuses, does not answer after all tries, or answers with something else.
    """

    def body():
      shown = {'messages': forms.to_server(messages)} | ({'tools': forms.tools_to_server(tools)} if tools else {})
      return self._sampling(max_tokens, temperature, top_p, top_k, seed, stop) | shown

    return await self._say(_CHAT, body, stop, lambda choice: forms.from_server(choice['message']))

  async def complete(
      self,
      prompt: str,
      *,
      max_tokens: int,
      temperature: float = 0.0,
      top_p: float = 1.0,
      top_k: int = 0,
      seed: int = 0,
      stop: Sequence[str] = (),
  ) -> Reply:
    """How a text continues; see `chat`."""
    body = lambda: self._sampling(max_tokens, temperature, top_p, top_k, seed, stop) | {'prompt': prompt}
    return await self._say(_COMPLETE, body, stop, lambda choice: choice['text'] or '')

  async def embed(self, texts: Sequence[str]) -> np.ndarray:
    """Embeddings of N texts in one request, float32 [N, D]; raises as `chat`, and for vectors of different sizes."""
    if not texts:
      return np.zeros((0, 0), np.float32)
    body = lambda: {'model': self.model, 'input': [text or ' ' for text in texts]}  # a server may take no empty text

    def parse(answer):
      data = sorted(answer['data'], key=lambda one: one['index'])
      if [one['index'] for one in data] != list(range(len(texts))):
        raise ValueError('not an embedding per text')
      return {'vectors': np.array([one['embedding'] for one in data], np.float32).reshape(len(texts), -1).tolist()}

    reply = await self._home.run(self._reply(_EMBED, body, parse))
    return np.array(reply['vectors'], np.float32)

  def start(self, coroutine: Coroutine[Any, Any, Any]) -> Future:
    """Runs one of the coroutines above for a caller without an event loop, as in `start(endpoint.chat(...)).result()`."""
    return self._home.start(coroutine)

  def close(self) -> None:
    """Closes the connections; what is on its way is cancelled."""
    self._home.close(self._connection.close)
    if self._cache:
      self._cache.close()

  def _enter(self) -> None:
    """What belongs to one event loop."""
    self._slots, self._turn = asyncio.Semaphore(self._parallel), asyncio.Lock()
    self._asking: dict[str, asyncio.Lock] = {}
    self._connection.renew()

  def _sampling(self, max_tokens, temperature, top_p, top_k, seed, stop) -> dict[str, Any]:
    body = {'model': self.model, 'max_tokens': max_tokens, 'temperature': temperature, 'top_p': top_p}
    body['seed'] = seed % 2**31
    return body | ({'top_k': top_k} if top_k else {}) | ({'stop': list(stop)[:_MOST_STOP_WORDS]} if stop else {})

  async def _say(self, path: str, body: Body, stop: Sequence[str], said: Callable[[Mapping], str]) -> Reply:
    def parse(answer):
      (choice, *_) = answer['choices']
      text = self._connection.without_key(_sendable(said(choice)))
      return {'text': text, 'end': 'length' if choice.get('finish_reason') == 'length' else 'stop'}

    reply = await self._home.run(self._reply(path, body, parse))
    found = [at for word in stop if (at := reply['text'].find(word)) >= 0]
    return Reply(**reply | ({'text': reply['text'][: min(found)], 'end': 'stop'} if found else {}))

  async def _reply(self, path: str, make: Body, parse: Parse) -> dict[str, Any]:
    """The parsed reply to a request, from disk if it was made before."""
    async with self._slots:  # before anything is prepared, so that thousands of requests do not delay the first one
      body = make()
      data = json.dumps(body, ensure_ascii=False, sort_keys=True).encode(errors='replace')
      if b'?' in data:
        body = json.loads(data)  # JSON holds no lone surrogate
      if not self._cache:
        return (await self._ask(path, body, len(data), parse))[0]
      key = caches.key_of(self.url + path, data)
      async with self._asking.setdefault(key, asyncio.Lock()):  # the same request, made twice at a time, is paid once
        if (reply := self._cache.get(key)) is not None:
          self.usage.cached += 1
          return reply
        reply, cost = await self._ask(path, body, len(data), parse)
        await self._cache.add(key, self.url, self.model, cost, reply)
        self._asking.pop(key, None)
        return reply

  async def _ask(self, path: str, body: dict, size: int, parse: Parse) -> tuple[dict[str, Any], float]:
    """The parsed reply of the server to a request of `size` bytes, after as many tries as it takes, and its dollars."""
    limits = (size + _TEMPLATE_TOKENS, body.get('max_tokens', 0))  # no token is shorter than a byte
    most = self._budget.price(*limits)
    tokens = size / _BYTES_PER_TOKEN + limits[1]
    for wait in (*self._waits_s, None):
      await self._budget.reserve(most)
      cost = 0.0
      try:
        await self._limits.admit(tokens)
        # One request per round of the event loop. Requests that are sent in one go are answered in one go, again and again,
        # and the endpoint idles while this process reads all of the answers.
        async with self._turn:
          await asyncio.sleep(0)
        cost = most  # of a try that is cancelled or times out
        answer = await self._connection.post(path, body)
        if not isinstance(answer, Failure):
          used = _used(answer)
          cost = self._budget.price(*(limit if count is None else count for count, limit in zip(used, limits)))
          return self._parsed(path, answer, used, parse, tokens), cost
        cost = most if answer.billable else 0.0
      finally:
        self._budget.settle(most, cost)
        self.usage.cost += cost
      if answer.too_long:
        raise ContextExceeded(f'endpoint: {self.url}{path} refuses with {answer.problem}')
      if not answer.passing:
        raise UserError(f'endpoint: {self.url}{path} refuses with {answer.problem}')
      if answer.wait_s:
        self._limits.pause(min(answer.wait_s, _LONGEST_WAIT_S))
      if wait:
        self._tell(f'endpoint: {self.url}{path} does not answer ({answer.problem}); trying again in {wait:g} s')
        await asyncio.sleep(wait)
    raise UserError(
        f'endpoint: {self.url}{path} did not answer in {len(self._waits_s) + 1} tries (the last: {answer.problem}); what '
        'is finished is kept: rerun the same command to resume'
    )

  def _tell(self, waiting: str) -> None:
    """Says what requests wait for, not for each of the many that wait for the same."""
    now = time.monotonic()
    if now - self._told_at >= _TELL_S:
      self._told_at = now
      print(waiting, file=sys.stderr, flush=True)

  def _parsed(self, path: str, answer: Any, used, parse: Parse, reserved: float) -> dict[str, Any]:
    """The reply in an answer of the server; counts it."""
    counts = [count or 0 for count in used]
    self.usage.requests += 1
    self.usage.input_tokens += counts[0]
    self.usage.output_tokens += counts[1]
    if None not in used:
      self._limits.correct(reserved, sum(counts))
    try:
      name = answer.get('model')
      shown = self._connection.clean(name)[:100] if isinstance(name, str) else ''
      if shown and not address.same_model(self.model, name):
        raise WrongModel(
            f'endpoint: {self.url}{path} was asked for the model "{self.model}" and answers as "{shown}"; name the model '
            'as the server does'
        )
      known = {'input_tokens': counts[0], 'output_tokens': counts[1], 'model': shown}
      return parse(answer) | known
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
      problem = self._connection.clean(repr(error))[:200]
    raise UserError(
        f'endpoint: {self.url}{path} must answer with {_FORMS[path]}, but {problem} is wrong with its answer; is it '
        f'OpenAI-compatible, and is "{self.model}" a model for this?'
    )


def _used(answer: Any) -> tuple[int | None, int | None]:
  """Tokens of the prompt and the answer, None for what the server does not report."""
  usage = answer.get('usage') if isinstance(answer, dict) else None
  counts = [usage.get(name) if isinstance(usage, dict) else None for name in ('prompt_tokens', 'completion_tokens')]
  return tuple(count if isinstance(count, int) and count >= 0 else None for count in counts)


def _sendable(text: str) -> str:
  """Without lone surrogates, which JSON may carry and UTF-8 cannot."""
  if not isinstance(text, str):
    raise TypeError(f'text of type {type(text).__name__}')
  return text.encode(errors='replace').decode()
