"""transformers answers a request: `python torch_peer.py FOLDER`; see peer.py."""

import sys

import numpy as np
import peer
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def main(folder: str) -> None:
  def loaded(model_dir):
    tokenizer = AutoTokenizer.from_pretrained(model_dir, local_files_only=True)
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32, local_files_only=True)

    def logits(tokens):
      return model(torch.from_numpy(tokens.astype(np.int64))).logits.numpy()

    def greedy(prompt, length):
      # It stops at the ids of generation_config.json.
      drawn = model.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=length)[0, len(prompt) :].tolist()
      return [token for token in drawn if token not in model.generation_config.eos_token_id]

    return tokenizer, logits, greedy

  with torch.no_grad():
    peer.answer(folder, loaded)


if __name__ == '__main__':
  main(*sys.argv[1:])
