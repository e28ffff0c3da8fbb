"""Embeddings of texts, by any callable or by an OpenAI-compatible server (/embeddings)."""

import http.client
import json
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from iquest_jax.errors import UserError

Embed = Callable[[Sequence[str]], np.ndarray]  # N texts to float [N, D]


class Endpoint:
  """Embeddings of a server; an `Embed`. The key is in a header of the requests and in no file, log or error."""

  def __init__(
      self,
      url: str,
      model: str,
      key_env: str = '',
      batch: int = 64,
      timeout_s: float = 60.0,
      waits_s: Sequence[float] = (1, 2, 4, 8, 16),
  ):
    """Makes no request yet.

    Args:
      url: of the API, as in http://localhost:8000/v1.
      key_env: name of the environment variable with the key; empty if the server asks for none.
      batch: texts per request.
      waits_s: before each further try after a timeout, a lost connection, or status 408, 429 or 5xx.

    Raises:
      UserError: the URL is none of http or https or carries a password; the variable is not set.
    """
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ('http', 'https') or not parts.hostname or parts.username or parts.password or parts.query:
      raise UserError(
          'embedding: the endpoint must be the URL of an API without a key, as in http://localhost:8000/v1; put the key '
          'into an environment variable'
      )
    self._key = os.environ.get(key_env, '').strip() if key_env else ''
    if key_env and not (self._key and self._key.isascii() and self._key.isprintable()):
      raise UserError(f'embedding: the environment variable {key_env} must hold the key of the endpoint; export it')
    self._url, self._model, self._batch = url.rstrip('/') + '/embeddings', model, batch
    self._timeout_s, self._waits_s = timeout_s, waits_s

  def __call__(self, texts: Sequence[str]) -> np.ndarray:
    """float32 [N, D]; raises UserError if the server refuses, does not answer, or answers with something else."""
    parts = [self._post(texts[start : start + self._batch]) for start in range(0, len(texts), self._batch)]
    try:
      return np.concatenate(parts) if parts else np.zeros((0, 0), np.float32)
    except ValueError:
      raise UserError(f'embedding: {self._url} answers with embeddings of different sizes; use one model') from None

  def _post(self, texts: Sequence[str]) -> np.ndarray:
    headers = {'Content-Type': 'application/json'} | ({'Authorization': f'Bearer {self._key}'} if self._key else {})
    # A server may take no empty text, and JSON no lone surrogate.
    inputs = [text.encode(errors='replace').decode() or ' ' for text in texts]
    body = json.dumps({'model': self._model, 'input': inputs}).encode()
    request = urllib.request.Request(self._url, body, headers, method='POST')
    for wait in (*self._waits_s, None):
      try:
        with _OPENER.open(request, timeout=self._timeout_s) as response:
          reply = json.loads(response.read())
        return self._vectors(reply, len(texts))
      except urllib.error.HTTPError as error:
        problem = f'status {error.code}'
        if error.code not in (408, 429) and error.code < 500:
          raise UserError(f'embedding: {self._url} refuses with {problem}; check the model, the key and the URL') from None
      except (OSError, http.client.HTTPException) as error:
        problem = str(getattr(error, 'reason', error)) or type(error).__name__
      except ValueError:
        problem = 'an answer that is not JSON'
      if wait is not None:
        time.sleep(wait)
    problem = ' '.join(problem.split())[:200]
    raise UserError(
        f'embedding: {self._url} did not answer in {len(self._waits_s) + 1} tries (the last: {problem}); what is finished '
        'is kept: rerun the same command to resume'
    )

  def _vectors(self, reply: object, count: int) -> np.ndarray:
    try:
      data = sorted(reply['data'], key=lambda one: one['index'])
      if [one['index'] for one in data] != list(range(count)):
        raise KeyError('index')
      return np.array([one['embedding'] for one in data], np.float32)
    except (KeyError, TypeError, ValueError, AttributeError):
      raise UserError(
          f'embedding: {self._url} must answer with an embedding per text; is it OpenAI-compatible, and is "{self._model}" '
          'a model for embeddings?'
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


class _NoRedirects(urllib.request.HTTPRedirectHandler):
  """A redirect would take the key to another server."""

  def redirect_request(self, *_):
    return None


_OPENER = urllib.request.build_opener(_NoRedirects)
