"""Continuous batching: a fixed number of slots, each with one request; a slot is refilled as soon as its request ends.

A prompt is prefilled in a row of the next power of two of tokens, into its slot of the cache; then every step draws one
token for all live slots. So there is one compile per row length and one for the step, whatever is requested.

On a mesh the data axis splits the slots and the tensor axis heads, ffn and vocabulary, whose sums travel; no weight does.
N groups of chips then prefill N prompts at a time. Every process runs the same engine and draws the same tokens.

Legend: B slots, N ways the mesh splits them, T new tokens of a slot, L layers, V vocabulary.
"""

import collections
import contextlib
import dataclasses
import functools
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from iquest_jax import sharding
from iquest_jax.errors import UserError
from iquest_jax.infer.sampler import GREEDY, Sampling, batched, sample
from iquest_jax.model import cache as caches
from iquest_jax.model.transformer import Transformer

_SHORTEST = 32  # tokens of the shortest prefilled row
_PIECE = 128  # the attention kernel for TPUs reads caches of a multiple of so many places


@dataclasses.dataclass(frozen=True)
class Request:
  """What to continue.

  Attributes:
    id: unique among the requests of an engine, int32.
    prompt: int32 [n], n >= 1.
    length: most tokens to draw, at least 1.
    stop: ids that end the text.
    hold: whether the slot is kept when the text ends, for `extend`.
    noise: int32; with the seed it decides the random numbers. By default the id.
  """

  id: int
  prompt: np.ndarray
  length: int
  sampling: Sampling = GREEDY
  stop: tuple[int, ...] = ()
  hold: bool = False
  noise: int | None = None


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
    """Allocates the cache on the mesh of the parameters.

    Args:
      slots: requests decoded at a time, at least; rounded up to a multiple of the ways the mesh splits them.
      size: most tokens of a request, prompt included; by default the model's context.
    """
    self.size = model.config.max_context if size is None else size
    self._model, self._params = model.clone(keep_keys=True), params
    where = getattr(jax.tree.leaves(params)[0], 'sharding', None)
    self._mesh = where.mesh if isinstance(where, NamedSharding) else None
    self._ways = sharding.ways('batch', self._mesh) if self._mesh else 1
    slots += -slots % self._ways
    with self._on_mesh():
      self._cache = _empty(model, slots, self.size if self.size < _PIECE else -(-self.size // _PIECE) * _PIECE)
    self._slots: list[_Slot | None] = [None] * slots
    self._last_B = np.zeros(slots, np.int32)

  def run(self, requests: Iterable[Request]) -> Iterator[Token]:
    """Yields the tokens of all requests as they are drawn; takes requests when slots are free."""
    waiting = collections.deque()
    requests = iter(requests)
    while True:
      while self.free:
        waiting.extend(itertools.islice(requests, self._ways - len(waiting)))
        if not waiting:
          break
        # Rows of one launch have one length, and the length of a request's row must not depend on its neighbours.
        together = [waiting.popleft()]
        while waiting and len(together) < len(self._free_parts()) and self._same_row(waiting[0], together[0]):
          together.append(waiting.popleft())
        yield from self._start(together)
      if not any(slot and slot.live for slot in self._slots):
        return
      yield from self.step()

  @property
  def free(self) -> int:
    """Slots without a request."""
    return self._slots.count(None)

  def load(self, params: Any) -> None:
    """Replaces the parameters by others of the same shapes and placement, so that nothing is compiled again.

    All slots must be free, since the cache holds keys of the old ones.
    """
    self._params = params

  def start(self, request: Request) -> Token:
    """Prefills a request into a free slot and draws its first token.

    Raises:
      UserError: the prompt is empty, or the request is longer than a slot.
    """
    return self._start([request])[0]

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
    return self._feed([(index, tokens)], fresh=False)[0]

  def release(self, request_id: int) -> None:
    """Frees the slot of a request, held or still being decoded."""
    self._slots[self._index(request_id)] = None

  def step(self) -> list[Token]:
    """Draws a token for every live slot."""
    live = [index for index, slot in enumerate(self._slots) if slot and slot.live]
    requests = [slot.request if slot else _NOBODY for slot in self._slots]
    live_B = _int32(index in live for index in range(len(self._slots)))
    drawn_B = _int32(slot.drawn if slot else 0 for slot in self._slots)
    with self._on_mesh():
      tokens_B, logps_B, self._cache = _decode(
          self._model, self._params, self._cache, self._last_B, live_B, *_sampled(requests), drawn_B
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

  def _free_parts(self) -> dict[int, int]:
    """{part of the slots: its first free slot}."""
    of_part = len(self._slots) // self._ways
    return {index // of_part: index for index in reversed(range(len(self._slots))) if self._slots[index] is None}

  def _same_row(self, one: Request, other: Request) -> bool:
    return self._room(len(one.prompt)) == self._room(len(other.prompt))

  def _room(self, tokens: int) -> int:
    return min(self.size, max(_SHORTEST, 1 << max(tokens - 1, 0).bit_length()))

  def _start(self, requests: Sequence[Request]) -> list[Token]:
    """Prefills requests of one row length, at most as many as parts have a free slot."""
    for request in requests:
      if not len(request.prompt):
        raise UserError('sample: the prompt must not be empty')
      self._check_fits(len(request.prompt), request.length)
      request.sampling.check()
    indices = [index for _, index in sorted(self._free_parts().items())][: len(requests)]
    for index, request in zip(indices, requests, strict=True):
      self._slots[index] = _Slot(request, 0, request.length)
    return self._feed([(index, request.prompt) for index, request in zip(indices, requests)], fresh=True)

  def _feed(self, rows: Sequence[tuple[int, np.ndarray]], fresh: bool) -> list[Token]:
    """Draws a token after new tokens of slots, each in another part; the rows of other parts are padding."""
    of_part = len(self._slots) // self._ways
    tokens_NT = np.zeros((self._ways, self._room(len(rows[0][1]))), np.int32)
    slots_N, count_N, drawn_N = np.zeros((3, self._ways), np.int32)
    requests = [_NOBODY] * self._ways
    for index, tokens in rows:
      part, slots_N[index // of_part] = divmod(index, of_part)
      tokens_NT[part, : len(tokens)], count_N[part] = tokens, len(tokens)
      requests[part], drawn_N[part] = self._slots[index].request, self._slots[index].drawn
    with self._on_mesh():
      tokens_N, logps_N, self._cache = _prefill(
          self._model, fresh, self._params, self._cache, slots_N, tokens_NT, count_N, *_sampled(requests), drawn_N
      )
    tokens_N, logps_N = np.asarray(tokens_N), np.asarray(logps_N)
    return [self._drawn(index, tokens_N[index // of_part], logps_N[index // of_part]) for index, _ in rows]

  def _on_mesh(self):
    return jax.set_mesh(self._mesh) if self._mesh else contextlib.nullcontext()

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


def _int32(values) -> np.ndarray:
  return np.asarray(list(values), np.int32)


def _sampled(requests: Sequence[Request]) -> tuple[Sampling, np.ndarray]:
  """How tokens of requests are drawn, and what their random numbers follow from besides the seed."""
  noise = _int32(request.id if request.noise is None else request.noise for request in requests)
  return batched([request.sampling for request in requests]), noise


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _empty(model, slots, size):
  return caches.empty(model.config, slots, size, model.dtype)


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=3)
def _prefill(model, fresh, params, cache, slots_N, tokens_NT, count_N, sampling, request_N, drawn_N):
  """(token [N], logp [N], cache) after tokens of N slots; a fresh slot holds nothing yet, and its row is a whole one."""
  some = caches.take(cache, slots_N)
  if fresh:
    some = some.replace(length_B=jnp.where(count_N > 0, 0, some.length_B))
  hidden_NTD, some = _extend(model, params, some, tokens_NT, count_N, whole=fresh)
  hidden_ND = jnp.take_along_axis(hidden_NTD, jnp.maximum(count_N - 1, 0)[:, None, None], axis=1)[:, 0]
  return *sample(_logits(params, hidden_ND), sampling, request_N, drawn_N), caches.replace(cache, slots_N, some)


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
  """float32 [B, V], on every device, since all processes must see what is drawn and a sort needs the whole vocabulary."""
  head_DV = params['head'].astype(hidden_BD.dtype)
  logits_BV = jnp.einsum('bd,dv->bv', hidden_BD, head_DV, preferred_element_type=jnp.float32)
  # Split first, or the partitioner would gather the head instead of the logits.
  return sharding.constrain(sharding.constrain(logits_BV, None, 'vocab'), None, None)
