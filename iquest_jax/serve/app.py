"""The routes of the API, and what becomes of a request: refused or admitted, decoded, delivered, cancelled."""

import asyncio
import contextlib
import functools
import json
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from iquest_jax.serve import replies, requests
from iquest_jax.serve.decoder import FAILED, Decoder, Job, Piece
from iquest_jax.serve.fields import Refused
from iquest_jax.serve.requests import Asked, Served

_MOST_BYTES = 64 << 20  # of a body
_RETRY_AFTER_S = 1


class Service:
  """The endpoint of one model.

  Attributes:
    texts: how many are decoded or wait now.
  """

  def __init__(self, served: Served, decoder: Decoder, most: int):
    """`most` texts may be decoded or wait at a time."""
    self.texts = 0
    self._served, self._decoder, self._most, self._created = served, decoder, most, int(time.time())

  def app(self) -> Starlette:
    """The ASGI application."""
    routes = [
        Route('/v1/models', self._models),
        Route('/v1/models/{name:path}', self._model),
        Route('/v1/chat/completions', functools.partial(self._answer, chat=True), methods=['POST']),
        Route('/v1/completions', functools.partial(self._answer, chat=False), methods=['POST']),
    ]
    handlers = {Refused: _refused, HTTPException: _no_route, ClientDisconnect: _left, Exception: _broken}
    return Starlette(routes=routes, exception_handlers=handlers)

  async def _models(self, request: Request) -> Response:
    return _Json({'object': 'list', 'data': [replies.model(self._served, self._created)]})

  async def _model(self, request: Request) -> Response:
    requests.check_model(request.path_params['name'], self._served)
    return _Json(replies.model(self._served, self._created))

  async def _answer(self, request: Request, chat: bool) -> '_Answer':
    body = await _body(request)
    try:
      # Encoding a long prompt takes long enough for other clients to notice.
      return _Answer(self, await asyncio.to_thread(requests.read, body, chat, self._served))
    except RecursionError:
      raise Refused('the body is nested too deeply') from None

  @contextlib.contextmanager
  def decoding(self, asked: Asked) -> Iterator[tuple[replies.Reply, AsyncIterator[list[str]]]]:
    """(reply, its events as they come); what has not ended when the context ends is cancelled.

    Raises:
      Refused: too many texts wait already, or are asked for at once.
    """
    reply, loop, pieces = replies.Reply(asked, self._served), asyncio.get_running_loop(), asyncio.Queue()
    if reply.left > self._most:
      raise Refused(f'a request may ask for at most {self._most} texts, got {reply.left}; ask in several requests', 'n')
    if self.texts + reply.left > self._most:
      raise Refused('the server is busy; try again later', status=429, code='rate_limit_exceeded')

    def deliver(index: int, piece: Piece) -> None:
      with contextlib.suppress(RuntimeError):  # the loop may have ended
        loop.call_soon_threadsafe(pieces.put_nowait, (index, piece))

    jobs = [
        Job(ids, length, asked.sampling, n, asked.stop_words, lambda piece, index=i * asked.n + n: deliver(index, piece))
        for i, (ids, length) in enumerate(zip(asked.prompts, asked.length, strict=True))
        for n in range(asked.n)
    ]

    async def events() -> AsyncIterator[list[str]]:
      while reply.left:
        index, piece = await pieces.get()
        if piece.end == FAILED:
          raise _EngineFailed
        self.texts -= bool(piece.end)
        yield reply.add(index, piece)

    self.texts += len(jobs)
    try:
      for job in jobs:
        self._decoder.submit(job)
      yield reply, events()
    finally:
      for job in jobs:
        job.cancelled = True
      self.texts -= reply.left


class _Json(JSONResponse):
  """In ASCII, since a text can hold half of a character, which UTF-8 cannot."""

  def render(self, content: Any) -> bytes:
    return json.dumps(content).encode()


class _EngineFailed(Exception):
  """The decoder delivers nothing any more."""


class _Answer:
  """The response to an accepted request, streamed or whole."""

  def __init__(self, service: Service, asked: Asked):
    self._service, self._asked = service, asked

  async def __call__(self, scope, receive, send) -> None:
    with self._service.decoding(self._asked) as (reply, events):
      deliver = self._stream if self._asked.stream else self._whole
      answer = asyncio.ensure_future(deliver(reply, events, scope, receive, send))
      gone = asyncio.ensure_future(_gone(receive))
      try:
        await asyncio.wait({answer, gone}, return_when=asyncio.FIRST_COMPLETED)
        if answer.done():
          answer.result()
      finally:
        for task in (answer, gone):
          task.cancel()
        await asyncio.gather(answer, gone, return_exceptions=True)

  async def _whole(self, reply, events, scope, receive, send) -> None:
    try:
      async for _ in events:
        pass
    except _EngineFailed:
      raise Refused('decoding failed; see the log of the server', status=500) from None
    await _Json(reply.whole())(scope, receive, send)

  async def _stream(self, reply, events, scope, receive, send) -> None:
    headers = [(b'content-type', b'text/event-stream; charset=utf-8'), (b'cache-control', b'no-cache')]
    await send({'type': 'http.response.start', 'status': 200, 'headers': headers})
    write = lambda lines, more=True: send(
        {'type': 'http.response.body', 'body': ''.join(lines).encode(), 'more_body': more}
    )
    await write(reply.first())
    try:
      async for lines in events:
        if lines:
          await write(lines)
    except _EngineFailed:
      await write([replies.failed()], more=False)
      return
    await write(reply.last(), more=False)


async def _gone(receive) -> None:
  """Returns when the client has left."""
  while (await receive())['type'] != 'http.disconnect':
    pass


async def _body(request: Request) -> Any:
  """The JSON of a body."""
  parts, size = [], 0
  async for part in request.stream():
    parts.append(part)
    size += len(part)
    if size > _MOST_BYTES:
      raise Refused(f'the body must be at most {_MOST_BYTES} bytes', status=413)
  try:
    return json.loads(b''.join(parts))
  except (ValueError, RecursionError) as error:
    raise Refused(f'the body must be JSON: {error}') from None


async def _refused(request: Request, refused: Refused) -> Response:
  headers = {'Retry-After': str(_RETRY_AFTER_S)} if refused.status == 429 else None
  return _Json(replies.error(refused), refused.status, headers)


async def _left(request: Request, error: ClientDisconnect) -> Response:
  """Nobody reads this."""
  return Response(status_code=400)


async def _no_route(request: Request, error: HTTPException) -> Response:
  offered = 'GET /v1/models, POST /v1/chat/completions and POST /v1/completions'
  message = f'{request.method} {request.url.path} does not exist; this server has {offered}'
  return _Json(replies.error(Refused(message, status=error.status_code)), error.status_code, error.headers)


async def _broken(request: Request, error: Exception) -> Response:
  return _Json(replies.error(Refused('the server has a bug; see its log', status=500)), 500)
