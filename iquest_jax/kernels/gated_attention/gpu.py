"""Attention on NVIDIA GPUs (Hopper): the functions of reference.py by tokamax's kernels, one call per stream, and the mix.

Such a kernel shows each query one interval of its keys. Intervals can express all that rows need, in two ways:

- `q_ids is keys.ids` and no window: queries and keys are the same rows. Each document must be one run with growing
  positions, as packing lays it out and as a device of a context axis holds it (batch.zigzag). A query then sees its run up
  to itself, and the kernels skip everything that is not causal, backward too.
- Anything else (keys of other devices, a halo, a window, a cache): keys are sorted by (segment, position), so what a query
  sees is consecutive in whatever order the keys came. The backward kernels skip nothing here.

The local stream of whole rows would be T x T in the backward pass, so it is cut into blocks of queries with the keys of
their own block and the one before. cuDNN, as jax binds it, needs a bound on the documents of a row and sorted documents, so
it is not used. What no kernel supports runs as the reference, and the log gives each reason once.

The backward pass keeps the inputs, the intervals, the output and one float32 [B, T, H] of statistics; the last two are
named 'attention_output' and 'attention_lse' for remat policies.

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

from iquest_jax.kernels.gated_attention import reference
from iquest_jax.kernels.gated_attention.reference import MASKED, Ids, Keys, inner, join, like, save

log = logging.getLogger(__name__)

# These are classes behind tokamax's public function, which takes no first key per query. So exactly one release is used,
# pinned here and in setup.py.
TOKAMAX = '0.0.12'
# Queries per forward tile; rows are padded to whole tiles, keys as well. Also a block of the local stream.
BLOCK = 128
# Tile sizes: the library's defaults for heads of this size where it has no measurement; not tuned here.
FORWARD_TILES = {'block_q': BLOCK // 2, 'block_kv': 128, 'num_stages': 2}
BACKWARD_TILES = {'block_q_dkv': 64, 'block_kv_dkv': 64, 'block_q_dq': 64, 'block_kv_dq': 64, 'num_stages': 2}
MAX_HEAD_SIZE = 128


class Library(NamedTuple):
  """tokamax's attention with statistics, its gradient, and the class of its masks."""

  forward: Any
  backward: Callable[..., dict]
  mask: Any


def _or_reference(function):
  """Runs `function` with `library`, by default tokamax; where tokamax cannot run, runs the reference instead."""

  @functools.wraps(function)
  def run(q_BTHK, *args, library: Library | None = None):
    library = library or _library(q_BTHK)
    if isinstance(library, Library):
      return function(q_BTHK, *args, library=library)
    _warn(library)
    return getattr(reference, function.__name__)(q_BTHK, *args)

  return run


@functools.cache
def _warn(reason: str) -> None:
  log.warning('attention on this GPU runs as plain JAX, slower than a kernel: %s', reason)


def _library(q_BTHK) -> Library | str:
  """tokamax, or the reason why it cannot run here."""
  K = q_BTHK.shape[-1]
  if (capability := _compute_capability()) != '9.0':
    return f'the kernels need compute capability 9.0 (H100, H200), got {capability or "no NVIDIA GPU"}'
  if q_BTHK.dtype != jnp.bfloat16:
    return f'the kernels multiply in bfloat16, got {q_BTHK.dtype}'
  if K > MAX_HEAD_SIZE or K % 16:
    return f'the head size must be a multiple of 16 up to {MAX_HEAD_SIZE}, got {K}'
  return _tokamax()


def _compute_capability() -> str:
  return getattr(jax.devices()[0], 'compute_capability', '')


@functools.cache
def _tokamax() -> Library | str:
  try:
    version = importlib.metadata.version('tokamax')
    if version != TOKAMAX:
      return f'tokamax must be {TOKAMAX}, got {version}; install the extra "gpu"'
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
    return f'tokamax {TOKAMAX} uses Pallas names that jax {jax.__version__} has removed; install the extra "gpu"'
  # tokamax reads absl flags, and would parse the command line of a program that does not use them.
  if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()
  return Library(
      pallas_mosaic_gpu.PallasMosaicGpuFlashAttention(config=pallas_mosaic_gpu_kernel_sm90.Config(**FORWARD_TILES)),
      pallas_mosaic_gpu_vjp.PallasMosaicGpuFlashAttentionVjp(config=pallas_mosaic_gpu_vjp_common.Config(**BACKWARD_TILES)),
      base.Mask,
  )


@_or_reference
def attention(q_BTHK, q_ids: Ids, keys: Keys, window: int | None = None, *, library: Library):
  """reference.attention."""
  return _attention(q_BTHK, keys.k, keys.v, _seen(q_ids, keys.ids, window), library)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _attention(q_BTHK, k_BSGK, v_BSGK, seen, library):
  return _attention_forward(q_BTHK, k_BSGK, v_BSGK, seen, library)[0]


def _attention_forward(q_BTHK, k_BSGK, v_BSGK, seen, library):
  out_BTHK, lse_BTH = save(*_attend(q_BTHK, k_BSGK, v_BSGK, seen, library))
  return out_BTHK, (q_BTHK, k_BSGK, v_BSGK, seen, out_BTHK, lse_BTH)


def _attention_backward(library, saved, d_out_BTHK):
  *inputs, seen, out_BTHK, lse_BTH = saved
  grads = _gradients(*inputs, d_out_BTHK, lse_BTH, inner(d_out_BTHK, out_BTHK), seen, library)
  return *like(grads, inputs), None


_attention.defvjp(_attention_forward, _attention_backward)


@_or_reference
def attention_with_lse(q_BTHK, q_ids: Ids, keys: Keys, window: int | None = None, *, library: Library):
  """reference.attention_with_lse, not differentiable; its gradient is `attention_backward`."""
  return _attend(q_BTHK, keys.k, keys.v, _seen(q_ids, keys.ids, window), library)


@_or_reference
def attention_backward(
    q_BTHK, q_ids: Ids, keys: Keys, d_out_BTHK, lse_BTH, delta_BTH, window: int | None = None, *, library: Library
):
  """reference.attention_backward, except that each gradient is rounded to the dtype of its input."""
  seen = _seen(q_ids, keys.ids, window)
  return _gradients(q_BTHK, keys.k, keys.v, d_out_BTHK, lse_BTH, delta_BTH, seen, library)


@_or_reference
def gated_attention(
    q_BTHK,
    q_ids: Ids,
    far: Keys,
    near: Keys,
    gate_logits_BTH,
    window: int,
    before: Keys | None = None,
    *,
    library: Library,
):
  """reference.gated_attention."""
  in_blocks = near.ids is q_ids and before is None and window <= BLOCK
  near = near if before is None else join(before, near)
  return _gated(q_BTHK, q_ids, far[:2], _seen(q_ids, far.ids, None), near, gate_logits_BTH, window, in_blocks, library)


@functools.partial(jax.custom_vjp, nondiff_argnums=(6, 7, 8))
def _gated(q_BTHK, q_ids, far, far_seen, near, gate_logits_BTH, window, in_blocks, library):
  return _gated_forward(q_BTHK, q_ids, far, far_seen, near, gate_logits_BTH, window, in_blocks, library)[0]


def _gated_forward(q_BTHK, q_ids, far, far_seen, near, gate_logits_BTH, window, in_blocks, library):
  layout = _Layout.of(q_ids, near.ids, window, in_blocks)
  global_BTHK, lse_BTH = _attend(q_BTHK, *far, far_seen, library)
  local_BTHK, _ = layout.attend(q_BTHK, *layout.keys(near[:2]), library)
  gate_BTH1 = jax.nn.sigmoid(gate_logits_BTH)[..., None]
  out_BTHK = gate_BTH1 * global_BTHK + (1 - gate_BTH1) * local_BTHK
  out_BTHK, lse_BTH = save(out_BTHK.astype(q_BTHK.dtype), lse_BTH)
  return out_BTHK, (q_BTHK, q_ids, far, far_seen, near, gate_logits_BTH, out_BTHK, lse_BTH)


def _gated_backward(window, in_blocks, library, saved, d_out_BTHK):
  """Neither stream's output is saved: the local one is cheap to recompute, and the mix minus it is the global one."""
  q_BTHK, q_ids, far, far_seen, near, gate_logits_BTH, out_BTHK, lse_BTH = saved
  layout = _Layout.of(q_ids, near.ids, window, in_blocks)
  (near_k, near_v), pull = jax.vjp(layout.keys, near[:2])
  local_BTHK, local_lse = layout.attend(q_BTHK, near_k, near_v, library)
  gate_BTH = jax.nn.sigmoid(gate_logits_BTH)
  # Deltas of the two streams, each with its share of the gate: they sum to d_out * out.
  local_delta_BTH = (1 - gate_BTH) * inner(d_out_BTHK, local_BTHK)
  delta_BTH = inner(d_out_BTHK, out_BTHK) - local_delta_BTH
  weighted = lambda weight_BTH: (weight_BTH[..., None] * d_out_BTHK).astype(d_out_BTHK.dtype)
  dq, *d_far = _gradients(q_BTHK, *far, weighted(gate_BTH), lse_BTH, delta_BTH, far_seen, library)
  # This delta is that of the gradient as rounded for the kernel, so that their rounding errors cancel.
  local_d_out = weighted(1 - gate_BTH)
  local_dq, *d_near = layout.gradients(
      q_BTHK, near_k, near_v, local_d_out, local_lse, inner(local_d_out, local_BTHK), library
  )
  (d_near,) = pull(like(d_near, (near_k, near_v)))
  dq, *d_far = like((dq + local_dq, *d_far), (q_BTHK, *far))
  d_logits_BTH = (1 - gate_BTH) * delta_BTH - gate_BTH * local_delta_BTH
  return dq, None, tuple(d_far), None, Keys(*d_near, None), d_logits_BTH


_gated.defvjp(_gated_forward, _gated_backward)


class _Layout(NamedTuple):
  """How the local stream is laid out for the kernels.

  Attributes:
    in_blocks: whether rows are cut into blocks of BLOCK queries, each with the keys of its own block and the one before.
    length: T.
    seen: of the queries and keys in this layout; [B x blocks, BLOCK] and [B x blocks, 2 BLOCK] if in blocks.
  """

  in_blocks: bool
  length: int
  seen: '_Seen'

  @classmethod
  def of(cls, q_ids: Ids, near_ids: Ids, window: int, in_blocks: bool):
    layout = cls(in_blocks, q_ids.positions.shape[1], None)
    return layout._replace(seen=_seen_among(jax.tree.map(layout.queries, q_ids), layout.keys(near_ids), window))

  def queries(self, x_BT):
    return _whole_tiles(x_BT).reshape(-1, BLOCK, *x_BT.shape[2:]) if self.in_blocks else x_BT

  def rows(self, x, batch):
    """Undoes `queries`."""
    return x.reshape(batch, -1, *x.shape[2:])[:, : self.length]

  def keys(self, near):
    """Ids, or a pair of keys and values, as the kernels take them."""
    if not self.in_blocks:
      return near

    def with_block_before(x):
      own = _whole_tiles(x).reshape(x.shape[0], -1, BLOCK, *x.shape[2:])
      block_before = jnp.concatenate([jnp.zeros_like(own[:, :1]), own[:, :-1]], axis=1)
      return jnp.concatenate([block_before, own], axis=2).reshape(-1, 2 * BLOCK, *x.shape[2:])

    return jax.tree.map(with_block_before, near)

  def attend(self, q_BTHK, k, v, library):
    """(out [B, T, H, K], lse [B, T, H]) with keys and values from `keys`."""
    parts = _attend(self.queries(q_BTHK), k, v, self.seen, library)
    return tuple(self.rows(x, q_BTHK.shape[0]) for x in parts)

  def gradients(self, q_BTHK, k, v, d_out_BTHK, lse_BTH, delta_BTH, library):
    """(dq [B, T, H, K], dk, dv like `k`, `v`), float32."""
    queries = map(self.queries, (d_out_BTHK, lse_BTH, delta_BTH))
    dq, dk, dv = _gradients(self.queries(q_BTHK), k, v, *queries, self.seen, library)
    return self.rows(dq, q_BTHK.shape[0]), dk, dv


class _Seen(NamedTuple):
  """What each query sees: the interval of keys from start up to, but without, end.

  Attributes:
    order: int32 [B, S], how the keys are sorted before intervals are taken; None if they stay in place.
    start: int32 [B, T].
    end: int32 [B, T]; None if the interval ends with the query's own row.
    some: bool [B, T], whether the query sees anything; if not, its interval has no meaning.
  """

  order: jax.Array | None
  start: jax.Array
  end: jax.Array | None
  some: jax.Array


def _seen(q_ids: Ids, k_ids: Ids, window: int | None) -> _Seen:
  return _seen_along(q_ids) if q_ids is k_ids and window is None else _seen_among(q_ids, k_ids, window)


def _seen_along(ids: Ids) -> _Seen:
  """For rows in which each document is one run with growing positions."""
  segments = ids.segment_ids
  rows = jax.lax.broadcasted_iota(jnp.int32, segments.shape, 1)
  changed = jnp.concatenate([jnp.ones_like(rows[:, :1], bool), segments[:, 1:] != segments[:, :-1]], axis=1)
  start = jax.lax.cummax(jnp.where(changed, rows, 0), axis=1)
  return _Seen(None, start, None, segments != 0)


def _seen_among(q_ids: Ids, k_ids: Ids, window: int | None) -> _Seen:
  """For keys in any order: sorted by (segment, position), the keys of a document up to a position are consecutive."""
  T = q_ids.positions.shape[1]

  def count_before(positions):
    """How many keys sort before (segment of the query, its entry in `positions`), [B, T]."""
    both = lambda probe, key: jnp.concatenate([probe, key], axis=1)
    # The sort is stable: a query comes before the keys that equal it.
    order = jnp.lexsort((both(positions, k_ids.positions), both(q_ids.segment_ids, k_ids.segment_ids)))
    keys_before = jnp.cumsum(order >= T, axis=1, dtype=jnp.int32)
    return jnp.take_along_axis(keys_before, jnp.argsort(order, axis=1), axis=1)[:, :T]

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


def _gradients(q_BTHK, k_BSGK, v_BSGK, d_out_BTHK, lse_BTH, delta_BTH, seen: _Seen, library: Library):
  """reference.attention_backward."""
  T, S = q_BTHK.shape[1], k_BSGK.shape[1]
  q, k, v, mask = _arguments(q_BTHK, k_BSGK, v_BSGK, seen, library)
  # Weights are exp(score - lse): zero for a query that sees nothing, whatever its interval.
  lse_BTH = jnp.where(seen.some[..., None], lse_BTH, -MASKED)
  lse_BHT = jnp.swapaxes(_whole_tiles(lse_BTH, -MASKED), 1, 2)
  # The kernel uses the output only for its product with the gradient. Here that must be delta, which belongs to the whole
  # row, so the output of this part does not give it. Any vector with that product will do: this one is along the gradient.
  d_out_BTHK = d_out_BTHK.astype(v.dtype)
  exact_BTHK = d_out_BTHK.astype(jnp.float32)
  square_BTH = inner(exact_BTHK, exact_BTHK)
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
  """(q, k, v, mask) in whole tiles: no query sees the padding of keys, and padding of queries sees at most itself."""
  if seen.order is not None:
    k_BSGK, v_BSGK = _take(k_BSGK, seen.order), _take(v_BSGK, seen.order)
  one_head = lambda x_BT: x_BT[:, None]
  if seen.end is None:
    # A forward tile must start at the block of its first query or earlier, or the kernel waits forever.
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
