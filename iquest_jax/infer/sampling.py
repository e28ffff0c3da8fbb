"""Sampling without a cache: every new token runs the whole row through the model again.

Slow and simple, and the reference for a cached engine. Legend: B batch, T row length, D width, V vocabulary.
"""

import jax
import jax.numpy as jnp
import numpy as np

from iquest_jax.errors import UserError
from iquest_jax.model.transformer import Transformer
from iquest_jax.text import chat as chat_format
from iquest_jax.text import example
from iquest_jax.text.tokenizer import END_OF_TEXT, IM_END, Tokenizer


def generate(
    model: Transformer, params, prompt: np.ndarray, *, length: int, stop: tuple[int, ...], temperature: float, seed: int
) -> np.ndarray:
  """Token ids, int32 [n], that continue a prompt.

  Args:
    prompt: int32 [n], n >= 1.
    length: maximum number of new tokens.
    stop: ids that end the text and are not returned.
    temperature: 0 takes the most likely token.

  Raises:
    UserError: the prompt is empty, or prompt and length together exceed the model's context.
  """
  if not len(prompt):
    raise UserError('sample: the prompt must not be empty; give --prompt some text')
  total = len(prompt) + length
  if total > model.config.max_context:
    raise UserError(
        f'sample: prompt and --tokens must fit the context, at most {model.config.max_context} tokens, '
        f'got {len(prompt)} + {length}; shorten one of them'
    )
  positions = jnp.arange(total, dtype=jnp.int32)[None]

  @jax.jit
  def next_token(params, row_T, filled, key):
    """The token at index `filled`, from the logits at the index before it; the rest of the row is padding."""
    segment_ids = (positions < filled).astype(jnp.int32)
    hidden_BTD, _ = model.apply({'params': params}, row_T[None], segment_ids, positions)
    last_D = jax.lax.dynamic_index_in_dim(hidden_BTD[0], filled - 1, keepdims=False)
    logits_V = jnp.dot(last_D, params['head'].astype(last_D.dtype), preferred_element_type=jnp.float32)
    if temperature == 0:
      return jnp.argmax(logits_V)
    return jax.random.categorical(key, logits_V / temperature)

  row_T = np.zeros(total, np.int32)
  row_T[: len(prompt)] = prompt
  for filled in range(len(prompt), total):
    token = int(next_token(params, row_T, filled, jax.random.fold_in(jax.random.key(seed), filled)))
    if token in stop:
      return row_T[len(prompt) : filled]
    row_T[filled] = token
  return row_T[len(prompt) :]


def complete(
    model: Transformer,
    params,
    tokenizer: Tokenizer,
    prompt: str,
    *,
    chat: bool,
    length: int,
    temperature: float = 0.0,
    seed: int = 0,
) -> str:
  """The text that continues a prompt, up to `length` tokens or the end of the turn or document; see `generate`.

  Args:
    prompt: text that may spell out special tokens; with `chat`, the content of a user message, where nothing is special.
  """
  if chat:
    ids = example.build(tokenizer, chat_format.prompt([{'role': 'user', 'content': prompt}])).tokens
  else:
    ids = np.asarray(tokenizer.encode(prompt, allow_special=True), np.int32)
  stop = (tokenizer.id(IM_END), tokenizer.id(END_OF_TEXT))
  new = generate(model, params, ids, length=length, stop=stop, temperature=temperature, seed=seed)
  return tokenizer.decode(new.tolist())
