"""config.json of a published checkpoint, read and written: the architecture it names and the shape of the model.

A key that would change the computation in a way this model does not support is refused, because a misread checkpoint
still writes fluent text.
"""

import json
import pathlib
from typing import Any

from iquest_jax.errors import UserError, check_name, nearest
from iquest_jax.model.loop import RESCALED_EMBEDDING, RESCALED_HIDDEN
from iquest_jax.model.sizes import ModelConfig

# architecture -> (looped, model types it is published under; we write the first).
ARCHITECTURES = {
    'IQuestCoderForCausalLM': (False, ('iquestcoder', 'llama')),
    'IQuestLoopCoderForCausalLM': (True, ('iquestloopcoder',)),
    'IQuestPLTCoderForCausalLM': (True, ('iquestpltcoder',)),  # LoopCoder-v2
    'LlamaForCausalLM': (False, ('llama',)),
}

# ours -> theirs; the order is the order in the file.
_SHAPE = {
    'vocab': 'vocab_size',
    'd_model': 'hidden_size',
    'd_ff': 'intermediate_size',
    'layers': 'num_hidden_layers',
    'heads': 'num_attention_heads',
    'kv_heads': 'num_key_value_heads',
    'head_dim': 'head_dim',
    'max_context': 'max_position_embeddings',
}
_LOOP = {'loops': 'loop_num', 'loop_window': 'loop_window_size'}
_REAL = {'norm_eps': 'rms_norm_eps', 'init_std': 'initializer_range'}
# LoopCoder-v2: what the rescaled variant computes.
_RESCALED = {
    'plt_emb_scale': RESCALED_EMBEDDING,
    'plt_hidden_scale': RESCALED_HIDDEN,
    'plt_normalize_per_loop': True,
    'plt_gate_use_hidden_states': True,
}

# Each would change the computation; the released checkpoints have none of them.
_MUST_BE_OFF = ('attention_bias', 'clip_qkv', 'mlp_bias', 'quantization', 'quantization_config', 'tie_word_embeddings')


def read(path: pathlib.Path) -> ModelConfig:
  """The model a config.json describes; raises UserError if it is unreadable, incomplete or describes another kind."""
  config = _read_object(path)
  looped = _architecture(path, config)
  for key in _MUST_BE_OFF:
    if _is_on(config.get(key)):
      raise UserError(f'{path}: {key} is not supported, got {config[key]}; import a checkpoint without it')
  if config.get('hidden_act', 'silu') != 'silu':
    raise UserError(f'{path}: hidden_act must be "silu", got "{config["hidden_act"]}"')
  if _slides(config):
    raise UserError(f'{path}: a sliding window is not supported; every layer of this model sees the whole context')
  # Llama's own defaults, for configurations older than these two keys.
  config.setdefault('num_key_value_heads', config.get('num_attention_heads'))
  if 'head_dim' not in config:
    config['head_dim'] = _whole(path, config, 'hidden_size') // _whole(path, config, 'num_attention_heads')
  fields = {ours: _whole(path, config, theirs) for ours, theirs in _SHAPE.items()}
  config.setdefault('initializer_range', ModelConfig.init_std)
  fields |= {ours: _real(path, config, theirs) for ours, theirs in _REAL.items()}
  fields['rope_theta'] = _rope_theta(path, config)
  if config['model_type'] == 'iquestpltcoder':
    config |= _rescaled(path, config)
    fields['loop_variant'] = 'rescaled'
  loops = config.get('loop_num', 1)
  if looped:
    fields |= {ours: _whole(path, config, theirs) for ours, theirs in _LOOP.items()}
  if looped != (loops != 1):
    raise UserError(
        f'{path}: architecture "{config["architectures"][0]}" with loop_num {loops}; a loop checkpoint must be '
        'IQuestLoopCoderForCausalLM with at least two passes, a dense one must have no loop_num'
    )
  try:
    return ModelConfig(**fields)
  except UserError as error:
    raise UserError(f'{path}: {error}') from error


def of(model: ModelConfig, dtype: str, architecture: str = '') -> dict[str, Any]:
  """The config.json of a model; `dtype` is that of the stored tensors, `architecture` as hf.to_hf takes it.

  Raises:
    UserError: the model is not published in this form.
  """
  if model.loops > 1 and model.loop_variant != 'released':
    raise UserError(
        f'export: loop_variant "{model.loop_variant}" has no published format; only "released" loops can be exported'
    )
  if architecture:
    check_name('export: architecture', architecture, ['llama'])
    if model.loops > 1:
      raise UserError('export: architecture must be left out for a loop, got "llama"; Llama has one pass')
  name = {'llama': 'LlamaForCausalLM', '': 'IQuestCoderForCausalLM'}[architecture]
  name = 'IQuestLoopCoderForCausalLM' if model.loops > 1 else name
  config: dict[str, Any] = {'architectures': [name], 'model_type': ARCHITECTURES[name][1][0]}
  table = _SHAPE | {'rope_theta': 'rope_theta'} | _REAL | (_LOOP if model.loops > 1 else {})
  config |= {theirs: getattr(model, ours) for ours, theirs in table.items()}
  config |= {'hidden_act': 'silu', 'attention_bias': False, 'mlp_bias': False, 'tie_word_embeddings': False}
  return config | {'torch_dtype': dtype}


def _read_object(path: pathlib.Path) -> dict[str, Any]:
  """A JSON object from a file."""
  try:
    value = json.loads(path.read_text())
  except OSError as error:
    raise UserError(f'{path}: {error.strerror}; give the folder of a Hugging Face checkpoint') from error
  except ValueError as error:
    raise UserError(f'{path}: not JSON ({error}); fetch the file again') from error
  if not isinstance(value, dict):
    raise UserError(f'{path}: must hold a JSON object, got a {type(value).__name__}; fetch the file again')
  return value


def _architecture(path: pathlib.Path, config: dict[str, Any]) -> bool:
  """Whether the named architecture is the looped one."""
  names = config.get('architectures')
  if not isinstance(names, list) or len(names) != 1 or not isinstance(names[0], str):
    raise UserError(f'{path}: architectures must be a list of one name, as ["IQuestCoderForCausalLM"], got {names}')
  if names[0] not in ARCHITECTURES:
    raise UserError(f'{path}: architecture "{names[0]}" cannot be imported{nearest(names[0], ARCHITECTURES)}')
  looped, model_types = ARCHITECTURES[names[0]]
  if config.get('model_type') not in model_types:
    wanted = ' or '.join(f'"{model_type}"' for model_type in model_types)
    raise UserError(f'{path}: model_type of "{names[0]}" must be {wanted}, got "{config.get("model_type")}"')
  return looped


def _rescaled(path: pathlib.Path, config: dict[str, Any]) -> dict[str, Any]:
  """The keys of the released loop from those of LoopCoder-v2; raises UserError if it computes something else."""
  for key, value in _RESCALED.items():
    if config.get(key) != value:
      raise UserError(f'{path}: {key} must be {json.dumps(value)}, got {json.dumps(config.get(key))}')
  window = config.get('plt_window_size')
  if not isinstance(window, list) or len(window) != 2 or window[1] != 0:
    raise UserError(f'{path}: plt_window_size must be [keys, 0], got {json.dumps(window)}')
  # Public inference reads it as the number of keys, that of the token itself included.
  return {'loop_num': _whole(path, config, 'plt_num_loops'), 'loop_window_size': window[0]}


def _is_on(value: Any) -> bool:
  """Whether a key is set; zero counts as set, since clipping at 0 is clipping."""
  return value is not None and value is not False


def _slides(config: dict[str, Any]) -> bool:
  """Whether any layer would see less than the whole context; a window without its switch counts as on."""
  switch = config.get('use_sliding_window', config.get('sliding_window'))
  return _is_on(switch) or any(kind != 'full_attention' for kind in config.get('layer_types') or ())


def _whole(path: pathlib.Path, config: dict[str, Any], key: str) -> int:
  value = config.get(key)
  if type(value) is not int or value < 1:
    raise UserError(f'{path}: {key} must be a positive integer, got {json.dumps(value)}')
  return value


def _real(path: pathlib.Path, config: dict[str, Any], key: str) -> float:
  value = config.get(key)
  if type(value) not in (int, float) or not 0 < value < float('inf'):
    raise UserError(f'{path}: {key} must be a positive number, got {json.dumps(value)}')
  return float(value)


def _rope_theta(path: pathlib.Path, config: dict[str, Any]) -> float:
  """The base of the rotation, from the top level or the newer nested form; raises UserError if it is scaled."""
  thetas = set()
  if 'rope_theta' in config:
    thetas.add(_real(path, config, 'rope_theta'))
  for key in ('rope_scaling', 'rope_parameters'):
    nested = config.get(key)
    if nested is None:
      continue
    plain = isinstance(nested, dict) and nested.get('rope_type', nested.get('type')) == 'default'
    if not plain or nested.keys() - {'rope_theta', 'rope_type', 'type'}:
      raise UserError(f'{path}: {key} with scaling is not supported, got {json.dumps(nested)}')
    if 'rope_theta' in nested:
      thetas.add(_real(path, nested, 'rope_theta'))
  if len(thetas) != 1:
    raise UserError(f'{path}: rope_theta must be one positive number, got {sorted(thetas) or "none"}')
  return thetas.pop()
