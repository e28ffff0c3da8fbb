"""One try of a request, by the `openai` package: JSON back, or what went wrong and whether another try may help."""

import asyncio
import dataclasses
import email.utils
import importlib.util
import json
import logging
import time
from collections.abc import Mapping
from typing import Any

from iquest_jax.errors import UserError

_CONNECT_S = 30.0  # to reach a server; an answer may take much longer
_SHOWN = 300  # characters of what a server says about a failure
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
    timed_out: the server may have worked on it, and bill it.
  """

  problem: str
  passing: bool
  wait_s: float = 0.0
  timed_out: bool = False


class Connection:
  """Connections to one server; used in one event loop."""

  def __init__(self, url: str, key: str, timeout_s: float):
    """Connects to nothing yet.

    Raises:
      UserError: the package is missing.
    """
    if not importlib.util.find_spec('openai'):
      raise UserError('endpoint: the package "openai" is missing; install it with pip install -e .[data]')
    self._url, self._key, self._timeout_s, self._client = url, key, timeout_s, None

  async def post(self, path: str, body: Mapping[str, Any]) -> Any | Failure:
    """The parsed JSON of the answer. No exception leaves here, since those of the package hold the key's header."""
    import openai

    if self._client is None:
      self._open()
    try:
      async with asyncio.timeout(self._timeout_s):
        text = await self._client.post(path, cast_to=str, body=body, options=self._options)
      return json.loads(text)
    except (TimeoutError, openai.APITimeoutError):
      return Failure('timed out', passing=True, timed_out=True)
    except openai.APIStatusError as error:
      passing = error.status_code in (408, 429) or error.status_code >= 500
      said = self.clean(error.response.text)[:_SHOWN] or error.response.reason_phrase
      return Failure(f'status {error.status_code}: {said}', passing, _seconds(error.response.headers.get('Retry-After')))
    except openai.OpenAIError as error:
      return Failure(self.clean(_reason(error))[:_SHOWN], passing=True)
    except (ValueError, RecursionError):
      return Failure('an answer that is not JSON', passing=True)

  def clean(self, text: str) -> str:
    """One line, in which a server that repeats the key has not put it."""
    return ' '.join(self.without_key(text).split())

  def without_key(self, text: str) -> str:
    return text.replace(self._key, '(key)') if self._key else text

  async def close(self) -> None:
    if self._client is not None:
      await self._client.close()

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
    self._client = openai.AsyncOpenAI(base_url=self._url, api_key='unused', timeout=timeout, max_retries=0)


def _reason(error: BaseException) -> str:
  """Of a lost connection: what the system said, which lies under the errors of three packages."""
  while inner := error.__cause__ or error.__context__:
    error = inner
  return str(error) or type(error).__name__


def _seconds(retry_after: str | None) -> float:
  """Of a Retry-After header, a number of seconds or a date; 0 if it is neither."""
  try:
    return max(0.0, float(retry_after or 0))
  except ValueError:
    pass
  try:
    return max(0.0, email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time())
  except (ValueError, TypeError):
    return 0.0
