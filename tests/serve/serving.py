"""What tests of the endpoint share: a small model, a scripted engine, and a server on a port of its own."""

import collections
import contextlib
import dataclasses
import itertools
import threading

import httpx
import jax.numpy as jnp
import openai

from iquest_jax.infer.engine import Engine, Token
from iquest_jax.model.transformer import Transformer
from iquest_jax.serve import server
from iquest_jax.serve.decoder import Decoder
from iquest_jax.serve.requests import Served
from iquest_jax.text.tokenizer import SMALLEST, Tokenizer

from tests.model.small_models import LOOP, random_params

NAME = 'small'
TOKENIZER = Tokenizer.train(['def add(a, b):\n  return a + b\n\nclass Größe:\n  """Über alles."""\n'], SMALLEST + 32)
MODEL = dataclasses.replace(LOOP, vocab=SMALLEST + 32, max_context=256)
SLOTS = 3


def small_engine() -> Engine:
  return Engine(Transformer(MODEL, jnp.float32), random_params(MODEL), SLOTS)


class ScriptedEngine:
  """Says what `say(prompt)` returns, in slots like those of the real one.

  Attributes:
    size: of a slot.
    seen: the requests in the order in which they got a slot.
    live: {id: (request, tokens left)} of the slots in use.
    drawn: how many tokens each request got.
    steps: steps are taken while it is set; slots are filled without.
    fails: the next step raises this.
  """

  def __init__(self, say, slots=SLOTS, size=512):
    self.size, self.seen, self.live, self.fails, self.drawn = size, [], {}, None, collections.Counter()
    self._say, self._slots, self.steps = say, slots, threading.Event()
    self.steps.set()

  @property
  def free(self):
    return self._slots - len(self.live)

  def run(self, requests):
    while True:
      while self.free and (new := list(itertools.islice(requests, 1))):
        self.seen += new
        ids = TOKENIZER.encode(self._say(TOKENIZER.decode(new[0].prompt)))
        self.live[new[0].id] = (new[0], [*ids, TOKENIZER.ends[1]])
      if not self.live:
        return
      if not self.steps.wait(0.002):
        continue
      if self.fails:
        raise self.fails
      for id, (request, ids) in list(self.live.items()):
        if id in self.live:
          token, left = ids[0], ids[1:]
          self.drawn[id] += 1
          end = 'stop' if not left else 'length' if self.drawn[id] == request.length else ''
          self.live[id] = request, left
          if end:
            del self.live[id]
          yield Token(id, token, -0.5, end)

  def release(self, id):
    del self.live[id]


@dataclasses.dataclass
class Serving:
  """A running server."""

  engine: Engine
  server: server.Server
  thread: threading.Thread
  url: str
  failure: list

  def client(self, **options) -> openai.OpenAI:
    """The official client, without retries."""
    http = httpx.Client(trust_env=False)
    return openai.OpenAI(base_url=self.url, api_key='none', max_retries=0, timeout=60, http_client=http, **options)

  def stop(self) -> None:
    self.server.handle_exit(15, None)
    self.thread.join(30)


@contextlib.contextmanager
def serving(engine, waiting=16):
  bound, failure = server.bind('127.0.0.1', 0), []
  served = Served(NAME, TOKENIZER, engine.size, 'f' * 16)
  one = server.Server(served, Decoder(engine, TOKENIZER), engine.free + waiting)

  def answer():
    try:
      one.answer(bound)
    except Exception as error:
      failure.append(error)

  thread = threading.Thread(target=answer, daemon=True)
  thread.start()
  running = Serving(engine, one, thread, f'http://127.0.0.1:{bound.getsockname()[1]}/v1', failure)
  while not one.started:
    assert thread.is_alive()
    thread.join(0.01)
  try:
    yield running
  finally:
    if isinstance(engine, ScriptedEngine):
      engine.steps.set()
    running.stop()
    assert not thread.is_alive()
