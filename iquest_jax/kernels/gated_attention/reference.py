"""Attention in plain JAX: the definition that every other implementation is tested against.

Visibility depends on segment ids and positions only (batch.py), so rows may be in any order of positions and the keys may
be any part of a row.

Legend: B batch, T query positions, S key positions, H query heads, G key/value heads, R = H / G, K head size, C queries per
block.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

# Queries of one block see all keys at once: memory is block x S instead of T x S. On a CPU the scores of a block then fit
# into the cache, which makes forward and backward four times faster at T 512 than a single block.
QUERY_BLOCK = 128
# Finite, so that a query without visible keys gives no NaN; its output is zeroed by its segment id.
MASKED = -1e30


class Ids(NamedTuple):
  """Segment ids and positions of tokens, int32 [B, T] each; see batch.Batch."""

  segment_ids: jax.Array
  positions: jax.Array


class Keys(NamedTuple):
  """What queries can attend to: keys in any order, where a key with segment id 0 is an empty slot.

  Attributes:
    k: rotated keys [B, S, G, K].
    v: values [B, S, G, K].
    ids: Ids [B, S]. If this is the very object passed as the queries' ids, kernels take queries and keys as the same rows;
      `attention` and `gated_attention` (without `before`) then take them as whole rows in order, in which no query sees a
      key further along the row.
  """

  k: jax.Array
  v: jax.Array
  ids: Ids


def join(*parts):
  """Concatenates Keys, Ids or other trees of [B, S, ...] along S."""
  return jax.tree.map(lambda *arrays: jnp.concatenate(arrays, axis=1), *parts)


def merge(one, other):
  """(out, lse) over two sets of keys, float32, from that over each; a query may see keys in one of them only."""
  (out, lse), (other_out, other_lse) = one, other
  total = jnp.logaddexp(lse, other_lse)
  return jnp.exp(lse - total)[..., None] * out + jnp.exp(other_lse - total)[..., None] * other_out, total


def save(out_BTHK, *lses):
  """Names what the backward pass of a kernel keeps, for remat policies."""
  return checkpoint_name(out_BTHK, 'attention_output'), *(checkpoint_name(lse, 'attention_lse') for lse in lses)


def inner(x_BTHK, y_BTHK):
  """Sum over K of x * y, float32 [B, T, H]; delta if these are the output and its gradient."""
  return jnp.sum(x_BTHK.astype(jnp.float32) * y_BTHK.astype(jnp.float32), axis=-1)


def mix(global_BTHK, local_BTHK, gate_logits_BTH):
  """The two streams, weighed by the gate in float32; [B, T, H, K] in their dtype."""
  gate_BTH1 = jax.nn.sigmoid(gate_logits_BTH)[..., None]
  mixed_BTHK = gate_BTH1 * global_BTHK.astype(jnp.float32) + (1 - gate_BTH1) * local_BTHK.astype(jnp.float32)
  return mixed_BTHK.astype(global_BTHK.dtype)


def like(grads, values):
  """Gradients in the dtypes of what they belong to."""
  return tuple(grad.astype(value.dtype) for grad, value in zip(grads, values))


def _visible(q_ids, k_ids, window):
  """bool [B, 1, 1, T, S]."""
  age = q_ids.positions[:, :, None] - k_ids.positions[:, None, :]
  q_segments = q_ids.segment_ids[:, :, None]
  visible = (q_segments == k_ids.segment_ids[:, None, :]) & (q_segments != 0) & (age >= 0)
  if window is not None:
    visible &= age < window
  return visible[:, None, None]


def _split(x_BT):
  """[blocks, B, C, ...]: queries in blocks, the last one padded with zeros."""
  block = min(x_BT.shape[1], QUERY_BLOCK)
  x_BT = jnp.pad(x_BT, [(0, 0), (0, -x_BT.shape[1] % block)] + [(0, 0)] * (x_BT.ndim - 2))
  return jnp.moveaxis(x_BT.reshape(x_BT.shape[0], -1, block, *x_BT.shape[2:]), 1, 0)


def _unsplit(x, T):
  """[B, T, ...] of [blocks, B, C, ...]."""
  return jnp.moveaxis(x, 0, 1).reshape(x.shape[1], -1, *x.shape[3:])[:, :T]


def attention_with_lse(q_BTHK, q_ids: Ids, keys: Keys, window: int | None = None):
  """`attention` and the log of its softmax sum, from which results over different keys can be combined.

  Only this implementation can be differentiated; the gradient of the others is `attention_backward`.

  Returns:
    (out [B, T, H, K] in the dtype of q, lse float32 [B, T, H]); a query that sees none of the keys has out 0 and lse
    MASKED, so it has no weight beside keys that it does see.
  """
  B, T, H, K = q_BTHK.shape
  G = keys.k.shape[2]
  k_BGSK, v_BGSK = jnp.swapaxes(keys.k, 1, 2), jnp.swapaxes(keys.v, 1, 2)

  def block(args):
    q_BCHK, block_ids = args
    visible = _visible(block_ids, keys.ids, window)
    q_BGRCK = jnp.moveaxis(q_BCHK.reshape(B, -1, G, H // G, K), 1, 3)
    # Scores, statistics and sums are float32.
    scores = jnp.einsum('bgrtk,bgsk->bgrts', q_BGRCK, k_BGSK, preferred_element_type=jnp.float32)
    scores = jnp.where(visible, scores / math.sqrt(K), MASKED)
    # The maximum cancels out of the result, so its gradient is not worth a pass over the scores.
    top = jax.lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True))
    weights = jnp.exp(scores - top)
    total = jnp.sum(weights, axis=-1)
    # Rounding the weights to the dtype of the values would also round their gradient and what is subtracted from it.
    out_BGRCK = jnp.einsum('bgrts,bgsk->bgrtk', weights, v_BGSK.astype(jnp.float32)) / total[..., None]
    lse_BGRC = top[..., 0] + jnp.log(total)
    # Scores say it as well as the mask, which a CPU would compute again for every element of the output.
    seen = top[..., 0] > MASKED
    out_BGRCK, lse_BGRC = jnp.where(seen[..., None], out_BGRCK, 0), jnp.where(seen, lse_BGRC, MASKED)
    out_BCHK = jnp.moveaxis(out_BGRCK, 3, 1).reshape(B, -1, H, K).astype(q_BTHK.dtype)
    return out_BCHK, jnp.moveaxis(lse_BGRC, 3, 1).reshape(B, -1, H)

  if T <= QUERY_BLOCK:
    return block((q_BTHK, q_ids))
  # Recomputing the scores of a block in the backward pass keeps memory at one block.
  blocks = jax.lax.map(jax.checkpoint(block), (_split(q_BTHK), jax.tree.map(_split, q_ids)))
  return jax.tree.map(lambda x: _unsplit(x, T), blocks)


def attention(q_BTHK, q_ids: Ids, keys: Keys, window: int | None = None):
  """Causal attention within documents.

  Args:
    q_BTHK: rotated queries.
    q_ids: Ids [B, T] of the queries.
    keys: Keys [B, S].
    window: number of keys a query sees, itself included; None sees all earlier ones.

  Returns:
    [B, T, H, K] in the dtype of q; zero where the segment id is 0.
  """
  return checkpoint_name(attention_with_lse(q_BTHK, q_ids, keys, window)[0], 'attention_output')


def attention_backward(q_BTHK, q_ids: Ids, keys: Keys, d_out_BTHK, lse_BTH, delta_BTH, window: int | None = None):
  """Gradients through the part of a softmax that falls on these keys.

  A softmax whose keys come in parts (a ring of devices) is differentiated part by part with the statistics of the whole:
  p = exp(s - lse), ds = p * (d_out . v - delta). Statistics of the part alone would give wrong gradients.

  Args:
    d_out_BTHK: gradient of the whole output.
    lse_BTH: float32, log of the whole softmax sum.
    delta_BTH: float32, sum over K of d_out * out, with the whole output.

  Returns:
    (dq [B, T, H, K], dk, dv [B, S, G, K]), float32, so that parts can be summed before they are rounded.
  """
  B, T, H, K = q_BTHK.shape
  S, G = keys.k.shape[1:3]
  k_BGSK, v_BGSK = jnp.swapaxes(keys.k, 1, 2), jnp.swapaxes(keys.v, 1, 2)
  einsum = lambda *args: jnp.einsum(*args, preferred_element_type=jnp.float32)

  def block(sums, args):
    dk_BGSK, dv_BGSK = sums
    q_BCHK, d_out_BCHK, lse_BCH, delta_BCH, block_ids = args
    C = q_BCHK.shape[1]
    # The heads of a group and their queries become the rows of one matrix, [B, G, R C, ...].
    group = lambda x: jnp.moveaxis(x.reshape(B, C, G, H // G, -1), 1, 3).reshape(B, G, H // G * C, -1)
    q, d_out, lse, delta = map(group, (q_BCHK, d_out_BCHK, lse_BCH, delta_BCH))
    scores = einsum('bgtk,bgsk->bgts', q, k_BGSK) / math.sqrt(K)
    visible = jnp.tile(_visible(block_ids, keys.ids, window)[:, 0], (1, 1, H // G, 1))
    p = jnp.where(visible, jnp.exp(jnp.minimum(scores - lse, 0)), 0)
    ds = p * (einsum('bgtk,bgsk->bgts', d_out, v_BGSK) - delta) / math.sqrt(K)
    p, ds = p.astype(v_BGSK.dtype), ds.astype(q_BTHK.dtype)
    dq = einsum('bgts,bgsk->bgtk', ds, k_BGSK).reshape(B, G, H // G, C, K)
    sums = dk_BGSK + einsum('bgts,bgtk->bgsk', ds, q), dv_BGSK + einsum('bgts,bgtk->bgsk', p, d_out)
    return sums, jnp.moveaxis(dq, 3, 1).reshape(B, C, H, K)

  zeros = jnp.zeros((B, G, S, K), jnp.float32)
  rows = (q_BTHK, d_out_BTHK, lse_BTH, delta_BTH, q_ids)
  (dk_BGSK, dv_BGSK), dq = jax.lax.scan(block, (zeros, zeros), jax.tree.map(_split, rows))
  return _unsplit(dq, T), jnp.swapaxes(dk_BGSK, 1, 2), jnp.swapaxes(dv_BGSK, 1, 2)


def gated_attention(
    q_BTHK, q_ids: Ids, far: Keys, near: Keys, gate_logits_BTH, window: int, before: Keys | None = None
):
  """Later passes of the loop: g * attention(q, far) + (1 - g) * attention(q, near; window) with g = sigmoid(logits).

  Args:
    q_BTHK, q_ids: as in `attention`.
    far: keys and values of the first pass, seen causally in full (global stream).
    near: those of this pass, seen through the window (local stream).
    gate_logits_BTH: float32, one per token and head.
    window: keys of the local stream, the token itself included.
    before: more keys of the local stream, [B, 2 W, ...]: the W rows before each of the two chunks of queries that a device
      holds of a split row (parallel/halo.py). W is at least window - 1; kernels use the last 128.

  Source: LoopCoder paper, equations 2 to 5, as the released weights implement them.
  """
  if before is not None:
    near = join(before, near)
  global_BTHK = attention_with_lse(q_BTHK, q_ids, far)[0]
  local_BTHK = attention_with_lse(q_BTHK, q_ids, near, window)[0]
  return checkpoint_name(mix(global_BTHK, local_BTHK, gate_logits_BTH), 'attention_output')
