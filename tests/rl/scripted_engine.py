"""An engine that draws scripted tokens, so that roll-outs are tested without a model."""

import collections
from collections.abc import Callable, Sequence

from iquest_jax.infer.engine import Request, Token


class ScriptedEngine:
  """The interface of infer/engine.Engine, as far as roll-outs use it.

  Attributes:
    requests: all that were started, in order.
    steps: the number of live slots in each step.
  """

  def __init__(self, slots: int, script: Callable[[Request], Sequence[Sequence[int]]]):
    """`script` gives the tokens of each turn of a request; they end by 'stop' if the last is one of its stop tokens."""
    self._slots, self._script = slots, script
    self._held: dict[int, tuple[Request, collections.deque, collections.deque]] = {}
    self.requests: list[Request] = []
    self.steps: list[int] = []
    self.loads = 0

  @property
  def free(self) -> int:
    return self._slots - len(self._held)

  def load(self, params) -> None:
    assert self.free == self._slots
    self.loads += 1

  def start(self, request: Request) -> Token:
    assert self.free and request.id not in self._held
    self.requests.append(request)
    turns = collections.deque(collections.deque(turn) for turn in self._script(request))
    self._held[request.id] = request, turns, turns.popleft()
    return self._draw(request.id)

  def extend(self, id: int, tokens: Sequence[int], length: int) -> Token:
    request, turns, left = self._held[id]
    assert not left and tokens and length > 0
    self._held[id] = request, turns, turns.popleft()
    return self._draw(id)

  def release(self, id: int) -> None:
    del self._held[id]

  def step(self) -> list[Token]:
    live = [id for id, (_, _, left) in self._held.items() if left]
    self.steps.append(len(live))
    return [self._draw(id) for id in live]

  def _draw(self, id: int) -> Token:
    request, _, left = self._held[id]
    token = left.popleft()
    end = '' if left else 'stop' if token in request.stop else 'length'
    return Token(id, token, -0.5, end)
