"""Attention of rows that are split over the devices of the ambient mesh: by batch, by heads, by position.

A row over n devices of the context axis lies in zigzag order (`batch.zigzag`): device r holds chunks r and 2n - 1 - r
of 2n, so that every device sees the same number of pairs. Keys and values of the first pass travel by one of two
transports; the local stream looks only a window back and takes a few rows from its neighbours instead.

Legend: B batch, T query positions, H query heads, G key/value heads, K head size, W rows of halo a chunk.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint

from iquest_jax import sharding
from iquest_jax.errors import UserError, nearest
from iquest_jax.kernels import gated_attention as kernels
from iquest_jax.kernels.gated_attention import Halo, Ids
from iquest_jax.parallel import ring
from iquest_jax.parallel.ring import AXIS

# Rows a chunk takes from the one before: what a kernel's block of the local stream looks back at.
HALO = 128

_ROWS = sharding.spec('batch', 'sequence')
_QUERIES = sharding.spec('batch', 'sequence', 'heads', None)
_KEYS = sharding.spec('batch', 'sequence', 'kv_heads', None)
_GATES = sharding.spec('batch', 'sequence', 'heads')
_IDS = Ids(_ROWS, _ROWS)


def attention(q_BTHK, k_BTGK, v_BTGK, ids: Ids, transport: str):
  """Causal attention within documents of rows split over the ambient mesh, or of whole rows where there is none.

  Args:
    q_BTHK: rotated queries. k_BTGK, v_BTGK: rotated keys, and values, of the same tokens.
    ids: segment ids (unique per document in a row) and positions of the tokens.
    transport: how keys and values travel over the context axis, a name in TRANSPORTS.

  Returns:
    [B, T, H, K] in the dtype of q; zero where the segment id is 0.

  Raises:
    UserError: the row does not divide over the context axis, or the transport does not exist.
  """
  whole = lambda q, k, v, ids: kernels.attention(q, k, v, ids, ids)
  args, ways = (q_BTHK, k_BTGK, v_BTGK, ids), _ways()
  if ways is None:
    return whole(*args)
  check(q_BTHK.shape[1], ways, transport)
  part = whole if ways == 1 else functools.partial(TRANSPORTS[transport].attention, ways=ways)
  return _split(part, _QUERIES, _KEYS, _KEYS, _IDS)(*args)


def gated_attention(q_BTHK, k1_BTGK, v1_BTGK, k2_BTGK, v2_BTGK, gate_logits_BTH, ids: Ids, window: int, transport: str):
  """Attention of later passes of the loop, split as in `attention`.

  Args:
    k1_BTGK, v1_BTGK: the first pass's keys and values (global stream); they travel.
    k2_BTGK, v2_BTGK: this pass's, seen through the window (local stream).
    gate_logits_BTH: float32; sigmoid of them weighs the global stream.
    window: keys of the local stream, the token itself included.
    q_BTHK, ids, transport: as in `attention`.

  Raises:
    UserError: as in `attention`, or the window reaches beyond the halo.
  """
  whole = lambda q, k1, v1, k2, v2, gate_logits, ids: kernels.gated_attention(
      q, k1, v1, k2, v2, gate_logits, ids, ids, window
  )
  args, ways = (q_BTHK, k1_BTGK, v1_BTGK, k2_BTGK, v2_BTGK, gate_logits_BTH, ids), _ways()
  if ways is None:
    return whole(*args)
  check(q_BTHK.shape[1], ways, transport, window)

  def part(q, k1, v1, k2, v2, gate_logits, ids):
    halo = neighbours(k2, v2, ids, ways)
    return TRANSPORTS[transport].gated_attention(q, k1, v1, k2, v2, gate_logits, ids, halo, window, ways)

  return _split(whole if ways == 1 else part, _QUERIES, _KEYS, _KEYS, _KEYS, _KEYS, _GATES, _IDS)(*args)


def check(length: int, ways: int, transport: str, window: int = 1) -> None:
  """Whether a row can be split over the context axis.

  Args:
    length: T, positions of a row.
    ways: devices of the context axis.
    transport: a name in TRANSPORTS.
    window: of the local stream; 1 where there is none.

  Raises:
    UserError: it cannot.
  """
  if transport not in TRANSPORTS:
    raise UserError(f'config: train.context_transport "{transport}" does not exist{nearest(transport, TRANSPORTS)}')
  if ways == 1:
    return
  if length % (2 * ways):
    raise UserError(
        f'config: data.context {length} does not divide by mesh.context {ways} x two chunks a device = {2 * ways}; '
        'change one of them'
    )
  if window - 1 > (rows := halo_rows(length // ways)):
    raise UserError(
        f'config: model.loop_window {window} looks back {window - 1} tokens, but a chunk of data.context {length} over '
        f'mesh.context {ways} takes {rows} from its neighbour (a chunk is {length // (2 * ways)}, the most is {HALO}); '
        'lower the window or mesh.context'
    )


def halo_rows(length: int) -> int:
  """W for the two chunks of one device, `length` positions together: HALO, or a whole chunk where chunks are small."""
  return min(HALO, length // 2)


def neighbours(k_BTGK, v_BTGK, ids: Ids, ways: int) -> Halo:
  """The rows before each of a device's two chunks, from the devices that hold the chunks before; inside a shard_map.

  Before chunk r comes the early chunk of device r - 1, before chunk 2n - 1 - r the late one of device r + 1. Nothing
  comes before chunk 0, and before chunk n comes chunk n - 1, which its device holds itself and sees by its ids: there
  the halo is masked (segment 0), or keys would count twice.

  Returns:
    Halo of [B, 2 W, ...]: the rows before the early chunk, then those before the late one.
  """
  rows, half = halo_rows(k_BTGK.shape[1]), k_BTGK.shape[1] // 2
  own = (k_BTGK, v_BTGK, ids)
  early = jax.tree.map(lambda x: x[:, half - rows : half], own)
  late = jax.tree.map(lambda x: x[:, -rows:], own)
  # A device that nobody sends to receives zeros: that is the masked halo.
  before_early = jax.lax.ppermute(early, AXIS, [(r, r + 1) for r in range(ways - 1)])
  before_late = jax.lax.ppermute(late, AXIS, [(r + 1, r) for r in range(ways - 1)])
  return Halo(*jax.tree.map(lambda *parts: jnp.concatenate(parts, axis=1), before_early, before_late))


def _gathered(q, k, v, ids, ways):
  del ways
  k, v, k_ids = _whole_row((k, v, ids))
  return kernels.attention(q, k, v, ids, k_ids)


def _gathered_gated(q, k1, v1, k2, v2, gate_logits, ids, halo, window, ways):
  del ways
  k1, v1, k1_ids = _whole_row((k1, v1, ids))
  return kernels.gated_attention(q, k1, v1, k2, v2, gate_logits, ids, k1_ids, window, halo)


def _whole_row(tree):
  """Every device's part of a row, [B, T, ...] of [B, T / n, ...], in the order of the batch."""
  return jax.tree.map(_gather, tree)


@jax.custom_vjp
def _gather(x_BT):
  parts = jax.lax.all_gather(x_BT, AXIS)
  return jnp.moveaxis(parts, 0, 1).reshape(x_BT.shape[0], -1, *x_BT.shape[2:])


def _scatter(_, d_BT):
  parts = d_BT.reshape(d_BT.shape[0], jax.lax.axis_size(AXIS), -1, *d_BT.shape[2:])
  # One part after the other in memory, too: libtpu scatters along an inner axis by all-reduce and slice.
  parts = with_layout_constraint(jnp.moveaxis(parts, 1, 0), Layout(tuple(range(parts.ndim))))
  return (jax.lax.psum_scatter(parts, AXIS),)


_gather.defvjp(lambda x_BT: (_gather(x_BT), None), _scatter)


class Transport(NamedTuple):
  """How keys and values travel over the context axis: attention of a device's part of the row, given as in `ring`."""

  attention: Callable[..., jax.Array]
  gated_attention: Callable[..., jax.Array]


TRANSPORTS = {
    'all_gather': Transport(_gathered, _gathered_gated),  # one kernel launch, but keys and values of the whole row
    'ring': Transport(ring.attention, ring.gated_attention),  # they travel while others are computed with
}


def _ways() -> int | None:
  """Devices of the context axis; None where there is no mesh, or one of a single device."""
  shape = jax.sharding.get_abstract_mesh().shape
  return shape[AXIS] if any(size > 1 for size in shape.values()) else None


def _split(part, *in_specs):
  """`part` on each device's share: a kernel launch is opaque to the partitioner, so it is told what lies where."""
  return jax.shard_map(part, in_specs=in_specs, out_specs=_QUERIES, check_vma=False)
