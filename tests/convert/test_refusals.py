"""A checkpoint that contradicts its config.json, or that this model cannot run, is refused in one line."""

import dataclasses
import json
import re
import shutil

import jax
import numpy as np
import pytest

from iquest_jax.convert import files, hf
from iquest_jax.errors import UserError

from tests.model.small_models import DENSE, LOOP, random_params, write_checkpoint

CONFIG_FAULTS = {
    'unknown architecture': ({'architectures': ['IQuestCodrForCausalLM']}, 'did you mean "IQuestCoderForCausalLM"'),
    'no architecture': ({'drop': ['architectures']}, 'architectures must be a list of one name'),
    'two architectures': ({'architectures': ['LlamaForCausalLM'] * 2}, 'must be a list of one name'),
    'foreign model type': ({'model_type': 'qwen2'}, 'must be "iquestcoder" or "llama", got "qwen2"'),
    'Llama with the loop type': (
        {'architectures': ['LlamaForCausalLM'], 'model_type': 'iquestloopcoder'}, 'must be "llama"'),
    'dense with passes': ({'loop_num': 2}, 'with loop_num 2'),
    'tied embeddings': ({'tie_word_embeddings': True}, 'tie_word_embeddings is not supported, got True'),
    'attention bias': ({'attention_bias': True}, 'attention_bias is not supported'),
    'mlp bias': ({'mlp_bias': True}, 'mlp_bias is not supported'),
    'clipping': ({'clip_qkv': 0.0}, 'clip_qkv is not supported, got 0.0'),
    'sliding window': ({'sliding_window': 4096}, 'sliding window is not supported'),
    'sliding window switched on': ({'sliding_window': 4096, 'use_sliding_window': True}, 'sliding window is not supported'),
    'sliding layers': ({'layer_types': ['full_attention', 'sliding_attention']}, 'sliding window is not supported'),
    'scaled rotation': ({'rope_scaling': {'type': 'yarn', 'factor': 4.0}}, 'rope_scaling with scaling'),
    'scaled rotation, new form': ({'rope_parameters': {'rope_type': 'llama3'}}, 'rope_parameters with scaling'),
    'two bases': ({'rope_parameters': {'rope_type': 'default', 'rope_theta': 1e4}}, 'one positive number, got [500.0'),
    'no base': ({'drop': ['rope_theta']}, 'rope_theta must be one positive number, got none'),
    'quantised': ({'quantization': {'bits': 4}}, 'quantization is not supported'),
    'quantised, the usual key': (
        {'quantization_config': {'quant_method': 'fp8'}}, 'quantization_config is not supported'),
    'other activation': ({'hidden_act': 'gelu'}, 'hidden_act must be "silu", got "gelu"'),
    'no width': ({'drop': ['hidden_size']}, 'hidden_size must be a positive integer, got null'),
    'text for a number': ({'num_hidden_layers': '3'}, 'num_hidden_layers must be a positive integer, got "3"'),
    'negative epsilon': ({'rms_norm_eps': -1e-5}, 'rms_norm_eps must be a positive number, got -1e-05'),
    'heads that do not divide': ({'num_key_value_heads': 3}, 'heads must be a multiple of kv_heads = 3, got 4'),
    'narrower feed-forward': ({'intermediate_size': 39}, 'down_proj.weight must be (24, 39) by config.json, got (24, 40)'),
    'fewer layers': ({'num_hidden_layers': 2}, 'model.layers.2.input_layernorm.weight is unexpected (and 8 more)'),
    'more layers': ({'num_hidden_layers': 4}, 'model.layers.3.input_layernorm.weight is missing (and 8 more)'),
}
BIAS = {'model.layers.0.self_attn.q_proj.bias': np.zeros(32)}
TENSOR_FAULTS = {
    'bias': ({'tensors': BIAS}, 'q_proj.bias is unexpected'),
    'missing head': ({'drop': ['lm_head.weight']}, 'lm_head.weight is missing'),
    'transposed head': ({'tensors': {'lm_head.weight': np.zeros((24, 61))}}, 'must be (61, 24) by config.json, got (24'),
    'whole numbers': ({'dtype': np.int8}, 'must be one of F32, BF16, F16, got I8'),
}
RELABELLED = {'architectures': ['LlamaForCausalLM'], 'model_type': 'llama', 'drop': ['loop_num', 'loop_window_size']}
LOOP_FAULTS = {
    'relabelled as Llama': (RELABELLED, 'a loop checkpoint relabelled as dense'),
    'relabelled, passes left': (RELABELLED | {'drop': []}, 'LlamaForCausalLM" with loop_num 2'),
    'one pass': ({'loop_num': 1}, 'with loop_num 1'),
    'no number of passes': ({'drop': ['loop_num']}, 'loop_num must be a positive integer, got null'),
    'no window': ({'drop': ['loop_window_size']}, 'loop_window_size must be a positive integer, got null'),
    'no gates': (
        {'drop': [f'model.gate_projections.{n}.{name}' for n in range(3) for name in ('weight', 'bias')]},
        'the files hold no gate tensors'),
    'one gate missing': ({'drop': ['model.gate_projections.1.bias']}, 'gate_projections.1.bias is missing'),
}  # fmt: skip


@pytest.mark.parametrize('fault', CONFIG_FAULTS | TENSOR_FAULTS | LOOP_FAULTS)
def test_a_contradictory_checkpoint_is_refused_in_one_line(fault, tmp_path):
  changes, message = (CONFIG_FAULTS | TENSOR_FAULTS | LOOP_FAULTS)[fault]
  write_checkpoint(tmp_path / 'in', LOOP if fault in LOOP_FAULTS else DENSE, **changes)
  with pytest.raises(UserError, match=re.escape(message)) as refusal:
    hf.from_hf(tmp_path / 'in')
  assert str(refusal.value).startswith(str(tmp_path / 'in')) and '\n' not in str(refusal.value)


@pytest.mark.parametrize(
    'changes',
    [
        {'architectures': ['LlamaForCausalLM'], 'model_type': 'llama'},
        {'architectures': ['IQuestCoderForCausalLM'], 'model_type': 'llama'},
        {'clip_qkv': None, 'sliding_window': 4096, 'use_sliding_window': False, 'quantization_config': None},
        {'rope_scaling': None, 'rope_parameters': {'rope_theta': 500.0, 'rope_type': 'default'}},
        {'drop': ['initializer_range', 'head_dim'], 'tensors': {}},
    ],
    ids=str,
)
def test_other_spellings_of_the_same_model_are_accepted(changes, tmp_path):
  model = dataclasses.replace(DENSE, d_model=32) if 'drop' in changes else DENSE
  read, params = hf.from_hf(write_checkpoint(tmp_path / 'in', model, **changes))
  assert read == dataclasses.replace(model, loop_window=type(model).loop_window)
  jax.tree.map(np.testing.assert_array_equal, params, random_params(model))


def shards(folder, *names):
  (folder / files.INDEX).write_text(json.dumps({'weight_map': dict(enumerate(names))}))


# name -> (how to damage config.json, the weights or the folder; what the error says)
DAMAGE = {
    'no config': (lambda config, *_: config.unlink(), 'give the folder of a Hugging Face checkpoint'),
    'config cut short': (lambda config, *_: config.write_text('{"architectures": ['), 'not JSON'),
    'config of another kind': (lambda config, *_: config.write_text('[1]'), 'must hold a JSON object, got a list'),
    'no weights': (lambda _, weights, __: weights.unlink(), 'model.safetensors: missing or damaged'),
    'weights cut short': (
        lambda _, weights, __: weights.write_bytes(weights.read_bytes()[:-100]),
        'model.safetensors: missing or damaged',
    ),
    'shard missing': (lambda *args: shards(args[2], 'model-1.safetensors'), 'model-1.safetensors: missing or damaged'),
    'index cut short': (lambda *args: (args[2] / files.INDEX).write_text('{'), 'not an index of shards'),
    'index of another kind': (lambda *args: (args[2] / files.INDEX).write_text('[]'), 'not an index of shards'),
    'shard outside': (lambda *args: shards(args[2], '../a.safetensors'), 'shard "../a.safetensors" is not a file name'),
    'tensor twice': (
        lambda _, weights, folder: shards(folder, weights.name, shutil.copy(weights, folder / 'b.safetensors').name),
        'is in both b.safetensors and model.safetensors',
    ),
}


@pytest.mark.parametrize('what', DAMAGE)
def test_missing_and_damaged_files_are_named(what, tmp_path):
  damage, message = DAMAGE[what]
  folder = write_checkpoint(tmp_path / 'in', DENSE)
  damage(folder / 'config.json', folder / files.SINGLE, folder)
  with pytest.raises(UserError, match=re.escape(message)) as refusal:
    hf.from_hf(folder)
  assert str(refusal.value).startswith(str(folder)) and '\n' not in str(refusal.value)


def test_a_missing_folder_is_named(tmp_path):
  with pytest.raises(UserError, match='No such file or directory; give the folder of a Hugging Face checkpoint'):
    hf.from_hf(tmp_path / 'nowhere')


def test_a_file_that_is_cut_while_it_is_imported_is_named(tmp_path):
  folder = write_checkpoint(tmp_path / 'in', DENSE)
  sources = hf.sources(folder)[1]
  weights = folder / files.SINGLE
  weights.write_bytes(weights.read_bytes()[:5000])
  with pytest.raises(UserError, match='model.safetensors: missing or damaged .*; fetch the file again') as refusal:
    jax.tree.map(lambda leaf: leaf.read(0, leaf.shape[leaf.axis]), sources)
  assert '\n' not in str(refusal.value)
