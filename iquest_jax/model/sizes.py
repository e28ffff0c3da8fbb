"""Model configurations and the published sizes. Imports no jax.

Sizes: IQuest-Coder-V1 report, table of models; loop: section on LoopCoder and the released checkpoints.
"""

import dataclasses

from iquest_jax.errors import UserError, check_name


@dataclasses.dataclass(frozen=True)
class ModelConfig:
  """Shape of a model: V vocab, D d_model, F d_ff, L layers, H heads, G kv_heads, K head_dim.

  Attributes:
    loops: passes over the same layers; 1 is the dense model.
    loop_window: keys that the local stream of a later pass sees, the token itself included.
    loop_variant: 'released' re-enters with the last hidden state and reads the gate from the rotated query;
      'rescaled' (LoopCoder-v2, arXiv 2606.18023) re-enters with 0.707 E + 0.053 norm(H) and reads the gate from the
      normalised hidden state.
    loop_gradient_scale: factor on the gradient that flows back through the re-entry of each later pass.

  Raises:
    UserError: a value is out of range.
  """

  vocab: int
  d_model: int
  d_ff: int
  layers: int
  heads: int
  kv_heads: int
  head_dim: int
  max_context: int = 131072
  rope_theta: float = 500000.0
  norm_eps: float = 1e-5
  init_std: float = 0.02
  loops: int = 1
  loop_window: int = 64
  loop_variant: str = 'released'
  loop_gradient_scale: float = 1.0

  def __post_init__(self):
    for field in dataclasses.fields(self):
      if field.type is int and getattr(self, field.name) < 1:
        raise UserError(f'model: {field.name} must be at least 1, got {getattr(self, field.name)}')
    if self.heads % self.kv_heads:
      raise UserError(f'model: heads must be a multiple of kv_heads = {self.kv_heads}, got {self.heads}')
    if self.head_dim % 2:
      raise UserError(f'model: head_dim must be even for the rotation of pairs, got {self.head_dim}')
    if self.loop_variant not in ('released', 'rescaled'):
      raise UserError(f'model: loop_variant must be "released" or "rescaled", got "{self.loop_variant}"')

  @property
  def gate_width(self) -> int:
    """Width of a gate's input: the released gate reads a rotated query, the rescaled one a hidden state."""
    return self.head_dim if self.loop_variant == 'released' else self.d_model


_FULL = dict(vocab=76800, d_model=5120, d_ff=27648, heads=40, kv_heads=8, head_dim=128)
_TINY = dict(vocab=1024, d_model=128, d_ff=384, layers=4, heads=4, kv_heads=2, head_dim=32, max_context=512)

SIZES = {
    '7b': ModelConfig(layers=14, **_FULL),
    '14b': ModelConfig(layers=28, **_FULL),
    '40b': ModelConfig(layers=80, **_FULL),
    '40b_loop': ModelConfig(layers=80, loops=2, **_FULL),
    # Not published: about a million parameters, so that two cores train each stage in about a minute.
    'tiny': ModelConfig(**_TINY),
    'tiny_loop': ModelConfig(loops=2, loop_window=16, **_TINY),
}


def get(size: str) -> ModelConfig:
  """The model of a named size; raises UserError for an unknown name."""
  check_name('size', size, SIZES)
  return SIZES[size]
