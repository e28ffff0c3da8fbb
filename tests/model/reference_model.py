"""The model in float64 numpy from the published tensors, and every known way to get it wrong.

Written from the published description of the models. It imports nothing from the library, so that an error in one does not
hide an error in the other. It takes one row at a time and loops over heads.

Legend: T positions, D model width, H query heads, G key/value heads, K head size, V vocabulary.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

# What readers of the paper and real implementations have got wrong; tests distinguish each from the released model.
WRONG = (
    'gate_before_rotation',  # gate from the query before RoPE
    'gate_swapped',  # gate on the local stream
    'own_global_keys',  # later passes see their own keys in full, not the first pass's
    'window_minus_one',  # the token itself not counted in the window
    'window_plus_one',  # one more token besides the token itself
    'no_window',
    'token_shift',  # equation 1 of the paper as printed: hidden states moved on by one token
    'embedding_again',  # equation 1 as printed: the embedding added at re-entry
    'norm_between',  # final norm between the passes
    'one_pass',  # a loop checkpoint relabelled as Llama
)


@dataclasses.dataclass
class Output:
  """Results of the forward pass of one row, float64.

  Attributes:
    logits: [T, V].
    handed_on: last hidden state from which each later pass starts, [T, D] each.
    changes: norm of the change by each later pass over the norm of its input.
    gates: mean gate of each later pass, over tokens, heads and layers.
  """

  logits: np.ndarray
  handed_on: list[np.ndarray]
  changes: list[float]
  gates: list[float]


def forward(
    tensors: Mapping[str, np.ndarray],
    config: Mapping[str, Any],
    tokens: Sequence[int],
    wrong: str = '',
    rescaled: bool = False,
    held: Sequence[np.ndarray] | None = None,
) -> Output:
  """One document through the dense or looped model.

  Args:
    tensors: by published name.
    config: of config.json; looped where it has loop_num.
    tokens: [T].
    wrong: '', one of WRONG, or 'latest_global_keys' (global keys of the previous pass; matters from three passes on).
    rescaled: the LoopCoder-v2 variant: gate weights [H, D].
    held: `handed_on` of another run, used instead of the hidden states computed here, so that nothing recurs.
  """
  weights = {name: np.asarray(tensor, np.float64) for name, tensor in tensors.items()}
  heads, kv_heads, size = (config[key] for key in ('num_attention_heads', 'num_key_value_heads', 'head_dim'))
  layers, T = config['num_hidden_layers'], len(tokens)
  loops = 1 if wrong == 'one_pass' else config.get('loop_num', 1)
  window = config.get('loop_window_size', 0) + {'window_minus_one': -1, 'window_plus_one': 1}.get(wrong, 0)
  age = np.arange(T)[:, None] - np.arange(T)[None]
  causal = age >= 0
  local = causal if wrong == 'no_window' else causal & (age < window)
  angles = np.arange(T)[:, None] * config['rope_theta'] ** (-np.arange(size // 2) / (size // 2))

  def rms_norm(x, name):
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + config['rms_norm_eps']) * weights[name]

  def project(x, name, count):
    return (x @ weights[name].T).reshape(T, count, size)

  def rotate(x):
    turned = (x[..., : size // 2] + 1j * x[..., size // 2 :]) * np.exp(1j * angles)[:, None]
    return np.concatenate([turned.real, turned.imag], axis=-1)

  def attend(query, keys, values, visible):
    out = np.empty_like(query)
    for head in range(heads):
      group = head * kv_heads // heads
      scores = np.where(visible, query[:, head] @ keys[:, group].T / np.sqrt(size), -np.inf)
      shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
      out[:, head] = shares / shares.sum(axis=-1, keepdims=True) @ values[:, group]
    return out

  def layer_pass(x, memory, later):
    """All layers once: (hidden state, keys and values of this pass, mean gates)."""
    gates, own = [], []
    for n in range(layers):
      prefix = f'model.layers.{n}.'
      normed = rms_norm(x, prefix + 'input_layernorm.weight')
      plain = project(normed, prefix + 'self_attn.q_proj.weight', heads)
      query, keys = rotate(plain), rotate(project(normed, prefix + 'self_attn.k_proj.weight', kv_heads))
      values = project(normed, prefix + 'self_attn.v_proj.weight', kv_heads)
      own.append((keys, values))
      if later:
        source = plain if wrong == 'gate_before_rotation' else query
        source = np.broadcast_to(normed[:, None], (T, heads, normed.shape[1])) if rescaled else source
        gate_logits = np.sum(source * weights[f'model.gate_projections.{n}.weight'], axis=-1)
        gate = 1 / (1 + np.exp(-gate_logits - weights[f'model.gate_projections.{n}.bias']))[..., None]
        gates.append(gate.mean())
        gate = 1 - gate if wrong == 'gate_swapped' else gate
        seen = (keys, values) if wrong == 'own_global_keys' else memory[n]
        mixed = gate * attend(query, *seen, causal) + (1 - gate) * attend(query, keys, values, local)
      else:
        mixed = attend(query, keys, values, causal)
      x = x + mixed.reshape(T, heads * size) @ weights[prefix + 'self_attn.o_proj.weight'].T
      normed = rms_norm(x, prefix + 'post_attention_layernorm.weight')
      opened = normed @ weights[prefix + 'mlp.gate_proj.weight'].T
      hidden = opened / (1 + np.exp(-opened)) * (normed @ weights[prefix + 'mlp.up_proj.weight'].T)
      x = x + hidden @ weights[prefix + 'mlp.down_proj.weight'].T
    return x, own, gates

  embedded = weights['model.embed_tokens.weight'][np.asarray(tokens)]
  x, memory, _ = layer_pass(embedded, None, later=False)
  output = Output(None, [], [], [])
  for later in range(loops - 1):
    x = x if held is None else held[later]
    output.handed_on.append(x)
    if rescaled:
      x = 0.707 * embedded + 0.053 * rms_norm(x, 'model.norm.weight')
    if wrong == 'token_shift':
      x = np.concatenate([np.zeros_like(x[:1]), x[:-1]])
    if wrong == 'embedding_again':
      x = embedded + x
    if wrong == 'norm_between':
      x = rms_norm(x, 'model.norm.weight')
    start = x
    x, own, gates = layer_pass(start, memory, later=True)
    if wrong == 'latest_global_keys':
      memory = own
    output.changes.append(np.linalg.norm(x - start) / np.linalg.norm(start))
    output.gates.append(float(np.mean(gates)))
  output.logits = rms_norm(x, 'model.norm.weight') @ weights['lm_head.weight'].T
  return output


def loss(logits: np.ndarray, targets: Sequence[int]) -> float:
  """Mean negative log-probability of targets [T] under logits [T, V], in nats."""
  peak = logits.max(axis=-1, keepdims=True)
  logps = logits - peak - np.log(np.exp(logits - peak).sum(axis=-1, keepdims=True))
  return -float(np.mean(logps[np.arange(len(targets)), np.asarray(targets)]))
