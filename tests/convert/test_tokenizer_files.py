"""An export carries the tokenizer of its chain; an import adopts one only if it encodes chats as rows were made."""

import dataclasses
import json

import pytest

from iquest_jax.convert import hf, tokenizer_files
from iquest_jax.errors import UserError
from iquest_jax.text.tokenizer import SPECIAL, Tokenizer

from tests.model.small_models import LOOP, leaves, random_params

TOKENIZER = Tokenizer.train(['def f(x):\n  return x + 1\n'] * 3, 300)
MODEL = dataclasses.replace(LOOP, vocab=304)


def pieces(params):
  return ((path, 0, leaf) for path, leaf in leaves(params))


@pytest.fixture(scope='module')
def exported(tmp_path_factory):
  folder = tmp_path_factory.mktemp('exported') / 'out'
  hf.to_hf(MODEL, pieces(random_params(MODEL)), folder, tokenizer=TOKENIZER)
  return folder


def test_an_export_holds_all_files_that_other_tools_read(exported):
  assert {path.name for path in exported.iterdir()} == {
      'model.safetensors', 'config.json', 'generation_config.json', 'tokenizer.json', 'tokenizer_config.json',
      'special_tokens_map.json',
  }  # fmt: skip
  assert (exported / 'tokenizer.json').read_text() == TOKENIZER.to_str()
  read = lambda name: json.loads((exported / name).read_text())
  # </s>, <|im_end|> and <|endoftext|> end a text, as in the released checkpoints.
  ids = {'bos_token_id': 1, 'eos_token_id': [2, 4, 5], 'pad_token_id': 5}
  assert read('generation_config.json') == ids
  assert ids.items() <= read('config.json').items()
  special, config = read('special_tokens_map.json'), read('tokenizer_config.json')
  assert special.items() <= config.items() and not config['add_bos_token']
  assert special['eos_token'] == '<|im_end|>' and special['bos_token'] == '<s>'
  listed = {special['eos_token'], special['pad_token'], *special['additional_special_tokens']}
  assert listed == set(SPECIAL)
  assert config['model_max_length'] == MODEL.max_context and '<tool_call>' in config['chat_template']


def test_the_tokenizer_of_an_export_is_adopted(exported, tmp_path):
  assert tokenizer_files.read(exported, MODEL).fingerprint == TOKENIZER.fingerprint
  assert tokenizer_files.read(tmp_path, MODEL) is None


def test_a_tokenizer_of_another_vocabulary_is_refused_both_ways(exported, tmp_path):
  ids = TOKENIZER.vocab_size
  smaller = dataclasses.replace(MODEL, vocab=ids - 1)
  with pytest.raises(UserError, match=f'tokenizer.json: the tokenizer has {ids} ids, but the model knows {ids - 1}; '):
    tokenizer_files.read(exported, smaller)
  with pytest.raises(UserError, match=f'export: the tokenizer has {ids} ids, but the model knows {ids - 1}; '):
    hf.to_hf(smaller, pieces(random_params(smaller)), tmp_path / 'out', tokenizer=TOKENIZER)
  assert not list(tmp_path.iterdir())


def test_a_tokenizer_without_a_reserved_token_is_refused(tmp_path):
  # The model refers to <unk> by its name, so only the ends can be absent.
  (tmp_path / 'tokenizer.json').write_text(TOKENIZER.to_str().replace('"</s>"', '"<end>"'))
  with pytest.raises(UserError, match='tokenizer.json: the token </s> is missing; '):
    tokenizer_files.read(tmp_path, MODEL)


def test_a_tokenizer_that_joins_segments_otherwise_than_text_is_refused(tmp_path):
  content = json.loads(TOKENIZER.to_str())
  content['pre_tokenizer']['pretokenizers'][1]['add_prefix_space'] = True
  (tmp_path / 'tokenizer.json').write_text(json.dumps(content))
  with pytest.raises(UserError, match='encodes a chat to other tokens whole .* than in segments') as refusal:
    tokenizer_files.read(tmp_path, MODEL)
  assert '\n' not in str(refusal.value)


def test_a_dense_model_can_be_named_llama_and_a_loop_cannot(tmp_path):
  dense = dataclasses.replace(MODEL, loops=1)
  for architecture, name in (('', 'IQuestCoderForCausalLM'), ('llama', 'LlamaForCausalLM')):
    hf.to_hf(dense, pieces(random_params(dense)), tmp_path / name, architecture=architecture)
    assert json.loads((tmp_path / name / 'config.json').read_text())['architectures'] == [name]
    assert hf.sources(tmp_path / name)[0].vocab == dense.vocab
  with pytest.raises(UserError, match='architecture must be left out for a loop, got "llama"'):
    hf.to_hf(MODEL, pieces(random_params(MODEL)), tmp_path / 'out', architecture='llama')
  with pytest.raises(UserError, match='architecture "lama" does not exist; did you mean "llama"'):
    hf.to_hf(dense, pieces(random_params(dense)), tmp_path / 'out', architecture='lama')
