"""Cost of a model: parameters and floating-point operations. Imports no jax."""

from iquest_jax.model.sizes import ModelConfig


def num_params(model: ModelConfig) -> int:
  """Exact number of parameters; a looped model has one gate per layer and head."""
  m = model
  attention = m.d_model * m.head_dim * (2 * m.heads + 2 * m.kv_heads)
  block = attention + 3 * m.d_model * m.d_ff + 2 * m.d_model
  gate = m.heads * (m.gate_width + 1) if m.loops > 1 else 0
  return 2 * m.vocab * m.d_model + m.layers * (block + gate) + m.d_model


def visible_pairs(length: int, window: int | None = None) -> int:
  """Visible (query, key) pairs of one document of `length` tokens: causal, and within `window` keys if given."""
  window = min(window or length, length)
  return window * (window + 1) // 2 + (length - window) * window


def flops(model: ModelConfig, tokens, pairs, local_pairs):
  """Floating-point operations of one forward pass over packed documents; a multiply and an add count as two.

  The head runs once, the layers once per pass of the loop. Attention counts visible pairs only: all causal pairs in pass 1
  and in the global stream of later passes, those within the window in the local stream. Norms, softmax and gates are left
  out; they are less than a thousandth at full size.

  Args:
    tokens: tokens that are not padding.
    pairs: visible pairs of all documents.
    local_pairs: those within loop_window.
  """
  m = model
  linear = m.d_model * m.head_dim * (2 * m.heads + 2 * m.kv_heads) + 3 * m.d_model * m.d_ff
  per_pair = 4 * m.heads * m.head_dim  # q.k and p.v
  one_pass = m.layers * (2 * linear * tokens + per_pair * pairs)
  local = m.layers * per_pair * local_pairs
  return m.loops * one_pass + (m.loops - 1) * local + 2 * m.d_model * m.vocab * tokens


def forward_flops(model: ModelConfig, length: int) -> int:
  """`flops` of one document of `length` tokens."""
  return flops(model, length, visible_pairs(length), visible_pairs(length, model.loop_window))


# Forward and backward cost as much as three forward passes; recomputation by remat is not useful work and does not count.
TRAIN_PASSES = 3
