"""Continuous batching: a fixed number of slots, each with one request; a slot is refilled as soon as its request ends.

A prompt is prefilled alone, in a row of the next power of two of tokens, into its slot of the cache; then every step draws
one token for all live slots. So there is one compile per row length and one for the step, whatever is requested.

Legend: B slots, T new tokens of a slot, L layers, V vocabulary.
"""

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from iquest_jax.errors import UserError
from iquest_jax.infer.sampler import GREEDY, Sampling, batched, sample
from iquest_jax.model import cache as caches
from iquest_jax.model.transformer import Transformer

_SHORTEST = 32  # tokens of the shortest prefilled row


@dataclasses.dataclass(frozen=True)
class Request:
  """What to continue.

  Attributes:
    id: unique among the requests of an engine, int32; with the seed it decides the random numbers.
    prompt: int32 [n], n >= 1.
    length: most tokens to draw, at least 1.
    stop: ids that end the text.
    hold: whether the slot is kept when the text ends, for `extend`.
  """

  id: int
  prompt: np.ndarray
  length: int
  sampling: Sampling = GREEDY
  stop: tuple[int, ...] = ()
  hold: bool = False


class Token(NamedTuple):
  """A drawn token.

  Attributes:
    request: the request's id.
    token: its id; a stop token is reported like any other.
    logp: its log-probability under the model at temperature 1.
    end: 'stop' or 'length' if it is the last one, else ''.
  """

  request: int
  token: int
  logp: float
  end: str


@dataclasses.dataclass
class _Slot:
  """A request in its slot: tokens drawn in all, how many more may be, and whether it is being decoded."""

  request: Request
  drawn: int
  left: int
  live: bool = True


class Engine:
  """Decodes with one model. Not safe for threads."""

  def __init__(self, model: Transformer, params: Any, slots: int, size: int | None = None):
    """Allocates the cache.

    Args:
      slots: requests decoded at a time.
      size: most tokens of a request, prompt included; by default the model's context.
    """
    self.size = model.config.max_context if size is None else size
    self._model, self._params = model.clone(keep_keys=True), params
    self._cache = caches.empty(model.config, slots, self.size, model.dtype)
    self._slots: list[_Slot | None] = [None] * slots
    self._last_B = np.zeros(slots, np.int32)

  def run(self, requests: Iterable[Request]) -> Iterator[Token]:
    """Yields the tokens of all requests as they are drawn; takes a request when a slot is free."""
    waiting = iter(requests)
    while True:
      while self.free and (request := next(waiting, None)) is not None:
        yield self.start(request)
      if not any(slot and slot.live for slot in self._slots):
        return
      yield from self.step()

  @property
  def free(self) -> int:
    """Slots without a request."""
    return self._slots.count(None)

  def start(self, request: Request) -> Token:
    """Prefills a request into a free slot and draws its first token.

    Raises:
      UserError: the prompt is empty, or the request is longer than a slot.
    """
    if not len(request.prompt):
      raise UserError('sample: the prompt must not be empty')
    self._check_fits(len(request.prompt), request.length)
    request.sampling.check()
    index = self._slots.index(None)
    self._slots[index] = _Slot(request, 0, request.length)
    return self._feed(index, request.prompt, fresh=True)

  def extend(self, request_id: int, tokens: Sequence[int], length: int) -> Token:
    """Appends given tokens, such as a tool's result, to a held request whose text has ended, and draws on.

    Args:
      length: most tokens to draw from here on.

    Raises:
      UserError: the request would be longer than a slot.
    """
    index = self._index(request_id)
    slot = self._slots[index]
    # The last token was drawn but not fed.
    tokens = np.asarray([self._last_B[index], *tokens], np.int32)
    self._check_fits(int(self._cache.length_B[index]) + len(tokens), length)
    slot.left, slot.live = length, True
    return self._feed(index, tokens, fresh=False)

  def release(self, request_id: int) -> None:
    """Frees the slot of a request, held or still being decoded."""
    self._slots[self._index(request_id)] = None

  def step(self) -> list[Token]:
    """Draws a token for every live slot."""
    live = [index for index, slot in enumerate(self._slots) if slot and slot.live]
    requests = [slot.request if slot else _NOBODY for slot in self._slots]
    of_each = lambda values, dtype: np.asarray(list(values), dtype)
    tokens_B, logps_B, self._cache = _decode(
        self._model,
        self._params,
        self._cache,
        self._last_B,
        of_each((index in live for index in range(len(self._slots))), np.int32),
        batched([request.sampling for request in requests]),
        of_each((request.id for request in requests), np.int32),
        of_each((slot.drawn if slot else 0 for slot in self._slots), np.int32),
    )
    tokens_B, logps_B = np.asarray(tokens_B), np.asarray(logps_B)
    return [self._drawn(index, tokens_B[index], logps_B[index]) for index in live]

  def _index(self, request_id: int) -> int:
    return next(index for index, slot in enumerate(self._slots) if slot and slot.request.id == request_id)

  def _check_fits(self, tokens: int, length: int) -> None:
    if tokens + length > self.size:
      raise UserError(
          f'sample: tokens so far and tokens to draw must fit the context, at most {self.size}, got {tokens} + {length}; '
          'shorten one of them'
      )

  def _feed(self, index: int, tokens: np.ndarray, fresh: bool) -> Token:
    slot = self._slots[index]
    room = min(self.size, max(_SHORTEST, 1 << (len(tokens) - 1).bit_length()))
    padded_1T = np.zeros((1, room), np.int32)
    padded_1T[0, : len(tokens)] = tokens
    request = slot.request
    token_1, logp_1, self._cache = _prefill(
        self._model, fresh, self._params, self._cache, np.int32(index), padded_1T, np.int32([len(tokens)]),
        batched([request.sampling]), np.int32([request.id]), np.int32([slot.drawn]),
    )  # fmt: skip
    return self._drawn(index, np.asarray(token_1)[0], np.asarray(logp_1)[0])

  def _drawn(self, index: int, token, logp) -> Token:
    """Notes a drawn token; ends the request if it is the last one."""
    slot, token = self._slots[index], int(token)
    slot.drawn, slot.left, self._last_B[index] = slot.drawn + 1, slot.left - 1, token
    end = 'stop' if token in slot.request.stop else '' if slot.left else 'length'
    if end:
      slot.live = False
      if not slot.request.hold:
        self._slots[index] = None
    return Token(slot.request.id, token, float(logp), end)


_NOBODY = Request(0, np.zeros(0, np.int32), 1)


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=3)
def _prefill(model, fresh, params, cache, index, tokens_1T, count_1, sampling, request_1, drawn_1):
  """(token [1], logp [1], cache) after tokens of one slot; a fresh slot holds nothing yet, and its row is a whole one."""
  one = caches.take(cache, index)
  if fresh:
    one = one.replace(length_B=jnp.zeros_like(one.length_B))
  hidden_1TD, one = _extend(model, params, one, tokens_1T, count_1, whole=fresh)
  logits_1V = _logits(params, hidden_1TD[:, count_1[0] - 1])
  return *sample(logits_1V, sampling, request_1, drawn_1), caches.replace(cache, index, one)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
def _decode(model, params, cache, last_B, live_B, sampling, request_B, drawn_B):
  """(tokens [B], logps [B], cache) after the last token of every live slot."""
  hidden_B1D, cache = _extend(model, params, cache, last_B[:, None], live_B, whole=False)
  return *sample(_logits(params, hidden_B1D[:, 0]), sampling, request_B, drawn_B), cache


def _extend(model, params, cache, tokens_BT, count_B, whole):
  row = tokens_BT, cache.next_ids(tokens_BT.shape[1], count_B), None if whole else cache
  hidden_BTD, passes = model.apply({'params': params}, *row, method='extend')
  return hidden_BTD, caches.write(cache, passes, count_B)


def _logits(params, hidden_BD):
  """float32 [B, V]."""
  head_DV = params['head'].astype(hidden_BD.dtype)
  return jnp.einsum('bd,dv->bv', hidden_BD, head_DV, preferred_element_type=jnp.float32)
