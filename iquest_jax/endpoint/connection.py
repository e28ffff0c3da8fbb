"""One try of a request, by the `openai` package: JSON back, or what went wrong and whether another try may help."""

import asyncio
import dataclasses
import email.utils
import importlib.util
import json
import logging
import math
import os
import re
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from iquest_jax.errors import UserError

_CONNECT_S = 30.0  # to reach a server; an answer may take much longer
# ours: of requests that share a pool of connections; the pool looks at all of its connections for each request.
_PER_POOL = 16
_SHOWN = 300  # characters of what a server says about a failure
# The code that the interface has for it, and the words of servers that do not send one.
_TOO_LONG = re.compile(r'context_length_exceeded|maximum context length|exceeds? the available context', re.IGNORECASE)
# What the package would tell the server about this machine, and settings of its own that belong to another server.
_UNSENT = (
    'OpenAI-Organization', 'OpenAI-Project', 'X-Stainless-Arch', 'X-Stainless-Async', 'X-Stainless-Lang',
    'X-Stainless-OS', 'X-Stainless-Package-Version', 'X-Stainless-Read-Timeout', 'X-Stainless-Retry-Count',
    'X-Stainless-Runtime', 'X-Stainless-Runtime-Version',
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Failure:
  """A try without an answer.

  Attributes:
    problem: one line, without the key.
    passing: whether another try may help.
    wait_s: how long the server asks to wait, 0 if it does not say.
    billable: the server may have worked on it, and bill it.
    too_long: the model's context has no room for the prompt and the answer.
  """

  problem: str
  passing: bool
  wait_s: float = 0.0
  billable: bool = False
  too_long: bool = False


class Connection:
  """Connections to one server; used in one event loop at a time."""

  def __init__(self, url: str, key: str, timeout_s: float, parallel: int):
    """Connects to nothing yet; `post` may be called `parallel` times at a time.

    Raises:
      UserError: the package is missing.
    """
    if not importlib.util.find_spec('openai'):
      raise UserError('endpoint: the package "openai" is missing; install it with pip install -e .[data]')
    self._url, self._key, self._timeout_s, self._parallel = url, key, timeout_s, parallel
    # As it is, and as JSON may write it.
    self._shown = {key, json.dumps(key)[1:-1], key.replace('/', '\\/')} - {''}
    self._clients, self._closing = [], None

  async def post(self, path: str, body: Mapping[str, Any]) -> Any | Failure:
    """The parsed JSON of the answer. No exception leaves here, since those of the package hold the key's header."""
    import openai

    if self._closing is None:
      self._open()
      await anext(self._closing)  # begins it, so that the end of the event loop ends it
    client = self._clients.pop()
    try:
      async with asyncio.timeout(self._timeout_s):
        text = await client.post(path, cast_to=str, body=body, options=self._options)
      return json.loads(text)
    except (TimeoutError, openai.APITimeoutError):
      return Failure('timed out', passing=True, billable=True)
    except openai.APIStatusError as error:
      passing = error.status_code in (408, 429) or error.status_code >= 500
      whole = self.clean(error.response.text)
      problem = f'status {error.status_code}: {whole[:_SHOWN] or error.response.reason_phrase}'
      wait_s, too_long = seconds(error.response.headers.get('Retry-After')), bool(_TOO_LONG.search(whole))
      return Failure(problem, passing, wait_s, too_long=too_long and error.status_code in (400, 413, 422))
    except openai.OpenAIError as error:
      reached = type(error.__cause__).__name__ != 'ConnectError'
      return Failure(self.clean(_reason(error))[:_SHOWN], passing=True, billable=reached)
    except (ValueError, RecursionError):
      return Failure('an answer that is not JSON', passing=True, billable=True)
    finally:
      self._clients.append(client)

  def clean(self, text: str) -> str:
    """One line, in which a server that repeats the key has not put it."""
    return ' '.join(self.without_key(text).split())

  def without_key(self, text: str) -> str:
    for form in self._shown:
      text = text.replace(form, '(key)')
    return text

  def renew(self) -> None:
    """For another event loop; the end of the one before has closed what was open."""
    self._clients, self._closing = [], None

  async def close(self) -> None:
    if self._closing:
      await self._closing.aclose()

  def _open(self) -> None:
    import openai

    # They write a line per request at the level of information.
    for name in ('httpx', 'httpx2', 'openai'):
      logging.getLogger(name).setLevel(logging.WARNING)
    headers: dict[str, Any] = dict.fromkeys(_UNSENT, openai.Omit())
    headers['Authorization'] = f'Bearer {self._key}' if self._key else openai.Omit()
    # A redirect would take the key to another server.
    self._options = {'headers': headers, 'follow_redirects': False}
    timeout = openai.Timeout(self._timeout_s, connect=min(_CONNECT_S, self._timeout_s))
    # Without a key of its own the package would take one from OPENAI_API_KEY.
    make = lambda: openai.AsyncOpenAI(base_url=self._url, api_key='unused', timeout=timeout, max_retries=0)
    clients = [make() for _ in range(math.ceil(self._parallel / _PER_POOL))]
    self._clients = [clients[slot % len(clients)] for slot in range(self._parallel)]
    self._closing = _closing(clients)


async def _closing(clients: Sequence[Any]) -> AsyncIterator[None]:
  """Closes clients when their event loop ends: asyncio.run() closes the generators that it leaves open."""
  try:
    yield
  finally:
    for client in clients:
      await client.close()


def _reason(error: BaseException) -> str:
  """Of a lost connection: what the system said, which lies under the errors of three packages."""
  while inner := error.__cause__ or error.__context__ or _first(error):
    error = inner
  if isinstance(error, OSError) and error.errno:
    return os.strerror(error.errno) if error.errno > 0 else error.strerror  # that of a name that is not found is negative
  return str(error) or type(error).__name__


def _first(error: BaseException) -> BaseException | None:
  return error.exceptions[0] if isinstance(error, BaseExceptionGroup) else None


def seconds(retry_after: str | None) -> float:
  """Of a Retry-After header, a number of seconds or a date; 0 if it is neither."""
  try:
    return max(0.0, float(retry_after or 0))
  except ValueError:
    pass
  try:
    return max(0.0, email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time())
  except (ValueError, TypeError):
    return 0.0
