"""Attention on CPUs: the functions of reference.py, in bands of queries where queries and keys are the same rows in order.

No query of a band sees keys behind the band, or further before it than the window reaches: the reference computes scores of
those keys too, more than half of all, and masks them. Everything else runs as the reference.

Legend: reference.py.
"""

import functools

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from iquest_jax.kernels.gated_attention import reference
from iquest_jax.kernels.gated_attention.reference import Ids, Keys, inner, join, like, mix, save

# Each band is compiled by itself. Eight compute 9/16 of the scores; more would be compiled longer than they save.
_BANDS = 8
_FEWEST = 64  # queries of a band

attention_with_lse = reference.attention_with_lse
attention_backward = reference.attention_backward


def attention(q_BTHK, q_ids: Ids, keys: Keys, window: int | None = None):
  """reference.attention."""
  return checkpoint_name(_attention(q_BTHK, q_ids, keys, window), 'attention_output')


def gated_attention(
    q_BTHK, q_ids: Ids, far: Keys, near: Keys, gate_logits_BTH, window: int, before: Keys | None = None
):
  """reference.gated_attention."""
  if before is not None:
    near = join(before, near)
  mixed_BTHK = mix(_attention(q_BTHK, q_ids, far), _attention(q_BTHK, q_ids, near, window), gate_logits_BTH)
  return checkpoint_name(mixed_BTHK, 'attention_output')


def _attention(q_BTHK, q_ids, keys, window=None):
  if keys.ids is q_ids:
    return _in_bands(q_BTHK, keys, window)
  return reference.attention_with_lse(q_BTHK, q_ids, keys, window)[0]


def _bands(T, window):
  """(queries, keys that they may see) of each band, slices of the row."""
  rows = max(_FEWEST, -(-T // (_BANDS * _FEWEST)) * _FEWEST)
  for start in range(0, T, rows):
    end = min(start + rows, T)
    yield slice(start, end), slice(0 if window is None else max(0, start - window + 1), end)


def _cut(tree, part):
  return jax.tree.map(lambda x: x[:, part], tree)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _in_bands(q_BTHK, keys, window):
  """Attention of rows in order over their own keys."""
  return _forward(q_BTHK, keys, window)[0]


def _forward(q_BTHK, keys, window):
  outs = [
      reference.attention_with_lse(q_BTHK[:, queries], _cut(keys.ids, queries), _cut(keys, seen), window)
      for queries, seen in _bands(q_BTHK.shape[1], window)
  ]
  out_BTHK, lse_BTH = save(*join(*outs))
  return out_BTHK, (q_BTHK, keys, out_BTHK, lse_BTH)


def _backward(window, saved, d_out_BTHK):
  q_BTHK, keys, out_BTHK, lse_BTH = saved
  rows, dq = (q_BTHK, keys.ids, d_out_BTHK, lse_BTH, inner(out_BTHK, d_out_BTHK)), []
  dk_BTGK, dv_BTGK = jnp.zeros(keys.k.shape, jnp.float32), jnp.zeros(keys.v.shape, jnp.float32)
  for queries, seen in _bands(q_BTHK.shape[1], window):
    q, ids, d_out, lse, delta = _cut(rows, queries)
    dq_band, dk, dv = reference.attention_backward(q, ids, _cut(keys, seen), d_out, lse, delta, window)
    dq.append(dq_band)
    dk_BTGK, dv_BTGK = dk_BTGK.at[:, seen].add(dk), dv_BTGK.at[:, seen].add(dv)
  dq_BTHK, *dkv = like((join(*dq), dk_BTGK, dv_BTGK), (q_BTHK, keys.k, keys.v))
  return dq_BTHK, Keys(*dkv, None)


_in_bands.defvjp(_forward, _backward)
