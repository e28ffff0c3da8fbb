"""Small models with random parameters, and the same parameters under published names.

All dimensions differ (24 wide, 4 heads of 8 = 32), so that none can be mistaken for another.
"""

import dataclasses
import functools
import json

import jax
import numpy as np
from safetensors.numpy import save_file

from iquest_jax.checkpoint.fingerprint import leaf_path
from iquest_jax.checkpoint.restore import abstract_params
from iquest_jax.model.sizes import ModelConfig
from iquest_jax.model.transformer import Transformer

DENSE = ModelConfig(
    vocab=61, d_model=24, d_ff=40, layers=3, heads=4, kv_heads=2, head_dim=8, max_context=64, rope_theta=500.0,
    loop_window=5,
)  # fmt: skip
LOOP = dataclasses.replace(DENSE, loops=2)
LOOP3 = dataclasses.replace(DENSE, loops=3)
RESCALED = dataclasses.replace(DENSE, loops=2, loop_variant='rescaled')


def random_params(config, seed=0):
  """float32 numpy parameters, large enough that every part of the model, especially the gates, affects the logits."""
  rng = np.random.default_rng(seed)

  def draw(path, leaf):
    noise = rng.standard_normal(leaf.shape, np.float32)
    name = jax.tree_util.keystr(path)
    if 'norm' in name:
      return 1 + 0.1 * noise
    if 'gate_' in name:
      return 0.4 * noise
    return noise if 'embedding' in name else noise / np.float32(np.sqrt(config.d_model))

  return jax.tree_util.tree_map_with_path(draw, _abstract_params(config))


def leaves(params):
  """[(path, array)] in order of path, like `Checkpoints.leaves`."""
  return [(leaf_path(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(params)]


_abstract_params = functools.cache(abstract_params)


def forward(config, params, tokens, segment_ids=None, positions=None, method='logits', dtype='float32'):
  """Runs the model on rows [B, T]; by default a row is one document."""
  tokens = np.atleast_2d(tokens)
  if positions is None:
    positions = np.broadcast_to(np.arange(tokens.shape[1], dtype=np.int32), tokens.shape)
  if segment_ids is None:
    segment_ids = np.ones_like(tokens)
  return _apply(config, method, dtype, params, tokens, segment_ids, positions)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _apply(config, method, dtype, params, *row):
  return Transformer(config, dtype).apply({'params': params}, *row, method=method)


def published(model, params):
  """(tensors by published name, config.json as a dict), written by hand and in the precision of `params`.

  So neither the numpy forward nor the tests of the converter depend on the converter.
  """
  layers = params['layers']
  attention, mlp = layers['attention'], layers['mlp']
  tensors = {
      'model.embed_tokens.weight': params['embedder']['embedding'],
      'model.norm.weight': params['final_norm']['scale'],
      'lm_head.weight': params['head'].T,
  }
  for n in range(model.layers):
    tensors |= {
        f'model.layers.{n}.input_layernorm.weight': layers['attention_norm']['scale'][n],
        f'model.layers.{n}.post_attention_layernorm.weight': layers['mlp_norm']['scale'][n],
        f'model.layers.{n}.self_attn.q_proj.weight': attention['query'][n].reshape(model.d_model, -1).T,
        f'model.layers.{n}.self_attn.k_proj.weight': attention['key'][n].reshape(model.d_model, -1).T,
        f'model.layers.{n}.self_attn.v_proj.weight': attention['value'][n].reshape(model.d_model, -1).T,
        f'model.layers.{n}.self_attn.o_proj.weight': attention['output'][n].reshape(-1, model.d_model).T,
        f'model.layers.{n}.mlp.gate_proj.weight': mlp['gate'][n].T,
        f'model.layers.{n}.mlp.up_proj.weight': mlp['up'][n].T,
        f'model.layers.{n}.mlp.down_proj.weight': mlp['down'][n].T,
    }
    if model.loops > 1:
      tensors[f'model.gate_projections.{n}.weight'] = attention['gate_weight'][n]
      tensors[f'model.gate_projections.{n}.bias'] = attention['gate_bias'][n]
  config = {
      'vocab_size': model.vocab,
      'hidden_size': model.d_model,
      'intermediate_size': model.d_ff,
      'num_hidden_layers': model.layers,
      'num_attention_heads': model.heads,
      'num_key_value_heads': model.kv_heads,
      'head_dim': model.head_dim,
      'max_position_embeddings': model.max_context,
      'rope_theta': model.rope_theta,
      'rms_norm_eps': model.norm_eps,
      'initializer_range': model.init_std,
      'architectures': ['IQuestCoderForCausalLM'],
      'model_type': 'iquestcoder',
  }
  if model.loops > 1:
    config |= {'loop_num': model.loops, 'loop_window_size': model.loop_window}
    config |= {'architectures': ['IQuestLoopCoderForCausalLM'], 'model_type': 'iquestloopcoder'}
  return tensors, config


def write_checkpoint(folder, model, dtype=np.float32, drop=(), tensors=None, **config):
  """Writes a published checkpoint of a small model; `tensors` and `config` change it, `drop` removes keys."""
  arrays, described = published(model, random_params(model))
  arrays = {name: np.ascontiguousarray(array, dtype) for name, array in (arrays | (tensors or {})).items()}
  folder.mkdir(exist_ok=True)
  save_file({name: array for name, array in arrays.items() if name not in drop}, folder / 'model.safetensors')
  described = {key: value for key, value in (described | config).items() if key not in drop}
  (folder / 'config.json').write_text(json.dumps(described))
  return folder
