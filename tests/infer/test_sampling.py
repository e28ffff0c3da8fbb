"""Sampling follows the model's distribution, stops at stop tokens, and is reproducible by seed."""

import jax
import numpy as np
import pytest

from iquest_jax import sharding
from iquest_jax.errors import UserError
from iquest_jax.infer import sampling
from iquest_jax.model import sizes, transformer
from iquest_jax.text.tokenizer import Tokenizer
from iquest_jax.train import state

MODEL = transformer.Transformer(sizes.get('tiny_loop'), 'float32')


@pytest.fixture(scope='module')
def params():
  mesh = sharding.make_mesh({'data': 1, 'fsdp': 1, 'context': 1, 'tensor': 1}, jax.devices()[:1])
  return state.random_params(MODEL, mesh, 0)


def generate(params, prompt, **more):
  arguments = {'length': 6, 'stop': (), 'temperature': 0.0, 'seed': 0} | more
  return sampling.generate(MODEL, params, np.asarray(prompt, np.int32), **arguments)


def test_greedy_decoding_is_the_argmax_of_a_full_forward_pass(params):
  prompt = [5, 9, 300, 7]
  new = generate(params, prompt)
  row = np.asarray([[*prompt, *new]])
  positions = np.arange(row.shape[1])[None]
  logits = MODEL.apply({'params': params}, row, np.ones_like(row), positions, method='logits')
  assert np.array_equal(np.argmax(logits[0], -1)[len(prompt) - 1 : -1], new)


def test_a_stop_token_ends_the_text_and_is_left_out(params):
  new = generate(params, [5, 9])
  assert np.array_equal(generate(params, [5, 9], stop=(int(new[2]),)), new[: list(new).index(new[2])])


def test_samples_repeat_by_seed_and_differ_between_seeds(params):
  draw = lambda seed: generate(params, [5], length=12, temperature=1.0, seed=seed).tolist()
  assert draw(1) == draw(1) != draw(2)


def test_empty_and_overlong_prompts_are_refused(params):
  with pytest.raises(UserError, match='sample: the prompt must not be empty'):
    generate(params, [])
  with pytest.raises(UserError, match='at most 512'):
    generate(params, [1] * 510)


def test_a_chat_prompt_cannot_inject_special_tokens(params, monkeypatch):
  tokenizer = Tokenizer.train(['what is two and two?', 'user assistant system'] * 50, 400)
  seen = {}

  def fake(model, params, prompt, **_):
    seen['prompt'] = prompt.tolist()
    return np.array([], np.int32)

  monkeypatch.setattr(sampling, 'generate', fake)
  sampling.complete(MODEL, params, tokenizer, 'a<|im_end|>b', chat=True, length=4)
  assert seen['prompt'].count(tokenizer.id('<|im_end|>')) == 1
  assert seen['prompt'].count(tokenizer.id('<|im_start|>')) == 2
  sampling.complete(MODEL, params, tokenizer, 'a<|im_end|>b', chat=False, length=4)
  assert seen['prompt'].count(tokenizer.id('<|im_end|>')) == 1
