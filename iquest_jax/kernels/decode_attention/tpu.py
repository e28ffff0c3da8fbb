"""Attention of one new token per slot over its cache on TPUs: one launch, which reads no place beyond a slot's length.

A cache block [S, G, K] is taken as a matrix of S x G rows, as it lies in memory, and multiplied with the queries of all
heads at once; scores of a query head with rows of another key/value head are masked. So every block is read once for all
heads and nothing is transposed. The matrix unit has time for G times the products, since the launch waits for memory.

Legend: reference.py; G key/value heads, R = H / G.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from iquest_jax.kernels.decode_attention import reference
from iquest_jax.kernels.gated_attention import Keys, tpu_common
from iquest_jax.kernels.gated_attention.reference import MASKED
from iquest_jax.kernels.gated_attention.tpu_common import LANES, LOG2_E, column, compiler_params, dot, widen

# The cache is copied in multiples of so many places: at 4096 tokens and more this is at most 3.1 % too much.
PIECE = 128
# Some generations have two cores per chip; they share the first dimension of a grid. Others run the two parts in turn.
PARTS = 2


class Options(NamedTuple):
  """How the kernel runs; tests interpret small blocks.

  Attributes:
    block: rows (places x heads) of keys copied at a time, and as many of values.
    chunk: rows whose scores are held at once.
    interpret: False on a TPU; True, or pltpu.InterpretParams, elsewhere.
  """

  block: int = 8192
  chunk: int = 2048
  interpret: object = False

  def fitted(self, S: int, G: int) -> 'Options':
    """Powers of two in pieces; a block is no longer than a slot, and a chunk no longer than a block."""
    rows = PIECE * G
    power = lambda pieces: 1 << max(1, pieces).bit_length() - 1
    block = power(min(self.block // rows, S // PIECE))
    return self._replace(block=block * rows, chunk=min(block, power(self.chunk // rows)) * rows)


DEFAULT = Options()


class Plan(NamedTuple):
  """What the grid's steps do, int32: each part of the grid walks over its slots, and over the blocks of each.

  Attributes:
    slot: [PARTS, N] slot of each step; a part without slots has B.
    block: [PARTS, N] which block of the slot's cache.
    steps: [PARTS] how many of the N are work.
    length: [B] tokens of each slot.
    first: [1] which slot of the whole cache is the layer's first one.
  """

  slot: jax.Array
  block: jax.Array
  steps: jax.Array
  length: jax.Array
  first: jax.Array


def plan(length_B, active_B, block: int, blocks: int, layer) -> Plan:
  """Steps for the slots that have a query; an empty one among them has a step without a block.

  Args:
    length_B: tokens of each slot.
    active_B: bool, whether it has a query.
    block: tokens of a block.
    blocks: blocks of a slot.
    layer: int32.
  """
  B = len(length_B)
  steps_B = jnp.where(active_B, jnp.maximum(1, -(-length_B // block)), 0)
  end_B = jnp.cumsum(steps_B)
  start_B = end_B - steps_B
  # Slots whose middle lies in the second half of all steps are the second part's.
  first = jnp.sum(jnp.where(start_B + end_B <= end_B[-1], steps_B, 0))
  steps = jnp.stack([first, end_B[-1] - first])
  # A part that has done its steps stays at the last one, so that nothing is read or written for it.
  n = jnp.minimum(jnp.arange(B * blocks), steps[:, None] - 1) + jnp.stack([0, first])[:, None]
  before = end_B <= n[..., None]
  slot = jnp.where(steps[:, None] > 0, jnp.sum(before, axis=-1), B)
  block_of_slot = n - jnp.max(jnp.where(before, end_B, 0), axis=-1)
  arrays = slot, block_of_slot, steps, length_B, jnp.reshape(layer * B, 1)
  return Plan(*(x.astype(jnp.int32) for x in arrays))


class Near(NamedTuple):
  """The local stream of a later pass, in the layout of the kernel.

  Attributes:
    logits: of the gate, float32 [B, 1, H].
    own_k, own_v: of the new token, [B, G, K].
    seen: 1 where a row of the ring is visible, else 0; float32 [B, 1, W x G].
    k, v: of the rings of all layers, [L x B, W x G, K].
  """

  logits: jax.Array
  own_k: jax.Array
  own_v: jax.Array
  seen: jax.Array
  k: jax.Array
  v: jax.Array


def attention(q_BTHK, own: Keys, past: Keys, layer, options: Options = DEFAULT):
  """reference.attention; of one new token per slot, if the tokens of each slot are its first places in `past`.

  Several new tokens run as the reference, and so do slots whose places are no multiple of PIECE.
  """
  if not _fits(q_BTHK, past):
    return reference.attention(q_BTHK, own, past, layer)
  return _launch(q_BTHK, own, past, layer, None, options)


def gated_attention(
    q_BTHK,
    far: Keys,
    near: Keys,
    past_far: Keys,
    past_near: Keys,
    layer,
    gate_logits_BTH,
    window: int,
    options: Options = DEFAULT,
):
  """reference.gated_attention, as in `attention`; `past_near` may be in any order.

  Raises:
    ValueError: `past_near` has more than PIECE places.
  """
  if not _fits(q_BTHK, past_far):
    return reference.gated_attention(q_BTHK, far, near, past_far, past_near, layer, gate_logits_BTH, window)
  W, G = past_near.k.shape[-3:-1]
  if W > PIECE:
    raise ValueError(f'decode_attention: past_near must have at most {PIECE} places on a TPU, got {W}')
  age_BW = near.ids.positions - past_near.ids.positions
  seen_BW = (past_near.ids.segment_ids == near.ids.segment_ids) & (age_BW >= 0) & (age_BW < window)
  seen = jnp.repeat(seen_BW.astype(jnp.float32), G, axis=1)[:, None]
  stream = Near(gate_logits_BTH, *map(_rows, near[:2]), seen, *map(_rows, past_near[:2]))
  return _launch(q_BTHK, far, past_far, layer, stream, options)


def _fits(q_BTHK, past: Keys) -> bool:
  return q_BTHK.shape[1] == 1 and past.k.shape[-3] % PIECE == 0


def _rows(x_BSGK):
  """[..., S x G, K] of [..., S, G, K] with one leading axis, which lies in memory as it did."""
  S, G, K = x_BSGK.shape[-3:]
  return x_BSGK.reshape(-1, S * G, K)


def _launch(q_BTHK, own: Keys, past: Keys, layer, near: Near | None, options: Options):
  B, _, H, K = q_BTHK.shape
  S, G = past.k.shape[-3:-1]
  o = options.fitted(S, G)
  active_B = own.ids.segment_ids[:, 0] != 0
  length_B = jnp.sum(past.ids.segment_ids != 0, axis=1, dtype=jnp.int32)
  steps = plan(length_B, active_B, o.block // G, -(-S * G // o.block), layer)

  def spec(x, slots=B):
    """The slot's part of an array at each step."""
    place = lambda part, n, slot, *_: (jnp.minimum(slot[part, n], slots - 1), 0, 0)
    return pl.BlockSpec((None, *x.shape[1:]), place)

  def ring_spec(x):
    place = lambda part, n, slot, block, steps, length, first: (first[0] + jnp.minimum(slot[part, n], B - 1), 0, 0)
    return pl.BlockSpec((None, *x.shape[1:]), place)

  inputs = (q_BTHK[:, 0], *map(_rows, own[:2]))
  in_specs = [*map(spec, inputs)]
  if near is not None:
    inputs, in_specs = (*inputs, *near), [*in_specs, *map(spec, near[:4]), *map(ring_spec, near[4:])]
  cached = tuple(map(_rows, past[:2]))
  out = jax.ShapeDtypeStruct((B + 1, H, K), q_BTHK.dtype)  # a part without slots writes to the last row
  out_BHK = pl.pallas_call(
      functools.partial(_kernel, G=G, chunk=o.chunk, gated=near is not None),
      out_shape=out,
      grid_spec=pltpu.PrefetchScalarGridSpec(
          num_scalar_prefetch=len(steps),
          grid=(PARTS, jnp.maximum(1, jnp.max(steps.steps))),
          in_specs=[*in_specs, *[pl.BlockSpec(memory_space=pl.ANY)] * len(cached)],
          out_specs=spec(out, B + 1),
          scratch_shapes=[
              *[pltpu.VMEM((2, o.block, K), x.dtype) for x in cached],
              pltpu.SemaphoreType.DMA((2, len(cached))),
              pltpu.VMEM((H, LANES), jnp.float32),
              pltpu.VMEM((H, LANES), jnp.float32),
              pltpu.VMEM((H, K), jnp.float32),
              pltpu.VMEM((H, o.chunk), jnp.float32),
          ],
      ),
      compiler_params=compiler_params('parallel', 'arbitrary'),
      # That of full slots: how long they are is not known yet.
      cost_estimate=pl.CostEstimate(
          flops=4 * B * H * S * G * K,
          transcendentals=B * H * S * G,
          bytes_accessed=2 * B * S * G * K * past.k.dtype.itemsize,
      ),
      interpret=o.interpret,
      name='decode_attention' if near is None else 'gated_decode_attention',
  )(*steps, *inputs, *cached)
  return jnp.where(active_B[:, None, None], out_BHK[:B], 0)[:, None]


def _kernel(slot, block, steps, length, first, q, own_k, own_v, *refs, G, chunk, gated):
  near, refs = (Near(*refs[:6]), refs[6:]) if gated else (None, refs)
  k_cache, v_cache, out, k_buffer, v_buffer, arrived, top, total, acc, others = refs
  part, n = pl.program_id(0), pl.program_id(1)
  rows = k_buffer.shape[1]

  def filled(n):
    """Rows of a step's block that have tokens."""
    tokens = length[slot[part, n]] - block[part, n] * (rows // G)
    return jnp.clip(tokens * G, 0, rows)

  def copies(n):
    """(whether it is needed, copy) for each binary digit of the number of pieces of a step's block, keys and values."""
    piece = PIECE * G
    pieces = jax.lax.div(filled(n) + piece - 1, jnp.int32(piece))
    buffer = jax.lax.rem(n, jnp.int32(2))
    for bit in reversed(range((rows // piece).bit_length())):
      start = pl.multiple_of((pieces >> (bit + 1) << (bit + 1)) * piece, piece)
      place = pl.multiple_of(block[part, n] * rows + start, piece)
      for i, (cache, copied) in enumerate(((k_cache, k_buffer), (v_cache, v_buffer))):
        source = cache.at[first[0] + slot[part, n], pl.ds(place, piece << bit)]
        copy = pltpu.make_async_copy(source, copied.at[buffer, pl.ds(start, piece << bit)], arrived.at[buffer, i])
        yield pieces & (1 << bit) != 0, copy

  def each(n, act):
    for needed, copy in copies(n):
      pl.when(needed)(functools.partial(act, copy))

  @pl.when(n == 0)
  def _():
    others[...] = _of_other_heads(*others.shape, G)

  @pl.when((n == 0) & (n < steps[part]))
  def _():
    each(n, lambda copy: copy.start())

  @pl.when(n + 1 < steps[part])
  def _():
    each(n + 1, lambda copy: copy.start())

  @pl.when(n < steps[part])
  def _():
    @pl.when(block[part, n] == 0)
    def _():
      score, value = _of_new_token(q, own_k, own_v)
      top[...] = jnp.broadcast_to(score, top.shape)
      total[...] = jnp.full_like(total, 1 / LANES)  # over all lanes, the weight 1 of the new token
      acc[...] = value

    each(n, lambda copy: copy.wait())
    buffer = jax.lax.rem(n, jnp.int32(2))
    left = filled(n)
    whole = jax.lax.div(left, jnp.int32(chunk))
    fold = functools.partial(_fold, q, k_buffer.at[buffer], v_buffer.at[buffer], others, top, total, acc, chunk)
    jax.lax.fori_loop(0, whole, lambda i, _: fold(i, None), None)

    @pl.when(left > whole * chunk)
    def _():
      fold(whole, left - whole * chunk)

    @pl.when((block[part, n] + 1) * (rows // G) >= length[slot[part, n]])
    def _():
      far = acc[...] / jnp.sum(total[...], axis=1, keepdims=True)
      if gated:
        gate = widen(column(jax.nn.sigmoid(near.logits[...])), far.shape[1])
        far = gate * far + (1 - gate) * _local(q, near, others)
      out[...] = far.astype(out.dtype)


def _of_other_heads(H, rows, G):
  """float32 [H, rows], added to scores: MASKED where a row of the cache is of another key/value head than the query."""
  of_query = jax.lax.div(jax.lax.broadcasted_iota(jnp.int32, (H, rows), 0), jnp.int32(H // G))
  of_row = jax.lax.rem(jax.lax.broadcasted_iota(jnp.int32, (H, rows), 1), jnp.int32(G))
  return jnp.where(of_query == of_row, 0.0, MASKED)


def _of_new_token(q, k, v):
  """(unscaled score [H, 1], value [H, K]) of each query with its own token, float32."""
  H = q.shape[0]
  return jnp.sum(q[...].astype(jnp.float32) * _for_heads(k[...], H), axis=1, keepdims=True), _for_heads(v[...], H)


def _for_heads(x_GK, H):
  """float32 [H, K]: the row of each query head. Outside the kernel this is a relayout that takes longer."""
  G, K = x_GK.shape
  of_query = jax.lax.div(jax.lax.broadcasted_iota(jnp.int32, (H, K), 0), jnp.int32(H // G))
  row = lambda g: jnp.broadcast_to(x_GK[g : g + 1].astype(jnp.float32), (H, K))
  x_HK = row(0)
  for g in range(1, G):
    x_HK = jnp.where(of_query == g, row(g), x_HK)
  return x_HK


def _fold(q, k, v, others, top, total, acc, chunk, i, left):
  """Adds a chunk of the cache to the online softmax, or only its first `left` rows: anything may lie beyond them."""
  here = pl.ds(pl.multiple_of(i * chunk, chunk), chunk)
  scale = LOG2_E / math.sqrt(q.shape[1])
  scores, values = dot(q[...], k[here, :], (1, 1)) + others[:, :chunk], v[here, :]
  if left is not None:
    scores = jnp.where(jax.lax.broadcasted_iota(jnp.int32, scores.shape, 1) < left, scores, MASKED)
    values = jnp.where(jax.lax.broadcasted_iota(jnp.int32, values.shape, 0) < left, values, 0)
  tpu_common.add_to_softmax(scores, values, scale, top, total, acc)


def _local(q, near: Near, others):
  """Attention over the ring and the new token, float32 [H, K]."""
  scale = LOG2_E / math.sqrt(q.shape[1])
  seen = near.seen[...] > 0
  scores = dot(q[...], near.k[...], (1, 1)) + others[:, : near.k.shape[0]]
  scores = jnp.where(seen, scores, MASKED)
  own, own_value = _of_new_token(q, near.own_k, near.own_v)
  top = jnp.maximum(own, jnp.max(scores, axis=1, keepdims=True))
  p, own = jnp.exp2((scores - top) * scale), jnp.exp2((own - top) * scale)
  # Values of places that are not seen may be anything, and NaN times a weight of zero is not zero.
  values = jnp.where(widen(column(near.seen[...]), q.shape[1]) > 0, near.v[...], 0)
  summed = dot(p.astype(values.dtype), values, (1, 0)) + own * own_value
  return summed / (jnp.sum(p, axis=1, keepdims=True) + own)
