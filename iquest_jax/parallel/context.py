"""Attention of rows that are split over the devices of the ambient mesh: by batch, by heads, by position.

A row split over n devices of the context axis is in zigzag order (`batch.zigzag`): of 2n chunks, device r holds chunks r
and 2n - 1 - r, so that every device sees the same number of pairs. Keys and values of the first pass travel by one of two
transports; the local stream looks back only a window and takes a few rows from its neighbours instead.

Legend: B batch, T query positions, H query heads, G key/value heads, K head size.
"""

import functools

import jax

from iquest_jax import sharding
from iquest_jax.errors import UserError, check_name
from iquest_jax.kernels import decode_attention
from iquest_jax.kernels import gated_attention as kernels
from iquest_jax.kernels.gated_attention import Ids, Keys
from iquest_jax.parallel import gather, halo, ring

# How keys and values travel over the context axis: gather in one kernel launch, at the price of the keys and values of the
# whole row; ring while the device computes with others.
TRANSPORTS = {'all_gather': gather, 'ring': ring}

_ROWS = sharding.spec('batch', 'sequence')
_QUERIES = sharding.spec('batch', 'sequence', 'heads', None)
_KV = sharding.spec('batch', 'sequence', 'kv_heads', None)
_KEYS = Keys(_KV, _KV, Ids(_ROWS, _ROWS))
_GATES = sharding.spec('batch', 'sequence', 'heads')
# Cached keys of all layers, [L, B, S, G, K], and their Ids [B, S].
_CACHED_KV = sharding.spec('layers', 'batch', None, 'kv_heads', None)
_CACHED_IDS = sharding.spec('batch', None)
_CACHED = Keys(_CACHED_KV, _CACHED_KV, Ids(_CACHED_IDS, _CACHED_IDS))
_EVERYWHERE = sharding.spec()


def attention(q_BTHK, keys: Keys, transport: str):
  """Causal attention within documents, of rows split over the ambient mesh or, without a mesh, of whole rows.

  Args:
    q_BTHK: rotated queries.
    keys: Keys [B, T] of the same tokens; segment ids are unique per document in a row.
    transport: a name in TRANSPORTS.

  Returns:
    [B, T, H, K] in the dtype of q; zero where the segment id is 0.

  Raises:
    UserError: the row does not divide over the context axis, or the transport does not exist.
  """
  ways = _ways()
  check(q_BTHK.shape[1], ways, transport)

  def local(q_BTHK, keys):
    if ways == 1:
      return kernels.attention(q_BTHK, keys.ids, keys)
    return TRANSPORTS[transport].attention(q_BTHK, keys)

  return _split(local, _QUERIES, _KEYS)(q_BTHK, keys)


def gated_attention(
    q_BTHK, far: Keys, near: Keys, gate_logits_BTH, window: int, transport: str, halo_rows: int = halo.ROWS
):
  """Attention of later passes of the loop, split as in `attention`.

  Args:
    q_BTHK, transport: as in `attention`.
    far: keys and values of the first pass (global stream), of the queries' tokens; they travel.
    near: those of this pass (local stream), of the queries' tokens.
    gate_logits_BTH: float32; their sigmoid is the weight of the global stream.
    window: keys of the local stream, the token itself included.
    halo_rows: the most rows that a chunk takes from the chunk before.

  Raises:
    UserError: as in `attention`, or the window reaches beyond the halo.
  """
  ways = _ways()
  check(q_BTHK.shape[1], ways, transport, window, halo_rows)

  def local(q_BTHK, far, near, gate_logits_BTH):
    # Tokens of far, near and queries are the same; sharing one object shows this to the kernels.
    far = far._replace(ids=near.ids)
    if ways == 1:
      return kernels.gated_attention(q_BTHK, near.ids, far, near, gate_logits_BTH, window)
    before = halo.before_chunks(near, halo_rows)
    return TRANSPORTS[transport].gated_attention(q_BTHK, far, near, gate_logits_BTH, window, before)

  return _split(local, _QUERIES, _KEYS, _KEYS, _GATES)(q_BTHK, far, near, gate_logits_BTH)


def cached_attention(q_BTHK, own: Keys, past: Keys, layer):
  """`decode_attention.attention`, split over the ambient mesh by slots and heads."""
  return _split(decode_attention.attention, _QUERIES, _KEYS, _CACHED, _EVERYWHERE)(q_BTHK, own, past, layer)


def cached_gated_attention(
    q_BTHK, far: Keys, near: Keys, past_far: Keys, past_near: Keys, layer, gate_logits_BTH, window: int
):
  """`decode_attention.gated_attention`, split over the ambient mesh by slots and heads."""
  attend = functools.partial(decode_attention.gated_attention, window=window)
  specs = _QUERIES, _KEYS, _KEYS, _CACHED, _CACHED, _EVERYWHERE, _GATES
  return _split(attend, *specs)(q_BTHK, far, near, past_far, past_near, layer, gate_logits_BTH)


def check(length: int, ways: int, transport: str, window: int = 1, halo_rows: int = halo.ROWS) -> None:
  """Raises UserError unless a row of `length` positions can be split over `ways` devices; window 1: no local stream."""
  check_name('config: train.context_transport', transport, TRANSPORTS)
  if ways == 1:
    return
  if length % (2 * ways):
    raise UserError(
        f'config: data.context must be a multiple of 2 x mesh.context = {2 * ways} (two chunks per device), got {length}; '
        'change one of them'
    )
  chunk = length // (2 * ways)
  if window - 1 > (rows := min(halo_rows, chunk)):
    raise UserError(
        f'config: model.loop_window must be at most {rows + 1} with data.context {length} and mesh.context {ways}, got '
        f'{window}: a chunk has {chunk} tokens and takes at most {halo_rows} from its neighbour; lower the window or '
        'mesh.context'
    )


def _ways() -> int:
  """Devices of the context axis; 1 without a mesh."""
  return jax.sharding.get_abstract_mesh().shape.get(sharding.CONTEXT, 1)


def _split(local, *in_specs):
  """`local` on the share of each device: the partitioner cannot see into a kernel launch, so the shares are explicit."""
  if all(size == 1 for size in jax.sharding.get_abstract_mesh().shape.values()):
    return local
  return jax.shard_map(local, in_specs=in_specs, out_specs=_QUERIES, check_vma=False)
