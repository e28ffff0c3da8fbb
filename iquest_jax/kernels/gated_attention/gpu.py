"""Attention on NVIDIA GPUs (Hopper): the functions of reference.py by tokamax's kernels, one call a stream, and the mix.

Such a kernel shows each query one interval of its keys. Intervals say all that rows need, in two ways:

- `q_ids is k_ids` and no window: queries and keys are the same rows. Documents must lie in runs along which positions
  grow, as packing lays them and as a device of a context axis holds them (batch.zigzag); then a query sees its run up to
  itself, and the kernels skip what is not causal, backward too.
- Anything else (keys of other devices, a halo, a window): keys are brought into the order of (segment, position), in
  which what a query sees is consecutive however they came. The backward kernels skip nothing there.

The local stream of whole rows would be T x T backward, so it is cut into blocks of queries with the keys of their own and
the block before. cuDNN, as jax binds it, needs a bound on the documents of a row and no order but theirs, so it is not
used. What no kernel takes runs as the reference, and the log says why, once a reason.

The backward pass keeps the inputs, the output and one float32 [B, T, H] of statistics, named for remat policies
'attention_output' and 'attention_lse'.

Legend: B batch, T query positions, S key positions, H query heads, G key/value heads, K head size.
"""

import functools
import importlib.metadata
import inspect
import logging
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from absl import flags
from jax.ad_checkpoint import checkpoint_name

from iquest_jax.kernels.gated_attention import reference
from iquest_jax.kernels.gated_attention.reference import MASKED, Halo, Ids

log = logging.getLogger(__name__)

# These are classes behind tokamax's public function, which takes no first key per query; so one release is pinned here and
# in setup.py, and no other is used.
TOKAMAX = '0.0.12'
# Queries a forward tile holds; rows are padded to whole tiles, of keys as well. Also a block of the local stream.
BLOCK = 128
# Tiles: what the library takes by itself for heads of this size where it has no measurement, not tuned here.
FORWARD_TILES = {'block_q': BLOCK // 2, 'block_kv': 128, 'num_stages': 2}
BACKWARD_TILES = {'block_q_dkv': 64, 'block_kv_dkv': 64, 'block_q_dq': 64, 'block_kv_dq': 64, 'num_stages': 2}
MOST_HEAD_SIZE = 128


class Library(NamedTuple):
  """Attention with its statistics, its gradient, and the class that says who sees what, as tokamax has them."""

  forward: Any
  backward: Callable[..., dict]
  mask: Any


def _or_reference(function):
  """`function` by `library` or, where it is None, by whatever takes these arguments: tokamax or the reference."""

  @functools.wraps(function)
  def run(q_BTHK, *args, library: Library | None = None):
    found = library or _library(q_BTHK)
    if isinstance(found, Library):
      return function(q_BTHK, *args, library=found)
    _say(found)
    return getattr(reference, function.__name__)(q_BTHK, *args)

  return run


@functools.cache
def _say(reason: str) -> None:
  log.warning('attention on this GPU runs as plain JAX, slower than a kernel: %s', reason)


def _library(q_BTHK) -> Library | str:
  """tokamax, or why it does not do."""
  K = q_BTHK.shape[-1]
  if (capability := _compute_capability()) != '9.0':
    return f'the kernels are for compute capability 9.0 (H100, H200), here is {capability or "no NVIDIA GPU"}'
  if q_BTHK.dtype != jnp.bfloat16:
    return f'inputs are {q_BTHK.dtype}, the kernels multiply in bfloat16'
  if K > MOST_HEAD_SIZE or K % 16:
    return f'a head size of {K}; the kernels take multiples of 16 up to {MOST_HEAD_SIZE}'
  return _tokamax()


def _compute_capability() -> str:
  return getattr(jax.devices()[0], 'compute_capability', '')


@functools.cache
def _tokamax() -> Library | str:
  try:
    version = importlib.metadata.version('tokamax')
    if version != TOKAMAX:
      return f'tokamax {version} is installed and {TOKAMAX} is needed; install the extra "gpu"'
    from jax.experimental.pallas import mosaic_gpu
    from tokamax._src.ops.attention import (
        base,
        pallas_mosaic_gpu,
        pallas_mosaic_gpu_kernel_sm90,
        pallas_mosaic_gpu_vjp,
        pallas_mosaic_gpu_vjp_common,
    )
  except ImportError as error:  # PackageNotFoundError is one
    return f'tokamax cannot be imported ({type(error).__name__}: {error}); install the extra "gpu"'
  if 'out_shape' not in inspect.signature(mosaic_gpu.kernel).parameters:
    return f'tokamax {TOKAMAX} calls Pallas by names that jax {jax.__version__} dropped; install the extra "gpu"'
  # Its operations read absl flags and would parse the command line of a program that has none.
  if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()
  return Library(
      pallas_mosaic_gpu.PallasMosaicGpuFlashAttention(config=pallas_mosaic_gpu_kernel_sm90.Config(**FORWARD_TILES)),
      pallas_mosaic_gpu_vjp.PallasMosaicGpuFlashAttentionVjp(config=pallas_mosaic_gpu_vjp_common.Config(**BACKWARD_TILES)),
      base.Mask,
  )


@_or_reference
def attention(q_BTHK, k_BSGK, v_BSGK, q_ids: Ids, k_ids: Ids, window: int | None = None, *, library: Library):
  """reference.attention."""
  return _attention(q_BTHK, k_BSGK, v_BSGK, q_ids, k_ids, window, _same_rows(q_ids, k_ids, window), library)


@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6, 7))
def _attention(q_BTHK, k_BSGK, v_BSGK, q_ids, k_ids, window, same_rows, library):
  return _attention_forward(q_BTHK, k_BSGK, v_BSGK, q_ids, k_ids, window, same_rows, library)[0]


def _attention_forward(q_BTHK, k_BSGK, v_BSGK, q_ids, k_ids, window, same_rows, library):
  seen = _seen(q_ids, k_ids, window, same_rows)
  out_BTHK, lse_BTH = _save(*_attend(q_BTHK, k_BSGK, v_BSGK, seen, library))
  return out_BTHK, (q_BTHK, k_BSGK, v_BSGK, q_ids, k_ids, out_BTHK, lse_BTH)


def _attention_backward(window, same_rows, library, saved, d_out_BTHK):
  q_BTHK, k_BSGK, v_BSGK, q_ids, k_ids, out_BTHK, lse_BTH = saved
  seen = _seen(q_ids, k_ids, window, same_rows)
  delta_BTH = _inner(d_out_BTHK, out_BTHK)
  grads = _pull(q_BTHK, k_BSGK, v_BSGK, d_out_BTHK, lse_BTH, delta_BTH, seen, library)
  return *_like(grads, (q_BTHK, k_BSGK, v_BSGK)), None, None


_attention.defvjp(_attention_forward, _attention_backward)


@_or_reference
def attention_with_lse(q_BTHK, k_BSGK, v_BSGK, q_ids: Ids, k_ids: Ids, window: int | None = None, *, library: Library):
  """reference.attention_with_lse; not differentiable, `attention_backward` is its other half."""
  return _attend(q_BTHK, k_BSGK, v_BSGK, _seen(q_ids, k_ids, window, _same_rows(q_ids, k_ids, window)), library)


@_or_reference
def attention_backward(
    q_BTHK,
    k_BSGK,
    v_BSGK,
    d_out_BTHK,
    lse_BTH,
    delta_BTH,
    q_ids: Ids,
    k_ids: Ids,
    window: int | None = None,
    *,
    library: Library,
):
  """reference.attention_backward, but each gradient has been rounded to the dtype of its input."""
  seen = _seen(q_ids, k_ids, window, _same_rows(q_ids, k_ids, window))
  return _pull(q_BTHK, k_BSGK, v_BSGK, d_out_BTHK, lse_BTH, delta_BTH, seen, library)


@_or_reference
def gated_attention(
    q_BTHK,
    k1_BSGK,
    v1_BSGK,
    k2_BTGK,
    v2_BTGK,
    gate_logits_BTH,
    q_ids: Ids,
    k1_ids: Ids,
    window: int,
    halo: Halo | None = None,
    *,
    library: Library,
):
  """reference.gated_attention; without a halo rows lie as the first way above wants them."""
  same_rows = _same_rows(q_ids, k1_ids, None)
  return _gated(
      q_BTHK, k1_BSGK, v1_BSGK, k2_BTGK, v2_BTGK, gate_logits_BTH, q_ids, k1_ids, halo, window, same_rows, library
  )


@functools.partial(jax.custom_vjp, nondiff_argnums=(9, 10, 11))
def _gated(q_BTHK, k1_BSGK, v1_BSGK, k2_BTGK, v2_BTGK, gate_logits_BTH, q_ids, k1_ids, halo, window, same_rows, library):
  return _gated_forward(
      q_BTHK, k1_BSGK, v1_BSGK, k2_BTGK, v2_BTGK, gate_logits_BTH, q_ids, k1_ids, halo, window, same_rows, library
  )[0]


def _gated_forward(
    q_BTHK, k1_BSGK, v1_BSGK, k2_BTGK, v2_BTGK, gate_logits_BTH, q_ids, k1_ids, halo, window, same_rows, library
):
  inputs = (q_BTHK, k1_BSGK, v1_BSGK, k2_BTGK, v2_BTGK, gate_logits_BTH, q_ids, k1_ids, halo)
  near = _Near.of(q_ids, halo, window)
  global_BTHK, lse_BTH = _attend(q_BTHK, k1_BSGK, v1_BSGK, _seen(q_ids, k1_ids, None, same_rows), library)
  local_BTHK, _ = near.attend(q_BTHK, *near.keys(k2_BTGK, v2_BTGK, halo and (halo.k, halo.v)), library)
  gate_BTH1 = jax.nn.sigmoid(gate_logits_BTH)[..., None]
  out_BTHK = gate_BTH1 * global_BTHK + (1 - gate_BTH1) * local_BTHK
  out_BTHK, lse_BTH = _save(out_BTHK.astype(q_BTHK.dtype), lse_BTH)
  return out_BTHK, (inputs, out_BTHK, lse_BTH)


def _gated_backward(window, same_rows, library, saved, d_out_BTHK):
  """Neither stream's output is kept: the local one is cheap to have again, and the mix less it is the global one."""
  inputs, out_BTHK, lse_BTH = saved
  q_BTHK, k1_BSGK, v1_BSGK, k2_BTGK, v2_BTGK, gate_logits_BTH, q_ids, k1_ids, halo = inputs
  near = _Near.of(q_ids, halo, window)
  (near_k, near_v), keys_back = jax.vjp(near.keys, k2_BTGK, v2_BTGK, halo and (halo.k, halo.v))
  local_BTHK, local_lse = near.attend(q_BTHK, near_k, near_v, library)
  gate_BTH = jax.nn.sigmoid(gate_logits_BTH)
  # Deltas of the two streams, each with its share of the gate: they add up to d_out * out.
  local_delta_BTH = (1 - gate_BTH) * _inner(d_out_BTHK, local_BTHK)
  delta_BTH = _inner(d_out_BTHK, out_BTHK) - local_delta_BTH
  weighed = lambda weight_BTH: (weight_BTH[..., None] * d_out_BTHK).astype(d_out_BTHK.dtype)
  seen = _seen(q_ids, k1_ids, None, same_rows)
  dq, dk1, dv1 = _pull(q_BTHK, k1_BSGK, v1_BSGK, weighed(gate_BTH), lse_BTH, delta_BTH, seen, library)
  # Here delta is that of the gradient as rounded for the kernel, so that what cancels does.
  local_d_out = weighed(1 - gate_BTH)
  local_dq, *d_near = near.pull(
      q_BTHK, near_k, near_v, local_d_out, local_lse, _inner(local_d_out, local_BTHK), library
  )
  dk2, dv2, d_halo = keys_back(_like(d_near, (near_k, near_v)))
  dq, dk1, dv1 = _like((dq + local_dq, dk1, dv1), (q_BTHK, k1_BSGK, v1_BSGK))
  d_logits_BTH = (1 - gate_BTH) * delta_BTH - gate_BTH * local_delta_BTH
  return dq, dk1, dv1, dk2, dv2, d_logits_BTH, None, None, halo and Halo(*d_halo, None)


_gated.defvjp(_gated_forward, _gated_backward)


class _Near(NamedTuple):
  """How the local stream is laid out for the kernels.

  Attributes:
    blocks: whether rows are cut into blocks of BLOCK queries, each with the keys of its own block and the one before.
      Otherwise keys are those of the halo, if any, and all of the row.
    length: T.
    seen: of the queries and keys as laid out here, [B x blocks, BLOCK] and [B x blocks, 2 BLOCK] where there are blocks.
  """

  blocks: bool
  length: int
  seen: '_Seen'

  @classmethod
  def of(cls, ids: Ids, halo: Halo | None, window: int):
    length, blocks = ids.positions.shape[1], halo is None and window <= BLOCK
    near = cls(blocks, length, None)
    k_ids = Ids(*near.keys(*ids, halo and halo.ids))
    return near._replace(seen=_seen(jax.tree.map(near.queries, ids), k_ids, window, same_rows=False))

  def queries(self, x_BT):
    return _whole_tiles(x_BT).reshape(-1, BLOCK, *x_BT.shape[2:]) if self.blocks else x_BT

  def rows(self, x, batch):
    """Undoes `queries`."""
    return x.reshape(batch, -1, *x.shape[2:])[:, : self.length]

  def keys(self, one_BT, other_BT, before):
    """Each of the pair as the kernels take it; `before` is the pair of the halo or None."""
    if not self.blocks:
      pair = (one_BT, other_BT)
      return pair if before is None else tuple(jnp.concatenate(x, axis=1) for x in zip(before, pair))

    def with_block_before(x):
      own = _whole_tiles(x).reshape(x.shape[0], -1, BLOCK, *x.shape[2:])
      block_before = jnp.concatenate([jnp.zeros_like(own[:, :1]), own[:, :-1]], axis=1)
      return jnp.concatenate([block_before, own], axis=2).reshape(-1, 2 * BLOCK, *x.shape[2:])

    return with_block_before(one_BT), with_block_before(other_BT)

  def attend(self, q_BTHK, k, v, library):
    """(out [B, T, H, K], lse [B, T, H]) of keys and values as `keys` gives them."""
    parts = _attend(self.queries(q_BTHK), k, v, self.seen, library)
    return tuple(self.rows(x, q_BTHK.shape[0]) for x in parts)

  def pull(self, q_BTHK, k, v, d_out_BTHK, lse_BTH, delta_BTH, library):
    """(dq [B, T, H, K], dk, dv like `k`, `v`), float32."""
    queries = map(self.queries, (d_out_BTHK, lse_BTH, delta_BTH))
    dq, dk, dv = _pull(self.queries(q_BTHK), k, v, *queries, self.seen, library)
    return self.rows(dq, q_BTHK.shape[0]), dk, dv


class _Seen(NamedTuple):
  """What each query sees: an interval of the keys, from start to end without end.

  Attributes:
    order: int32 [B, S], the keys in the order the interval is of; None where that is the order they came in.
    start: int32 [B, T].
    end: int32 [B, T]; None where it is the query's own row.
    some: bool [B, T], whether the query sees anything; where not, the interval means nothing.
  """

  order: jax.Array | None
  start: jax.Array
  end: jax.Array | None
  some: jax.Array


def _same_rows(q_ids, k_ids, window) -> bool:
  return q_ids is k_ids and window is None


def _seen(q_ids: Ids, k_ids: Ids, window: int | None, same_rows: bool) -> _Seen:
  return _seen_along(q_ids) if same_rows else _seen_among(q_ids, k_ids, window)


def _seen_along(ids: Ids) -> _Seen:
  """Of rows whose documents lie in runs along which positions grow."""
  segments = ids.segment_ids
  rows = jax.lax.broadcasted_iota(jnp.int32, segments.shape, 1)
  changed = jnp.concatenate([jnp.ones_like(rows[:, :1], bool), segments[:, 1:] != segments[:, :-1]], axis=1)
  start = jax.lax.cummax(jnp.where(changed, rows, 0), axis=1)
  return _Seen(None, start, None, segments != 0)


def _seen_among(q_ids: Ids, k_ids: Ids, window: int | None) -> _Seen:
  """Of keys in any order: sorted by (segment, position), a document's keys up to a position are consecutive."""
  T = q_ids.positions.shape[1]

  def count_before(positions):
    """How many keys sort before (segment of the query, its position given here), [B, T]."""
    both = lambda probe, key: jnp.concatenate([probe, key], axis=1)
    # The sort is stable: a query stands before the keys that equal it.
    place = jnp.lexsort((both(positions, k_ids.positions), both(q_ids.segment_ids, k_ids.segment_ids)))
    keys_before = jnp.cumsum(place >= T, axis=1, dtype=jnp.int32)
    return jnp.take_along_axis(keys_before, jnp.argsort(place, axis=1), axis=1)[:, :T]

  first = jnp.zeros_like(q_ids.positions) if window is None else q_ids.positions - (window - 1)
  start, end = count_before(first), count_before(q_ids.positions + 1)
  some = (q_ids.segment_ids != 0) & (end > start)
  return _Seen(jnp.lexsort((k_ids.positions, k_ids.segment_ids)), jnp.where(some, start, end), end, some)


def _attend(q_BTHK, k_BSGK, v_BSGK, seen: _Seen, library: Library):
  """reference.attention_with_lse."""
  q, k, v, mask = _arguments(q_BTHK, k_BSGK, v_BSGK, seen, library)
  out, (top, total) = library.forward(q, k, v, mask=mask, return_residuals=True)
  T = q_BTHK.shape[1]
  out_BTHK, lse_BTH = out[:, :T], jnp.swapaxes(top + jnp.log(total), 1, 2)[:, :T]
  some_BT1 = seen.some[..., None]
  return jnp.where(some_BT1[..., None], out_BTHK, 0), jnp.where(some_BT1, lse_BTH, MASKED)


def _pull(q_BTHK, k_BSGK, v_BSGK, d_out_BTHK, lse_BTH, delta_BTH, seen: _Seen, library: Library):
  """reference.attention_backward."""
  T, S = q_BTHK.shape[1], k_BSGK.shape[1]
  q, k, v, mask = _arguments(q_BTHK, k_BSGK, v_BSGK, seen, library)
  # Weights are exp(score - lse): none at all for a query that sees nothing, whatever its interval.
  lse_BTH = jnp.where(seen.some[..., None], lse_BTH, -MASKED)
  lse_BHT = jnp.swapaxes(_whole_tiles(lse_BTH, -MASKED), 1, 2)
  # The kernel wants the output for its product with the gradient alone, which here is delta: that of the whole row, from
  # which no output of this part follows. Any with that product does, such as one along the gradient.
  d_out_BTHK = d_out_BTHK.astype(v.dtype)
  exact_BTHK = d_out_BTHK.astype(jnp.float32)
  square_BTH = _inner(exact_BTHK, exact_BTHK)
  tiny = jnp.finfo(jnp.float32).tiny
  along_BTH = jnp.where(square_BTH > tiny, delta_BTH / jnp.maximum(square_BTH, tiny), 0)
  out = _whole_tiles(along_BTH[..., None] * exact_BTHK)
  options = {name: x for name, x in library.forward.bind(q, k, v, mask=mask).kwargs.items() if name != 'return_residuals'}
  grads = library.backward((lse_BHT, jnp.ones_like(lse_BHT)), out, _whole_tiles(d_out_BTHK), q, k, v, **options)
  dq, dk, dv = (grads[name].astype(jnp.float32) for name in 'qkv')
  dk, dv = dk[:, :S], dv[:, :S]
  if seen.order is not None:
    back = jnp.argsort(seen.order, axis=1)
    dk, dv = _take(dk, back), _take(dv, back)
  return dq[:, :T], dk, dv


def _arguments(q_BTHK, k_BSGK, v_BSGK, seen: _Seen, library: Library):
  """(q, k, v, mask) in whole tiles: no query sees the keys added, and the queries added see no more than themselves."""
  if seen.order is not None:
    k_BSGK, v_BSGK = _take(k_BSGK, seen.order), _take(v_BSGK, seen.order)
  one_head = lambda x_BT: x_BT[:, None]
  if seen.end is None:
    # A forward tile starts at its first query's block of keys or before it: the kernel waits for ever otherwise.
    rows = jnp.arange(seen.start.shape[1] + -seen.start.shape[1] % BLOCK)
    start = jnp.where(_whole_tiles(seen.some), _whole_tiles(seen.start), rows)
    mask = library.mask(k_start=one_head(start), is_causal=True)
  else:
    mask = library.mask(k_start=one_head(_whole_tiles(seen.start)), k_end=one_head(_whole_tiles(seen.end)))
  return _whole_tiles(q_BTHK), _whole_tiles(k_BSGK), _whole_tiles(v_BSGK), mask


def _whole_tiles(x_BT, value=0):
  widths = [(0, 0), (0, -x_BT.shape[1] % BLOCK)] + [(0, 0)] * (x_BT.ndim - 2)
  return jnp.pad(x_BT, widths, constant_values=value)


def _take(x_BSGK, order_BS):
  return jnp.take_along_axis(x_BSGK, order_BS[..., None, None], axis=1)


def _inner(x_BTHK, y_BTHK):
  return jnp.sum(x_BTHK.astype(jnp.float32) * y_BTHK.astype(jnp.float32), axis=-1)


def _like(grads, values):
  return tuple(grad.astype(value.dtype) for grad, value in zip(grads, values))


def _save(out_BTHK, lse_BTH):
  return checkpoint_name(out_BTHK, 'attention_output'), checkpoint_name(lse_BTH, 'attention_lse')
