"""The ring transport: keys and values travel round the devices, queries stay. Everything here runs inside a shard_map.

At hop s, device r holds the keys of device (r - s) mod n. They are earlier than its own for s <= r and later otherwise. In
zigzag order half of all pairs are visible in either case: no query here sees the late chunk of an earlier device, and only
the late chunk of queries sees the keys of a later device, all of them.

The (output, log of the softmax sum) of each hop is merged in float32. The backward pass goes round once more with the
statistics of the whole row, not of the hop: p = exp(score - lse) and ds = p (dp - delta) hold only for those.

Legend: B batch, T positions on this device, H query heads, G key/value heads, K head size, n devices on the ring (at least
two).
"""

import functools

import jax
import jax.numpy as jnp

from iquest_jax.kernels import gated_attention as kernels
from iquest_jax.kernels.gated_attention import Ids, Keys, join
from iquest_jax.kernels.gated_attention.reference import inner, like, merge, save
from iquest_jax.sharding import CONTEXT

# A gate below this, and so the gradient that it lets through, is zero in float32.
_TINY = 1e-30


def _rotate(tree):
  """Passes everything on to the next device of the ring."""
  ways = jax.lax.axis_size(CONTEXT)
  return jax.lax.ppermute(tree, CONTEXT, [(r, (r + 1) % ways) for r in range(ways)])


def _go_round(keys, hop, carry):
  """Folds `hop(s, keys, carry) -> carry` over hops 1 to n - 1; the next keys travel while a hop computes."""

  def step(state, s):
    keys, carry = state
    following = _rotate(keys)
    return (following, hop(s, keys, carry)), None

  ways = jax.lax.axis_size(CONTEXT)
  state = (_rotate(keys), carry)
  if ways > 2:
    state, _ = jax.lax.scan(step, state, jnp.arange(1, ways - 1))
  return hop(ways - 1, *state)


def _early(tree):
  return jax.tree.map(lambda x: x[:, : x.shape[1] // 2], tree)


def _late(tree):
  return jax.tree.map(lambda x: x[:, x.shape[1] // 2 :], tree)


def _forward(q_BTHK, q_ids: Ids, keys: Keys):
  """(out [B, T, H, K], lse [B, T, H]), both float32, over the keys of the whole ring."""

  def attend(queries, keys):
    out, lse = kernels.attention_with_lse(*queries, keys)
    return out.astype(jnp.float32), lse

  queries = (q_BTHK, q_ids)

  def from_before(keys, carry):
    return merge(carry, attend(queries, _early(keys)))

  def from_after(keys, carry):
    return join(_early(carry), merge(_late(carry), attend(_late(queries), keys)))

  def hop(s, keys, carry):
    return jax.lax.cond(jax.lax.axis_index(CONTEXT) >= s, from_before, from_after, keys, carry)

  return _go_round(keys, hop, attend(queries, keys))


def _backward(q_BTHK, q_ids: Ids, keys: Keys, d_out_BTHK, lse_BTH, delta_BTH):
  """`kernels.attention_backward` through the keys of the whole ring."""

  def gradients(queries, keys):
    q, q_ids, *rest = queries
    return kernels.attention_backward(q, q_ids, keys, *rest)

  queries = (q_BTHK, q_ids, d_out_BTHK, lse_BTH, delta_BTH)
  zeros = lambda tree: jax.tree.map(jnp.zeros_like, tree)

  def from_before(keys):
    dq, *dkv = gradients(queries, _early(keys))
    return dq, *join(dkv, zeros(dkv))

  def from_after(keys):
    dq, *dkv = gradients(_late(queries), keys)
    return join(zeros(dq), dq), *dkv

  def hop(s, keys, grads):
    dq, dk, dv = grads
    # The sums of other devices travel while this device computes its share, so the share is added last.
    travelled = (dq, *_rotate((dk, dv)))
    return jax.tree.map(jnp.add, travelled, jax.lax.cond(jax.lax.axis_index(CONTEXT) >= s, from_before, from_after, keys))

  dq, dk, dv = _go_round(keys, hop, gradients(queries, keys))
  return dq, *_rotate((dk, dv))


@jax.custom_vjp
def attention(q_BTHK, keys: Keys):
  """`kernels.attention` of this device's part of a row; `keys` are its own."""
  return _attention_forward(q_BTHK, keys)[0]


def _attention_forward(q_BTHK, keys):
  out_BTHK, lse_BTH = _forward(q_BTHK, keys.ids, keys)
  out_BTHK, lse_BTH = save(out_BTHK.astype(q_BTHK.dtype), lse_BTH)
  return out_BTHK, (q_BTHK, keys, out_BTHK, lse_BTH)


def _attention_backward(saved, d_out_BTHK):
  q_BTHK, keys, out_BTHK, lse_BTH = saved
  grads = _backward(q_BTHK, keys.ids, keys, d_out_BTHK, lse_BTH, inner(d_out_BTHK, out_BTHK))
  dq, dk, dv = like(grads, (q_BTHK, keys.k, keys.v))
  return dq, Keys(dk, dv, None)


attention.defvjp(_attention_forward, _attention_backward)


def gated_attention(q_BTHK, far: Keys, near: Keys, gate_logits_BTH, window: int, before: Keys):
  """`kernels.gated_attention` of this device's part of a row: its `far` travels, the local stream sees `before`."""
  return _gated(q_BTHK, near.ids, far[:2], join(before, near), gate_logits_BTH, window)


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def _gated(q_BTHK, q_ids, far_kv, near, gate_logits_BTH, window):
  return _gated_forward(q_BTHK, q_ids, far_kv, near, gate_logits_BTH, window)[0]


def _gated_forward(q_BTHK, q_ids, far_kv, near, gate_logits_BTH, window):
  local_BTHK = kernels.attention(q_BTHK, q_ids, near, window)
  global_BTHK, lse_BTH = _forward(q_BTHK, q_ids, Keys(*far_kv, q_ids))
  gate_BTH1 = jax.nn.sigmoid(gate_logits_BTH)[..., None]
  out_BTHK = gate_BTH1 * global_BTHK + (1 - gate_BTH1) * local_BTHK.astype(jnp.float32)
  out_BTHK, lse_BTH = save(out_BTHK.astype(q_BTHK.dtype), lse_BTH)
  return out_BTHK, (q_BTHK, q_ids, far_kv, near, gate_logits_BTH, out_BTHK, lse_BTH)


def _gated_backward(window, saved, d_out_BTHK):
  """Neither stream's output is saved: the local one is cheap to recompute, and the mix minus it is the global one."""
  q_BTHK, q_ids, far_kv, near, gate_logits_BTH, out_BTHK, lse_BTH = saved
  local_BTHK, pull = jax.vjp(lambda q_BTHK, near: kernels.attention(q_BTHK, q_ids, near, window), q_BTHK, near)
  gate_BTH = jax.nn.sigmoid(gate_logits_BTH)
  # Deltas of the two streams, each with its share of the gate: they sum to d_out * out.
  local_delta_BTH = (1 - gate_BTH) * inner(d_out_BTHK, local_BTHK)
  global_delta_BTH = inner(d_out_BTHK, out_BTHK) - local_delta_BTH
  weighted = lambda weight_BTH: (weight_BTH[..., None] * d_out_BTHK).astype(d_out_BTHK.dtype)
  local_dq, d_near = pull(weighted(1 - gate_BTH))
  # What is subtracted from the gradient of a weight must come from the same rounded d_out, or the rounding does not cancel.
  # The global output is the mix minus the local one over the gate; the rounding is as small as the gate.
  global_d_out_BTHK = weighted(gate_BTH)
  rounding_BTHK = global_d_out_BTHK - gate_BTH[..., None] * d_out_BTHK.astype(jnp.float32)
  weighted_global_BTHK = out_BTHK - (1 - gate_BTH)[..., None] * local_BTHK.astype(jnp.float32)
  delta_BTH = global_delta_BTH + inner(rounding_BTHK, weighted_global_BTHK) / jnp.maximum(gate_BTH, _TINY)
  global_dq, *d_far = _backward(q_BTHK, q_ids, Keys(*far_kv, q_ids), global_d_out_BTHK, lse_BTH, delta_BTH)
  dq, *d_far = like((global_dq + local_dq, *d_far), (q_BTHK, *far_kv))
  d_logits_BTH = (1 - gate_BTH) * global_delta_BTH - gate_BTH * local_delta_BTH
  return dq, None, tuple(d_far), d_near, d_logits_BTH


_gated.defvjp(_gated_forward, _gated_backward)
