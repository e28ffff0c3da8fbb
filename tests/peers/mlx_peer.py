"""mlx-lm answers a request: `python mlx_peer.py FOLDER`; see peer.py. It also saves the model to FOLDER/saved."""

import pathlib
import sys

import mlx.core as mx
import numpy as np
import peer
from mlx_lm import load, stream_generate
from mlx_lm.utils import save


def main(folder: str) -> None:
  def loaded(model_dir):
    model, tokenizer, config = load(model_dir, return_config=True)
    logits = lambda tokens: np.array(model(mx.array(tokens)).astype(mx.float32))

    def greedy(prompt, length):
      drawn = list(stream_generate(model, tokenizer, prompt, max_tokens=length))
      # It reports the token that ends a text too.
      return [one.token for one in drawn if one.token not in tokenizer.eos_token_ids]

    save(pathlib.Path(folder) / 'saved', model_dir, model, tokenizer, config, donate_model=False)
    return tokenizer, logits, greedy

  mx.set_default_device(mx.cpu)
  peer.answer(folder, loaded)


if __name__ == '__main__':
  main(*sys.argv[1:])
