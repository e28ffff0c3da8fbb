"""Decoding without a cache: every token runs the whole row through the model again."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from iquest_jax.model.transformer import Transformer


@functools.partial(jax.jit, static_argnums=0)
def log_probabilities(model, params, tokens_1T):
  """float32 [T, V] of a whole sequence."""
  positions = jnp.arange(tokens_1T.shape[1], dtype=jnp.int32)[None]
  row = tokens_1T, jnp.ones_like(tokens_1T), positions
  return jax.nn.log_softmax(Transformer(model, jnp.float32).apply({'params': params}, *row, method='logits')[0])


def of_drawn(model, params, prompt, drawn):
  """log-probabilities float32 [n, V] of what could have been drawn at each place."""
  whole = log_probabilities(model, params, np.asarray([[*prompt, *drawn]], np.int32))
  return np.asarray(whole[len(prompt) - 1 : -1])
