"""Logits of a dense checkpoint in transformers' Llama: `python torch_logits.py MODEL tokens.npy logits.npy`."""

import json
import pathlib
import sys

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM


def main(model_dir: str, tokens: str, out: str) -> None:
  published = json.loads((pathlib.Path(model_dir) / 'config.json').read_text())
  # transformers does not know the published type, whose tensors are exactly Llama's.
  config = LlamaConfig(**{key: value for key, value in published.items() if key not in ('model_type', 'architectures')})
  model = LlamaForCausalLM.from_pretrained(model_dir, config=config, dtype=torch.float32, local_files_only=True)
  with torch.no_grad():
    logits = model(torch.from_numpy(np.load(tokens).astype(np.int64))).logits
  np.save(out, logits.numpy())


if __name__ == '__main__':
  main(*sys.argv[1:])
