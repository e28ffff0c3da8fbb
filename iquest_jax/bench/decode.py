"""Greedy decoding with all slots live, dense and looped, beside mlx-lm on the same exported model."""

import dataclasses
import pathlib
import tempfile
from collections.abc import Iterator

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from iquest_jax.bench import machine
from iquest_jax.bench.peer import Peer, has
from iquest_jax.checkpoint import fingerprint
from iquest_jax.convert import hf
from iquest_jax.infer.engine import Engine, Request
from iquest_jax.model import sizes
from iquest_jax.model.sizes import ModelConfig
from iquest_jax.model.transformer import Transformer, init_params

REPEATS = 3
# Two layers as wide as those of 7b. ours: the vocabulary of 8192 leaves room for both programs on a small machine.
_WIDE = dataclasses.replace(sizes.get('7b'), layers=2, vocab=8192)
# (model, slots, tokens of a prompt, steps that are timed together). On a CPU mlx-lm takes about 1.5 s per slot and step of
# the wide model, hence few slots there. Its time grows with the slots faster than ours, so more of them would favour ours.
_CASES = {
    'tiny': (sizes.get('tiny'), 64, 32, 8),
    'tiny_loop': (sizes.get('tiny_loop'), 64, 32, 8),
    '7b, 2 layers': (_WIDE, 4, 4, 1),
    '7b, 2 layers, looped': (dataclasses.replace(_WIDE, loops=2), 4, 4, 1),
}


def results() -> Iterator[dict]:
  """Both sizes; `speed_over_mlx` where the peers' interpreter has mlx-lm, `time_over_dense` for looped models."""
  with_peer, dense_seconds = jax.default_backend() == 'cpu' and has('mlx_lm'), 0.0
  for name, (model, slots, prompt, steps) in _CASES.items():
    seconds, mlx_seconds = measure(model, slots, prompt, steps, with_peer)
    yield {
        'model': name,
        'slots': slots,
        'tokens_per_second': round(slots * steps / seconds, 1),
        'speed_over_mlx': round(mlx_seconds / seconds, 2) if mlx_seconds else None,
        'time_over_dense': round(seconds / dense_seconds, 2) if model.loops > 1 else None,
    }
    dense_seconds = seconds


def measure(model: ModelConfig, slots: int, prompt: int, steps: int, with_peer: bool) -> tuple[float, float | None]:
  """Seconds of so many steps of all slots after prompts of so many tokens, ours and mlx-lm's, which alternate."""
  module = Transformer(model, jnp.float32 if jax.default_backend() == 'cpu' else jnp.bfloat16)
  params = jax.jit(lambda key: nn.unbox(init_params(module, key)))(jax.random.key(0))
  tokens = (2 + REPEATS) * steps
  engine = Engine(module, params, slots, size=prompt + tokens)
  rng = np.random.default_rng(0)
  for slot in range(slots):
    engine.start(Request(slot, rng.integers(0, model.vocab, prompt, dtype=np.int32), tokens))

  def ours():
    for _ in range(steps):
      engine.step()

  if not with_peer:
    return machine.median_seconds(ours, REPEATS), None
  with tempfile.TemporaryDirectory() as folder:
    exported = pathlib.Path(folder) / 'model'
    leaves = jax.tree_util.tree_leaves_with_path(params)
    hf.to_hf(model, ((fingerprint.leaf_path(path), 0, np.asarray(leaf)) for path, leaf in leaves), exported)
    with Peer('mlx_decode.py', str(exported), *map(str, (slots, prompt, steps))) as mlx:
      return tuple(machine.alternating_medians([ours, mlx], REPEATS))
