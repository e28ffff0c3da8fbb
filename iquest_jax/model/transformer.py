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
from iquest_jax.model.attention import Attention, Past
from iquest_jax.model.cache import Cache
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
    'dots': jax.checkpoint_policies.save_only_these_names('product'),
}


class Block(nn.Module):
  """One layer: x + attention(norm(x)), then x + mlp(norm(x))."""

  config: ModelConfig
  dtype: jnp.dtype
  context_transport: str
  keep_keys: bool

  @nn.compact
  def __call__(self, x_BTD, ids: Ids, first_kv, past: Past | None, layer):
    """Returns (x_BTD, ((k, v) if they are needed, mean gate of a later pass)).

    Args:
      first_kv: None in the first pass, its (k, v) in later passes.
      past: None if the rows are whole, else the cached keys of all layers.
      layer: int32 index of this one among them.
    """
    c = self.config
    x_BTD = checkpoint_name(x_BTD, 'layer_input')
    normed_BTD = RMSNorm(c.norm_eps, name='attention_norm')(x_BTD)
    # Ids are the same in every layer and pass, so keys and values alone are stacked over layers.
    first = None if first_kv is None else Keys(*first_kv, ids)
    attend = Attention(c, self.dtype, self.context_transport, name='attention')
    out_BTD, keys, gate = attend(normed_BTD, ids, first, past, layer)
    x_BTD = x_BTD + out_BTD
    x_BTD = x_BTD + Mlp(c, self.dtype, name='mlp')(RMSNorm(c.norm_eps, name='mlp_norm')(x_BTD))
    x_BTD = sharding.constrain(x_BTD, 'batch', 'sequence', 'activation')
    needed = self.keep_keys or (c.loops > 1 and gate is None)
    return x_BTD, ((keys.k, keys.v) if needed else None, gate)


class Transformer(nn.Module):
  """Dense (loops = 1) or looped transformer.

  Parameters: embedder/embedding [V, D]; layers/{attention/{query, key, value, output, gate_weight, gate_bias},
  mlp/{gate, up, down}, attention_norm, mlp_norm}, each with a leading L; final_norm/scale [D]; head [D, V].

  Attributes:
    config: the architecture.
    dtype: of computation; parameters are float32.
    remat: what is saved for the backward pass, a name in REMAT_POLICIES.
    context_transport: how keys and values travel if rows are split, a name in parallel.context.TRANSPORTS.
    keep_keys: whether `extend` can return the keys of every pass, for decoding.
  """

  config: ModelConfig
  dtype: jax.typing.DTypeLike = jnp.bfloat16
  remat: str = 'none'
  context_transport: str = 'all_gather'
  keep_keys: bool = False

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
        in_axes=(nn.broadcast, 0, nn.broadcast, 0),
        length=c.layers,
        metadata_params={nn.PARTITION_NAME: 'layers'},
    )(c, self.dtype, self.context_transport, self.keep_keys)
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
    hidden_BTD, diagnostics, _ = self._passes(tokens, Ids(segment_ids, positions), None)
    return hidden_BTD, diagnostics

  def extend(self, tokens, ids: Ids, cache: Cache | None):
    """Hidden states of tokens that follow those in a cache, and what to write into it; needs `keep_keys`.

    Args:
      tokens: int32 [B, T].
      ids: Ids [B, T]; segment id 1, or 0 for padding, and positions after those of the slot.
      cache: None if the rows are whole.

    Returns:
      (hidden [B, T, D], [(k, v) [L, B, T, G, K]] per pass).
    """
    hidden_BTD, _, passes = self._passes(tokens, ids, cache)
    return hidden_BTD, passes

  def _passes(self, tokens, ids, cache):
    c = self.config
    far = cache and Keys(*cache.far, cache.far_ids())
    near = [Keys(*kv, cache.near_ids()) for kv in cache.near] if cache else [None] * (c.loops - 1)
    past = lambda near: cache and Past(far, near)
    layers = cache and jnp.arange(c.layers)
    embedded_BTD = sharding.constrain(self.embedder(tokens), 'batch', 'sequence', 'activation')
    # The identity, unless a caller passes perturbations to take the gradient of it (train/health/recompute.py).
    embedded_BTD = self.perturb('embedded', embedded_BTD)
    x_BTD, (first_kv, _) = self.layers(embedded_BTD, ids, None, past(None), layers)
    changes, gates, passes = [], [], [first_kv]
    for past_near in near:
      start_BTD = reenter(c.loop_variant, x_BTD, embedded_BTD, self.final_norm, c.loop_gradient_scale)
      x_BTD, (kv, gate_L) = self.layers(start_BTD, ids, first_kv, past(past_near), layers)
      changes.append(relative_change(start_BTD, x_BTD, ids.segment_ids))
      gates.append(jnp.mean(gate_L))
      passes.append(kv)
    diagnostics = {'loop_change': jnp.stack(changes), 'loop_gate': jnp.stack(gates)} if changes else {}
    return self.final_norm(x_BTD), diagnostics, passes

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
