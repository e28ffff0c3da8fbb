"""Greedy decoding with mlx-lm, which ours is compared with; a program of its own that imports mlx alone.

  python mlx_decode.py MODEL SLOTS PROMPT STEPS     MODEL is a folder that launch.export to_hf writes

Prefills SLOTS random prompts of PROMPT tokens, takes STEPS decode steps per line of stdin and answers with a line.
"""

import pathlib
import sys

import mlx.core as mx
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import load_model


def main(folder: str, slots: str, prompt: str, steps: str) -> None:
  mx.set_default_device(mx.cpu)
  model, config = load_model(pathlib.Path(folder))
  cache = make_prompt_cache(model)
  prompts = mx.random.randint(0, config['vocab_size'], (int(slots), int(prompt)))
  tokens = mx.argmax(model(prompts, cache=cache)[:, -1], axis=-1)
  for _ in sys.stdin:
    for _ in range(int(steps)):
      tokens = mx.argmax(model(tokens[:, None], cache=cache)[:, -1], axis=-1)
      mx.eval(tokens)
    print('done', flush=True)


if __name__ == '__main__':
  main(*sys.argv[1:])
