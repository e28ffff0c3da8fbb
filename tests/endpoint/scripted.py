"""An OpenAI-compatible server for tests, whose answers are scripted: right, wrong, malformed, slow, refusing.

  with ScriptedEndpoint(lambda body: 'four') as server:
    Endpoint(server.url, 'm')
"""

import contextlib
import dataclasses
import http.server
import json
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple


@dataclasses.dataclass(frozen=True)
class Raw:
  """A response of which nothing is filled in.

  Attributes:
    body: JSON, or text that may be none.
    delay: seconds to wait before it.
    trickle: seconds to wait before each of its characters.
    drop: closes the connection without an answer.
  """

  body: Any = ''
  status: int = 200
  headers: Mapping[str, str] = dataclasses.field(default_factory=dict)
  delay: float = 0.0
  trickle: float = 0.0
  drop: bool = False


# A text or a message {'content', 'tool_calls', ...} that the model says, vectors to embed texts, a status, or a Raw.
Scripted = str | dict | Sequence | int | Raw


class Request(NamedTuple):
  """A request that came: its path, its headers with names as in Content-Type, and its JSON."""

  path: str
  headers: dict[str, str]
  body: dict[str, Any]


class ScriptedEndpoint:
  """Serves on a port of its own until closed.

  Attributes:
    url: of the API.
    requests: every `Request` that came, in order of arrival.
    failures: answers to give first, one per request; None is what the script says.
    most_at_once: requests that were open at the same time.
  """

  def __init__(
      self,
      answers: Callable[[dict], Scripted] = lambda body: '4',
      *,
      failures: Sequence[Scripted | None] = (),
      model: str | None = None,
      usage: tuple[int, int] | None = (10, 3),
  ):
    """Takes a port; answers once it is entered.

    Args:
      answers: what to say to the JSON of a request; called by several threads.
      failures: see the attribute.
      model: the name to answer with; by default the one that was asked for.
      usage: tokens of every prompt and answer; None to report none.
    """
    self.requests: list[Request] = []
    self.failures = list(failures)
    self.most_at_once = self._open = 0
    self._answers, self._model, self._usage, self._lock = answers, model, usage, threading.Lock()
    self._server = _Server(('127.0.0.1', 0), self._handler())
    self.url = f'http://127.0.0.1:{self._server.server_port}/v1'

  def __enter__(self):
    threading.Thread(target=self._server.serve_forever, kwargs={'poll_interval': 0.01}, daemon=True).start()
    return self

  def __exit__(self, *_):
    self._server.shutdown()
    self._server.server_close()

  def _answer(self, request: Request) -> Raw:
    with self._lock:
      self.requests.append(request)
      scripted = self.failures.pop(0) if self.failures else None
      self._open += 1
      self.most_at_once = max(self.most_at_once, self._open)
    try:
      scripted = self._answers(request.body) if scripted is None else scripted
      answer = self._filled(request, scripted)
      time.sleep(answer.delay)
      return answer
    finally:
      with self._lock:
        self._open -= 1

  def _filled(self, request: Request, scripted: Scripted) -> Raw:
    if isinstance(scripted, Raw):
      return scripted
    if isinstance(scripted, int):
      # A server that repeats the key, as some do.
      return Raw(f'sorry, {request.headers.get("Authorization", "")}\nno', scripted)
    reply: dict[str, Any] = {'model': request.body.get('model') if self._model is None else self._model}
    if self._usage:
      reply['usage'] = dict(zip(('prompt_tokens', 'completion_tokens'), self._usage))
    if 'input' in request.body:
      reply['data'] = [{'index': i, 'embedding': list(map(float, v))} for i, v in enumerate(scripted)][::-1]
    elif 'prompt' in request.body:
      reply['choices'] = [{'text': scripted, 'finish_reason': 'stop'}]
    else:
      message = scripted if isinstance(scripted, dict) else {'role': 'assistant', 'content': scripted}
      reply['choices'] = [{'message': message, 'finish_reason': 'stop'}]
    return Raw(reply)

  def _handler(self):
    answer = self._answer

    class Handler(http.server.BaseHTTPRequestHandler):
      protocol_version = 'HTTP/1.1'  # connections are kept
      wbufsize = -1  # head and body in one packet

      def do_POST(self):
        length = int(self.headers.get('Content-Length') or 0)
        received = self.rfile.read(length)
        headers = {name.title(): value for name, value in self.headers.items()}
        if len(received) < length:  # by a client that was killed
          self.close_connection = True
          return
        raw = answer(Request(self.path, headers, json.loads(received or '{}')))
        if raw.drop:
          self.close_connection = True
          return
        body = (raw.body if isinstance(raw.body, str) else json.dumps(raw.body)).encode()
        with contextlib.suppress(OSError):  # the client may have given up
          self.send_response(raw.status)
          for name, value in raw.headers.items():
            self.send_header(name, value)
          self.send_header('Content-Type', 'application/json')
          self.send_header('Content-Length', str(len(body)))
          self.end_headers()
          for piece in [body[at : at + 1] for at in range(len(body))] if raw.trickle else [body]:
            time.sleep(raw.trickle)
            self.wfile.write(piece)
            self.wfile.flush()

      do_GET = do_POST  # what a redirect would become

      def log_message(self, *_):
        pass

    return Handler


class _Server(http.server.ThreadingHTTPServer):
  def handle_error(self, request, client_address):
    if not isinstance(sys.exception(), ConnectionError):  # of a client that was killed
      super().handle_error(request, client_address)
