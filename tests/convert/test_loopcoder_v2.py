"""Checkpoints of LoopCoder-v2: gates that lie in their layers and read a norm of their own."""

import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from iquest_jax.convert import files, hf
from iquest_jax.errors import UserError

from tests.model.small_models import LOOP, RESCALED, published, random_params, write_checkpoint

CONFIG = {
    'architectures': ['IQuestPLTCoderForCausalLM'],
    'model_type': 'iquestpltcoder',
    'plt_num_loops': 2,
    'plt_window_size': [5, 0],
    'plt_normalize_per_loop': True,
    'plt_emb_scale': 0.707,
    'plt_hidden_scale': 0.053,
    'plt_gate_use_hidden_states': True,
}


def write_v2(folder, module='plt_gate', **config):
  """Writes a checkpoint in the layout of LoopCoder-v2; returns its tensors by published name."""
  tensors, described = published(RESCALED, random_params(RESCALED))
  for n in range(RESCALED.layers):
    gate, attention = f'model.gate_projections.{n}', f'model.layers.{n}.self_attn.{module}'
    tensors |= {f'{attention}.{name}': tensors.pop(f'{gate}.{name}') for name in ('weight', 'bias')}
    scale = 1 + 0.2 * np.random.default_rng(n).standard_normal(RESCALED.d_model, np.float32)
    tensors[f'{attention}.gate_norm.weight'] = scale
  described = {key: value for key, value in described.items() if not key.startswith('loop_')} | CONFIG | config
  folder.mkdir()
  save_file({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, folder / files.SINGLE)
  (folder / 'config.json').write_text(json.dumps({key: value for key, value in described.items() if value != 'absent'}))
  return tensors


@pytest.mark.parametrize('module', ['plt_gate', 'loop_gate_proj'])
def test_the_gates_of_v2_are_imported_under_either_name(module, tmp_path):
  tensors = write_v2(tmp_path / 'in', module)
  model, params = hf.from_hf(tmp_path / 'in')
  assert model == RESCALED
  wanted = random_params(RESCALED)
  attention = params['layers']['attention']
  # A gate reads the hidden state after a norm of its own; ours reads it after that of its layer.
  hidden = np.random.default_rng(0).standard_normal((7, RESCALED.d_model))
  normalised = hidden / np.sqrt(np.mean(np.square(hidden), -1, keepdims=True) + RESCALED.norm_eps)
  for n in range(RESCALED.layers):
    gate = f'model.layers.{n}.self_attn.{module}'
    theirs = (normalised * tensors[f'{gate}.gate_norm.weight']) @ tensors[f'{gate}.weight'].T
    ours = (normalised * params['layers']['attention_norm']['scale'][n]) @ attention['gate_weight'][n].T
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)
    assert np.abs(ours).max() > 1
  attention['gate_weight'] = wanted['layers']['attention']['gate_weight']
  jax.tree.map(np.testing.assert_array_equal, params, wanted)


def test_gates_in_their_layers_are_those_of_a_released_loop_too(tmp_path):
  folder = write_checkpoint(tmp_path / 'in', LOOP)
  tensors = load_file(folder / files.SINGLE)
  moved = {name.replace('model.gate_projections.1', 'model.layers.1.self_attn.loop_gate_proj'): tensor
           for name, tensor in tensors.items()}  # fmt: skip
  assert moved.keys() != tensors.keys()
  save_file(moved, folder / files.SINGLE)
  model, params = hf.from_hf(folder)
  assert model == LOOP
  jax.tree.map(np.testing.assert_array_equal, params, random_params(LOOP))


@pytest.mark.parametrize(
    ('config', 'message'),
    [
        ({'plt_emb_scale': None}, 'plt_emb_scale must be 0.707, got null'),
        ({'plt_normalize_per_loop': 'absent'}, 'plt_normalize_per_loop must be true, got null'),
        ({'plt_hidden_scale': 1.0}, 'plt_hidden_scale must be 0.053, got 1.0'),
        ({'plt_gate_use_hidden_states': False}, 'plt_gate_use_hidden_states must be true, got false'),
        ({'plt_window_size': [5, 1]}, r'plt_window_size must be \[keys, 0\], got \[5, 1\]'),
        ({'plt_num_loops': None}, 'plt_num_loops must be a positive integer, got null'),
        ({'plt_num_loops': 1}, 'with loop_num 1'),
    ],
)
def test_another_variant_of_v2_is_refused(config, message, tmp_path):
  write_v2(tmp_path / 'in', **config)
  with pytest.raises(UserError, match=f'config.json: .*{message}'):
    hf.from_hf(tmp_path / 'in')


def test_a_gate_whose_norm_cannot_be_merged_is_refused(tmp_path):
  tensors = write_v2(tmp_path / 'in')
  tensors['model.layers.1.input_layernorm.weight'][3] = 0
  save_file({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, tmp_path / 'in' / files.SINGLE)
  with pytest.raises(UserError, match='layers.1.self_attn.plt_gate.gate_norm.weight cannot be merged into the gate'):
    hf.from_hf(tmp_path / 'in')


def test_gates_without_their_norms_are_refused(tmp_path):
  tensors = write_v2(tmp_path / 'in')
  del tensors['model.layers.2.self_attn.plt_gate.gate_norm.weight']
  save_file({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, tmp_path / 'in' / files.SINGLE)
  with pytest.raises(UserError, match=r'tensor model.gate_projections.2.gate_norm.weight is missing \(and 0 more\)'):
    hf.from_hf(tmp_path / 'in')
