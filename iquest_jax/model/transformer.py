"""The model: embed, scanned layers once or several times, final norm; the head is applied by whoever needs logits.

Legend: B batch, T positions, D model width, L layers, V vocabulary.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from iquest_jax import sharding
from iquest_jax.errors import UserError, nearest
from iquest_jax.model.attention import Attention, Memory
from iquest_jax.model.layers import Embedder, Mlp, RMSNorm, param
from iquest_jax.model.loop import reenter, relative_change
from iquest_jax.model.sizes import ModelConfig

# What the backward pass finds saved; everything else in a layer is recomputed from the layer's input.
_ATTENTION = ('attention_output', 'attention_lse')
REMAT_POLICIES = {
    'none': None,
    'full': jax.checkpoint_policies.nothing_saveable,
    'attention': jax.checkpoint_policies.save_only_these_names(*_ATTENTION),
    # As 'attention', and the layer's input waits in the host's memory, not the chip's: the one thing 'attention' keeps
    # besides, as large as the output.
    'offload': jax.checkpoint_policies.save_and_offload_only_these_names(
        names_which_can_be_saved=_ATTENTION, names_which_can_be_offloaded=['layer_input'],
        offload_src='device', offload_dst='pinned_host',
    ),
    'dots': jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


class Block(nn.Module):
  """One layer: x + attention(norm(x)), then x + mlp(norm(x))."""

  config: ModelConfig
  dtype: jnp.dtype
  context_transport: str

  @nn.compact
  def __call__(self, x_BTD, segment_ids, positions, memory):
    c = self.config
    x_BTD = checkpoint_name(x_BTD, 'layer_input')
    normed_BTD = RMSNorm(c.norm_eps, name='attention_norm')(x_BTD)
    attention = Attention(c, self.dtype, self.context_transport, name='attention')
    out_BTD, memory, gate = attention(normed_BTD, segment_ids, positions, memory)
    x_BTD = x_BTD + out_BTD
    x_BTD = x_BTD + Mlp(c, self.dtype, name='mlp')(RMSNorm(c.norm_eps, name='mlp_norm')(x_BTD))
    x_BTD = sharding.constrain(x_BTD, 'batch', 'sequence', 'activation')
    if c.loops == 1:
      return x_BTD, None
    return x_BTD, memory if gate is None else gate


class Transformer(nn.Module):
  """Dense (loops = 1) or looped transformer.

  Parameters: embedder/embedding [V, D]; layers/{attention/{query, key, value, output, gate_weight, gate_bias},
  mlp/{gate, up, down}, attention_norm, mlp_norm}, each with a leading L; final_norm/scale [D]; head [D, V].

  Attributes:
    config: the architecture.
    dtype: of computation; parameters are float32.
    remat: what the backward pass finds saved, a name in REMAT_POLICIES.
    context_transport: how keys and values travel where rows are split, a name in parallel.context.TRANSPORTS.
  """

  config: ModelConfig
  dtype: jnp.dtype = jnp.bfloat16
  remat: str = 'none'
  context_transport: str = 'all_gather'

  def setup(self):
    c = self.config
    block = Block
    if self.remat not in REMAT_POLICIES:
      raise UserError(f'model: remat "{self.remat}" does not exist{nearest(self.remat, REMAT_POLICIES)}')
    if self.remat != 'none':
      block = nn.remat(Block, policy=REMAT_POLICIES[self.remat], prevent_cse=False)
    self.layers = nn.scan(
        block,
        variable_axes={'params': 0},
        split_rngs={'params': True},
        in_axes=(nn.broadcast, nn.broadcast, 0),
        length=c.layers,
        metadata_params={nn.PARTITION_NAME: 'layers'},
    )(c, self.dtype, self.context_transport)
    self.embedder = Embedder(c, self.dtype)
    self.final_norm = RMSNorm(c.norm_eps)
    self.head_DV = param(self, 'head', (c.d_model, c.vocab), ('embed', 'vocab'), nn.initializers.normal(c.init_std))

  def __call__(self, tokens, segment_ids, positions):
    """Hidden states after the final norm.

    Args:
      tokens, segment_ids, positions: int32 [B, T].

    Returns:
      (hidden [B, T, D] in compute dtype, diagnostics): diagnostics of later passes, float32 [loops - 1] each:
      `loop_change` (relative change of the hidden state) and `loop_gate` (mean gate); empty for the dense model.
    """
    c = self.config
    embedded_BTD = sharding.constrain(self.embedder(tokens), 'batch', 'sequence', 'activation')
    x_BTD, memory = self.layers(embedded_BTD, segment_ids, positions, None)
    changes, gates = [], []
    for _ in range(c.loops - 1):
      start_BTD = reenter(c.loop_variant, x_BTD, embedded_BTD, self.final_norm, c.loop_gradient_scale)
      x_BTD, gate_L = self.layers(start_BTD, segment_ids, positions, Memory(*memory))
      changes.append(relative_change(start_BTD, x_BTD, segment_ids))
      gates.append(jnp.mean(gate_L))
    diagnostics = {'loop_change': jnp.stack(changes), 'loop_gate': jnp.stack(gates)} if changes else {}
    return self.final_norm(x_BTD), diagnostics

  def logits(self, tokens, segment_ids, positions):
    """float32 [B, T, V]; training never calls this, it takes log-probabilities in chunks."""
    hidden_BTD, _ = self(tokens, segment_ids, positions)
    return jnp.einsum('btd,dv->btv', hidden_BTD, self.head_DV.astype(self.dtype), preferred_element_type=jnp.float32)


def build(
    config: ModelConfig, dtype: str, remat: str = 'none', context_transport: str = 'all_gather'
) -> Transformer:
  """The module for a configuration; dtype is the compute dtype, 'bfloat16' or 'float32'."""
  if dtype not in ('bfloat16', 'float32'):
    raise UserError(f'model: dtype is "{dtype}"; it is "bfloat16" or "float32"')
  return Transformer(config, jnp.dtype(dtype), remat, context_transport)


def init_params(model: Transformer, key: jax.Array):
  """Boxed parameters (with logical axis names) of a model; they do not depend on the example's length."""
  example = jnp.zeros((1, 2), jnp.int32)
  # Without a mesh, over which so short an example could not be split.
  with jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), ())):
    return model.init(key, example, example, example)['params']


def model_config(config) -> ModelConfig:
  """ModelConfig from the `model` section of an experiment; an unknown key raises UserError."""
  fields = {field.name for field in dataclasses.fields(ModelConfig)}
  for key in config:
    if key not in fields:
      raise UserError(f'config: model.{key} does not exist{nearest(key, fields)}')
  return ModelConfig(**config.to_dict())


def of_stage(config) -> Transformer:
  """The module of an experiment; raises UserError for an unknown key, dtype, remat policy or transport."""
  train = config.train
  return build(model_config(config.model), train.dtype, train.remat, train.context_transport)
