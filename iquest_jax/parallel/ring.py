"""Attention over a ring of devices: keys and values go round, queries stay. Everything here runs inside a shard_map.

At hop s device r holds the keys of device (r - s) mod n, which come from before its own for s <= r and from after
otherwise. In zigzag order either case is half of all pairs: an earlier device's late chunk is seen by no query here, a
later device's keys are seen in full by the late chunk of queries and by nothing else.

Each hop's (output, log of the softmax sum) is merged in float32. The backward pass goes round once more, with the
statistics of the whole row, not of the hop: p = exp(score - lse) and ds = p (dp - delta) hold for those alone.

Legend: B batch, T positions of this device, H query heads, G key/value heads, K head size, n (ways) devices.
"""

import functools

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from iquest_jax.kernels import gated_attention as kernels
from iquest_jax.kernels.gated_attention import Halo, Ids

AXIS = 'context'
# Below it a gate, and so the gradient that it lets through, is nothing in float32.
_LEAST_GATE = 1e-30


def _rotate(tree, ways):
  """Hands everything on to the next device of the ring."""
  return jax.lax.ppermute(tree, AXIS, [(r, (r + 1) % ways) for r in range(ways)])


def _go_round(keys, hop, carry, ways):
  """Folds `hop(s, keys, carry) -> carry` over hops 1 to ways - 1; the next keys travel while a hop computes."""

  def step(state, s):
    keys, carry = state
    following = _rotate(keys, ways)
    return (following, hop(s, keys, carry)), None

  state = (_rotate(keys, ways), carry)
  if ways > 2:
    state, _ = jax.lax.scan(step, state, jnp.arange(1, ways - 1))
  return hop(ways - 1, *state)


def _early(tree):
  return jax.tree.map(lambda x: x[:, : x.shape[1] // 2], tree)


def _late(tree):
  return jax.tree.map(lambda x: x[:, x.shape[1] // 2 :], tree)


def _grown(tree, late):
  """[B, T / 2, ...] -> [B, T, ...], zeros in place of the other chunk."""
  widths = lambda x: [(0, 0), (x.shape[1], 0) if late else (0, x.shape[1])] + [(0, 0)] * (x.ndim - 2)
  return jax.tree.map(lambda x: jnp.pad(x, widths(x)), tree)


def _is_from_before(s):
  return jax.lax.axis_index(AXIS) >= s


def _forward(q_BTHK, k_BTGK, v_BTGK, ids, ways):
  """Returns (out [B, T, H, K], lse [B, T, H]), float32 both, over the keys of the whole ring."""
  queries = (q_BTHK, ids)

  def attend(queries, keys):
    (q, q_ids), (k, v, k_ids) = queries, keys
    out, lse = kernels.attention_with_lse(q, k, v, q_ids, k_ids)
    return out.astype(jnp.float32), lse

  def from_before(keys, carry):
    return _merge(carry, attend(queries, _early(keys)))

  def from_after(keys, carry):
    late = _merge(_late(carry), attend(_late(queries), keys))
    return jax.tree.map(lambda *chunks: jnp.concatenate(chunks, axis=1), _early(carry), late)

  def hop(s, keys, carry):
    return jax.lax.cond(_is_from_before(s), from_before, from_after, keys, carry)

  own = (k_BTGK, v_BTGK, ids)
  return _go_round(own, hop, attend(queries, own), ways)


def _merge(one, other):
  """Attention over two sets of keys, from attention over each."""
  (out, lse), (other_out, other_lse) = one, other
  total = jnp.logaddexp(lse, other_lse)
  return jnp.exp(lse - total)[..., None] * out + jnp.exp(other_lse - total)[..., None] * other_out, total


def _backward(q_BTHK, k_BTGK, v_BTGK, ids, lse_BTH, delta_BTH, do_BTHK, ways):
  """Gradients of the global stream: (dq, dk, dv), float32.

  Args:
    lse_BTH: log of the softmax sum over the whole row.
    delta_BTH: sum over K of do * out, out over the whole row.
    do_BTHK: gradient of the output.
  """
  queries = (q_BTHK, ids, lse_BTH, delta_BTH, do_BTHK)

  def pull(queries, keys):
    (q, q_ids, lse, delta, do), (k, v, k_ids) = queries, keys
    return kernels.attention_backward(q, k, v, do, lse, delta, q_ids, k_ids)

  def from_before(keys):
    dq, *dkv = pull(queries, _early(keys))
    return dq, *_grown(dkv, late=False)

  def from_after(keys):
    dq, *dkv = pull(_late(queries), keys)
    return _grown(dq, late=True), *dkv

  def hop(s, keys, grads):
    dq, dk, dv = grads
    # What other devices have added so far travels while this device computes its share, which therefore is added last.
    travelled = (dq, *_rotate((dk, dv), ways))
    return jax.tree.map(jnp.add, travelled, jax.lax.cond(_is_from_before(s), from_before, from_after, keys))

  own = (k_BTGK, v_BTGK, ids)
  dq, dk, dv = _go_round(own, hop, pull(queries, own), ways)
  return dq, *_rotate((dk, dv), ways)


def _save(out_BTHK, lse_BTH):
  """Names what the backward pass wants kept of the forward pass (model/transformer.py, remat)."""
  return checkpoint_name(out_BTHK, 'attention_output'), checkpoint_name(lse_BTH, 'attention_lse')


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def attention(q_BTHK, k_BTGK, v_BTGK, ids: Ids, ways: int):
  """`kernels.attention` of a device's part of a row.

  Args:
    ways: devices on the ring, at least 2.
  """
  return _attention_forward(q_BTHK, k_BTGK, v_BTGK, ids, ways)[0]


def _attention_forward(q_BTHK, k_BTGK, v_BTGK, ids, ways):
  out_BTHK, lse_BTH = _forward(q_BTHK, k_BTGK, v_BTGK, ids, ways)
  out_BTHK, lse_BTH = _save(out_BTHK.astype(q_BTHK.dtype), lse_BTH)
  return out_BTHK, (q_BTHK, k_BTGK, v_BTGK, ids, out_BTHK, lse_BTH)


def _attention_backward(ways, saved, do_BTHK):
  q_BTHK, k_BTGK, v_BTGK, ids, out_BTHK, lse_BTH = saved
  delta_BTH = jnp.sum(do_BTHK.astype(jnp.float32) * out_BTHK, axis=-1)
  grads = _backward(q_BTHK, k_BTGK, v_BTGK, ids, lse_BTH, delta_BTH, do_BTHK, ways)
  return *_like(grads, (q_BTHK, k_BTGK, v_BTGK)), None


attention.defvjp(_attention_forward, _attention_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(8, 9))
def gated_attention(
    q_BTHK, k1_BTGK, v1_BTGK, k2_BTGK, v2_BTGK, gate_logits_BTH, ids: Ids, halo: Halo, window: int, ways: int
):
  """`kernels.gated_attention` of a device's part of a row: K1 and V1 go round, the local stream sees the halo.

  Args:
    ways: devices on the ring, at least 2.
  """
  return _gated_forward(q_BTHK, k1_BTGK, v1_BTGK, k2_BTGK, v2_BTGK, gate_logits_BTH, ids, halo, window, ways)[0]


def _local(q_BTHK, k2_BTGK, v2_BTGK, halo_k, halo_v, ids, halo_ids, window):
  join = lambda before, own: jnp.concatenate([before, own], axis=1)
  k2_ids = jax.tree.map(join, halo_ids, ids)
  return kernels.attention(q_BTHK, join(halo_k, k2_BTGK), join(halo_v, v2_BTGK), ids, k2_ids, window)


def _gated_forward(q_BTHK, k1_BTGK, v1_BTGK, k2_BTGK, v2_BTGK, gate_logits_BTH, ids, halo, window, ways):
  local_BTHK = _local(q_BTHK, k2_BTGK, v2_BTGK, halo.k, halo.v, ids, halo.ids, window)
  global_BTHK, lse_BTH = _forward(q_BTHK, k1_BTGK, v1_BTGK, ids, ways)
  gate_BTH1 = jax.nn.sigmoid(gate_logits_BTH)[..., None]
  out_BTHK = gate_BTH1 * global_BTHK + (1 - gate_BTH1) * local_BTHK.astype(jnp.float32)
  out_BTHK, lse_BTH = _save(out_BTHK.astype(q_BTHK.dtype), lse_BTH)
  return out_BTHK, (q_BTHK, k1_BTGK, v1_BTGK, k2_BTGK, v2_BTGK, gate_logits_BTH, ids, halo, out_BTHK, lse_BTH)


def _gated_backward(window, ways, saved, do_BTHK):
  """Neither stream's output is kept: the local one is cheap to have again, and the mix less it is the global one."""
  q_BTHK, k1_BTGK, v1_BTGK, k2_BTGK, v2_BTGK, gate_logits_BTH, ids, halo, out_BTHK, lse_BTH = saved
  inner = lambda x_BTHK, y_BTHK: jnp.sum(x_BTHK.astype(jnp.float32) * y_BTHK, axis=-1)
  local_BTHK, pull = jax.vjp(
      lambda *args: _local(*args, ids, halo.ids, window), q_BTHK, k2_BTGK, v2_BTGK, halo.k, halo.v
  )
  gate_BTH = jax.nn.sigmoid(gate_logits_BTH)
  # Deltas of the two streams, each with its share of the gate: they add up to do * out.
  delta_local_BTH = (1 - gate_BTH) * inner(do_BTHK, local_BTHK)
  delta_global_BTH = inner(do_BTHK, out_BTHK) - delta_local_BTH
  weighed = lambda weight_BTH: (weight_BTH[..., None] * do_BTHK).astype(do_BTHK.dtype)
  local_dq, dk2, dv2, halo_dk, halo_dv = pull(weighed(1 - gate_BTH))
  # What is subtracted from the gradient of a weight must be of the same, rounded, do; else the rounding does not cancel.
  # The global output is the mix less the local one over the gate, by which the rounding is small as well.
  do_global_BTHK = weighed(gate_BTH)
  rounding_BTHK = do_global_BTHK - gate_BTH[..., None] * do_BTHK.astype(jnp.float32)
  weighed_global_BTHK = out_BTHK - (1 - gate_BTH)[..., None] * local_BTHK.astype(jnp.float32)
  delta_BTH = delta_global_BTH + inner(rounding_BTHK, weighed_global_BTHK) / jnp.maximum(gate_BTH, _LEAST_GATE)
  global_dq, dk1, dv1 = _backward(q_BTHK, k1_BTGK, v1_BTGK, ids, lse_BTH, delta_BTH, do_global_BTHK, ways)
  dq, dk1, dv1 = _like((global_dq + local_dq, dk1, dv1), (q_BTHK, k1_BTGK, v1_BTGK))
  dlogits_BTH = (1 - gate_BTH) * delta_global_BTH - gate_BTH * delta_local_BTH
  return dq, dk1, dv1, dk2, dv2, dlogits_BTH, None, Halo(halo_dk, halo_dv, None)


gated_attention.defvjp(_gated_forward, _gated_backward)


def _like(grads, values):
  return tuple(grad.astype(value.dtype) for grad, value in zip(grads, values))
