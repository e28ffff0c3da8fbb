"""The model: embedding, scanned layers once or several times, final norm; callers that need logits apply the head.

Legend: B batch, T positions, D model width, L layers, V vocabulary.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from iquest_jax import sharding
from iquest_jax.errors import UserError, check_name, nearest
from iquest_jax.kernels.gated_attention import Ids, Keys
from iquest_jax.model.attention import Attention
from iquest_jax.model.layers import Embedder, Mlp, RMSNorm, param
from iquest_jax.model.loop import reenter, relative_change
from iquest_jax.model.sizes import ModelConfig

# What is saved for the backward pass; everything else in a layer is recomputed from the layer's input.
_ATTENTION = ('attention_output', 'attention_lse')
REMAT_POLICIES = {
    'none': None,
    'full': jax.checkpoint_policies.nothing_saveable,
    'attention': jax.checkpoint_policies.save_only_these_names(*_ATTENTION),
    # Like 'attention', with the layer's input in the memory of the host instead of the chip. The input is the only other
    # thing that 'attention' keeps, and as large as the output.
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
  def __call__(self, x_BTD, ids: Ids, first_kv):
    """`first_kv`: None in the first pass, its (k, v) in later passes. Returns (x_BTD, (k, v) or mean gate)."""
    c = self.config
    x_BTD = checkpoint_name(x_BTD, 'layer_input')
    normed_BTD = RMSNorm(c.norm_eps, name='attention_norm')(x_BTD)
    # Ids are the same in every layer and pass, so keys and values alone are stacked over layers.
    first = None if first_kv is None else Keys(*first_kv, ids)
    out_BTD, keys, gate = Attention(c, self.dtype, self.context_transport, name='attention')(normed_BTD, ids, first)
    x_BTD = x_BTD + out_BTD
    x_BTD = x_BTD + Mlp(c, self.dtype, name='mlp')(RMSNorm(c.norm_eps, name='mlp_norm')(x_BTD))
    x_BTD = sharding.constrain(x_BTD, 'batch', 'sequence', 'activation')
    if c.loops == 1:
      return x_BTD, None
    return x_BTD, (keys.k, keys.v) if gate is None else gate


class Transformer(nn.Module):
  """Dense (loops = 1) or looped transformer.

  Parameters: embedder/embedding [V, D]; layers/{attention/{query, key, value, output, gate_weight, gate_bias},
  mlp/{gate, up, down}, attention_norm, mlp_norm}, each with a leading L; final_norm/scale [D]; head [D, V].

  Attributes:
    config: the architecture.
    dtype: of computation; parameters are float32.
    remat: what is saved for the backward pass, a name in REMAT_POLICIES.
    context_transport: how keys and values travel if rows are split, a name in parallel.context.TRANSPORTS.
  """

  config: ModelConfig
  dtype: jax.typing.DTypeLike = jnp.bfloat16
  remat: str = 'none'
  context_transport: str = 'all_gather'

  def setup(self):
    c = self.config
    block = Block
    check_name('config: train.remat', self.remat, REMAT_POLICIES)
    if self.remat != 'none':
      block = nn.remat(Block, policy=REMAT_POLICIES[self.remat], prevent_cse=False)
    self.layers = nn.scan(
        block,
        variable_axes={'params': 0},
        split_rngs={'params': True},
        in_axes=(nn.broadcast, 0),
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
      (hidden [B, T, D] in the compute dtype, diagnostics of later passes): diagnostics are `loop_change` (relative change
      of the hidden state) and `loop_gate` (mean gate), float32 [loops - 1] each; empty for the dense model.
    """
    c, ids = self.config, Ids(segment_ids, positions)
    embedded_BTD = sharding.constrain(self.embedder(tokens), 'batch', 'sequence', 'activation')
    x_BTD, first_kv = self.layers(embedded_BTD, ids, None)
    changes, gates = [], []
    for _ in range(c.loops - 1):
      start_BTD = reenter(c.loop_variant, x_BTD, embedded_BTD, self.final_norm, c.loop_gradient_scale)
      x_BTD, gate_L = self.layers(start_BTD, ids, first_kv)
      changes.append(relative_change(start_BTD, x_BTD, segment_ids))
      gates.append(jnp.mean(gate_L))
    diagnostics = {'loop_change': jnp.stack(changes), 'loop_gate': jnp.stack(gates)} if changes else {}
    return self.final_norm(x_BTD), diagnostics

  def logits(self, tokens, segment_ids, positions):
    """float32 [B, T, V]; training computes log-probabilities in chunks instead."""
    hidden_BTD, _ = self(tokens, segment_ids, positions)
    return jnp.einsum('btd,dv->btv', hidden_BTD, self.head_DV.astype(self.dtype), preferred_element_type=jnp.float32)


def init_params(model: Transformer, key: jax.Array):
  """Boxed parameters (with logical axis names) of a model; they do not depend on the length of the example."""
  example = jnp.zeros((1, 2), jnp.int32)
  # Without a mesh, because so short an example could not be split over one.
  with jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), ())):
    return model.init(key, example, example, example)['params']


def model_config(config) -> ModelConfig:
  """ModelConfig from the `model` section of an experiment; raises UserError for an unknown key."""
  fields = {field.name for field in dataclasses.fields(ModelConfig)}
  for key in config:
    if key not in fields:
      raise UserError(f'config: model.{key} does not exist{nearest(key, fields)}')
  return ModelConfig(**config.to_dict())


def of_stage(config) -> Transformer:
  """The module of an experiment; raises UserError for an unknown key, dtype, remat policy or transport."""
  train = config.train
  if train.dtype not in ('bfloat16', 'float32'):
    raise UserError(f'config: train.dtype must be "bfloat16" or "float32", got "{train.dtype}"')
  return Transformer(model_config(config.model), jnp.dtype(train.dtype), train.remat, train.context_transport)
