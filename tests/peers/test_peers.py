"""An export works in other libraries as it does here: logits, greedy text, tokens of texts and of chats.

They run as programs in an environment of their own, whose interpreter PEERS_PYTHON names (by default this one), load
the folder that to_hf wrote, and answer a request that a file holds.
"""

import itertools
import json
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

from iquest_jax.convert import names
from iquest_jax.convert.hf import from_hf, to_hf
from iquest_jax.data.tiny import packages
from iquest_jax.errors import UserError
from iquest_jax.infer import text
from iquest_jax.infer.engine import Engine
from iquest_jax.model import sizes
from iquest_jax.model.transformer import Transformer
from iquest_jax.text import chat
from iquest_jax.text.example import build
from iquest_jax.text.tokenizer import Tokenizer

from tests.model.small_models import forward, leaves, random_params

HERE = pathlib.Path(__file__).parent
PEER = os.environ.get('PEERS_PYTHON', sys.executable)
LENGTH = 80
# name -> (size, architecture of the export, program of the peer)
PEERS = {
    'mlx-lm, dense': ('tiny', '', 'mlx_peer.py'),
    'mlx-lm, loop': ('tiny_loop', '', 'mlx_peer.py'),
    'transformers, dense': ('tiny', '', 'torch_peer.py'),
    'transformers, dense as Llama': ('tiny', 'llama', 'torch_peer.py'),
}
TOOL = {'name': 'search', 'description': 'é "x" <y>', 'parameters': {'properties': {'n': {'default': 0.5}}}}
CALLS = [
    {'name': 'search', 'arguments': {'pattern': '</tool_call> é\n', 'n': [1, 2.5, None, True], 'more': {}}},
    {'name': 'submit', 'arguments': {}},
]
USER = {'role': 'user', 'content': "\n\n  What's 12 + 34?\n\tx = 1 \n\n"}
FOUND = {'role': 'tool', 'content': '\n 3 hits\n'}
SAID = {'role': 'assistant', 'content': 'It is 46.\n'}
CHATS = {
    'one turn': [USER],
    'system': [{'role': 'system', 'content': ' Be brief.\n\n'}, USER, SAID, USER],
    'empty': [{'role': 'system', 'content': ''}, {'role': 'user', 'content': ''}, {'role': 'assistant', 'content': ''}],
    'thinking': [USER, SAID | {'thinking': ' 漢字?\n\n'}, USER, SAID | {'thinking': ''}],
    'calls': [USER, SAID | {'tool_calls': CALLS}, FOUND, FOUND | {'content': ''}],
    'calls alone': [USER, {'role': 'assistant', 'content': '', 'thinking': 'Now.', 'tool_calls': CALLS}],
    'tags in the text': [USER | {'content': '<think>\n</tool_call> {"a": <tools>}'}],
    'a system message too late': [USER, {'role': 'system', 'content': 'Be brief.'}],
    'two system messages': [{'role': 'system', 'content': 'a'}, {'role': 'system', 'content': 'b'}],
    'an unknown role': [USER, {'role': 'robot', 'content': 'a'}],
}
REQUESTS = list(itertools.product(CHATS.values(), ([], [TOOL, TOOL]), (False, True)))  # messages, tools, prompt
TEXTS = ['', 'def f(x):\n  return x  + 12345\n', ' <s> café 漢字 \r\n\t</s> <|im_end|>', '<|fim_prefix|>a']


@pytest.fixture(scope='module')
def tokenizer():
  return Tokenizer.train((document.text for document, _ in zip(packages.high_quality(), range(60))), 1024)


@pytest.fixture(scope='module', params=PEERS)
def case(request, tokenizer, tmp_path_factory):
  """(model, parameters, folder of the peer's files, what was asked, what it answered)."""
  size, architecture, program = PEERS[request.param]
  model, folder = sizes.get(size), tmp_path_factory.mktemp('peer')
  params = random_params(model)
  pieces = ((path, 0, leaf) for path, leaf in leaves(params))
  to_hf(model, pieces, folder / 'model', architecture=architecture, tokenizer=tokenizer)
  # Several windows long, so that the local attention of the loop differs from the global one.
  tokens = np.random.default_rng(0).integers(0, model.vocab, (2, 70), dtype=np.int32)
  prompts = [text.turn(tokenizer, [USER]), text.completion(tokenizer, TEXTS[1]), text.infill(tokenizer, 'a', 'b')]
  asked = {
      'model': str(folder / 'model'),
      'tokens': tokens.tolist(),
      'prompts': [prompt.tolist() for prompt in prompts],
      'length': LENGTH,
      'texts': TEXTS,
      'chats': [{'messages': messages, 'tools': tools, 'prompt': prompt} for messages, tools, prompt in REQUESTS],
  }
  (folder / 'request.json').write_text(json.dumps(asked))
  done = subprocess.run([PEER, HERE / program, folder], capture_output=True, text=True, check=False)
  assert done.returncode == 0, done.stderr
  return model, params, folder, asked, json.loads((folder / 'answer.json').read_text())


def test_the_same_logits(case):
  model, params, folder, asked, _ = case
  ours = np.asarray(forward(model, params, np.int32(asked['tokens'])))
  assert ours.std() > 0.1
  np.testing.assert_allclose(ours, np.load(folder / 'logits.npy'), rtol=0, atol=1e-4)


def test_the_same_greedy_text(case, tokenizer):
  model, params, _, asked, answer = case
  engine = Engine(Transformer(model, 'float32'), jax.device_put(params), slots=2, size=256)
  prompts = [np.int32(prompt) for prompt in asked['prompts']]
  assert text.complete(engine, tokenizer, prompts, LENGTH) == answer['decoded']
  assert max(map(len, answer['generated'])) > model.loop_window


def test_texts_have_the_same_tokens(case, tokenizer):
  answer = case[-1]
  assert answer['texts'] == [tokenizer.encode(text, allow_special=True) for text in TEXTS]


@pytest.mark.parametrize('name', CHATS)
def test_chats_have_the_same_tokens_and_the_same_refusals(name, case, tokenizer):
  answer, refused = case[-1], 'system' in name and name != 'system' or 'unknown' in name
  for (messages, tools, prompt), theirs in zip(REQUESTS, answer['chats'], strict=True):
    if messages is not CHATS[name]:
      continue
    render = chat.prompt if prompt else chat.segments
    if refused:
      with pytest.raises(UserError):
        render(messages, tools)
      assert isinstance(theirs, str) and '\n' not in theirs
      assert ('role of a message must be' if 'unknown' in name else 'a system message must be the first') in theirs
    else:
      assert theirs == build(tokenizer, render(messages, tools)).tokens.tolist()


def test_what_mlx_lm_saves_is_imported(case):
  model, params, folder, _, _ = case
  if not (folder / 'saved').exists():
    pytest.skip('this peer saves nothing')
  read, again = from_hf(folder / 'saved')
  assert (read.loops, read.layers) == (model.loops, model.layers)
  jax.tree.map(np.testing.assert_array_equal, again, params)
  assert set(names.tensors(read)) == set(names.tensors(model))
