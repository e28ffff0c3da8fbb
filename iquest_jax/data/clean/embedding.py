"""Embeddings of texts, by any callable or by an OpenAI-compatible server (/embeddings)."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from iquest_jax.endpoint.client import Endpoint
from iquest_jax.errors import UserError

Embed = Callable[[Sequence[str]], np.ndarray]  # N texts to float [N, D]


class EndpointEmbed:
  """Embeddings of a server; an `Embed`."""

  def __init__(self, url: str, model: str, key_env: str = '', batch: int = 64, timeout_s: float = 60.0, **settings: Any):
    """Makes no request yet; `batch` texts go into each, and `settings` are further ones of the client.

    Raises:
      UserError: see endpoint/client.py.
    """
    self._endpoint, self._batch = Endpoint(url, model, key_env=key_env, timeout_s=timeout_s, **settings), batch

  def __call__(self, texts: Sequence[str]) -> np.ndarray:
    """float32 [N, D]; raises UserError if the server refuses, does not answer, or answers with something else."""
    starts = range(0, len(texts), self._batch)
    asked = [self._endpoint.start(self._endpoint.embed(texts[start : start + self._batch])) for start in starts]
    parts = [one.result() for one in asked]
    try:
      return np.concatenate(parts) if parts else np.zeros((0, 0), np.float32)
    except ValueError:
      raise UserError(
          f'endpoint: {self._endpoint.url} answers with embeddings of different sizes; use one model'
      ) from None


def unit_vectors(embed: Embed, texts: Sequence[str], batch: int = 1024) -> Iterator[np.ndarray]:
  """Embeddings scaled to length one, float16 [n, D], for up to `batch` texts at a time.

  Raises:
    UserError: they are not one finite vector per text; a vector of zeros stays one.
  """
  for start in range(0, len(texts), batch):
    here = texts[start : start + batch]
    vectors = np.asarray(embed(here), np.float32)
    if vectors.ndim != 2 or len(vectors) != len(here) or not vectors.size or not np.isfinite(vectors).all():
      raise UserError(
          f'embedding: must give a finite vector for each of {len(here)} texts, got shape {vectors.shape}; check the model'
      )
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    yield (vectors / np.where(lengths > 0, lengths, 1)).astype(np.float16)
