"""Logits of a checkpoint in mlx-lm: `python mlx_logits.py MODEL tokens.npy logits.npy`. Needs mlx and mlx-lm only."""

import pathlib
import sys

import mlx.core as mx
import numpy as np
from mlx_lm.utils import load_model


def main(model_dir: str, tokens: str, out: str) -> None:
  mx.set_default_device(mx.cpu)
  model, _ = load_model(pathlib.Path(model_dir))
  np.save(out, np.array(model(mx.array(np.load(tokens))).astype(mx.float32)))


if __name__ == '__main__':
  main(*sys.argv[1:])
