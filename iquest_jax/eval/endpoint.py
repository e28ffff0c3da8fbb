"""Answers of an OpenAI-compatible server: chats by /chat/completions, texts to continue by /completions."""

import concurrent.futures
from collections.abc import Iterator, Sequence
from typing import Any

from iquest_jax.endpoint.client import Endpoint
from iquest_jax.eval.answers import Answer, Asked


class EndpointAnswers:
  """Answers of a server, several requests at a time."""

  def __init__(self, url: str, model: str, key_env: str = '', parallel: int = 8, **settings: Any):
    """Makes no request yet; `settings` are further ones of the client.

    Raises:
      UserError: see endpoint/client.py.
    """
    self._endpoint = Endpoint(url, model, key_env=key_env, parallel=parallel, **settings)
    self._parallel = parallel
    self.settings: dict[str, Any] = {'endpoint': self._endpoint.url, 'model': model}

  def answer(self, asked: Sequence[Asked]) -> Iterator[Answer]:
    """Yields the answers as they come.

    Raises:
      UserError: the server refuses, or does not answer after all tries; answers that still came are yielded first.
    """
    failure = None
    with concurrent.futures.ThreadPoolExecutor(self._parallel) as asking:
      pending = {asking.submit(self._one, one) for one in asked}
      try:
        while pending:
          done, pending = concurrent.futures.wait(pending, return_when=concurrent.futures.FIRST_COMPLETED)
          for future in done:
            if error := future.exception():
              failure = failure or error
              pending = {other for other in pending if not other.cancel()}
            else:
              yield future.result()
      finally:
        asking.shutdown(wait=False, cancel_futures=True)
    self._endpoint.close()
    if failure:
      raise failure

  def _one(self, asked: Asked) -> Answer:
    prompt, sampling = asked.prompt, asked.sampling
    how = {
        'max_tokens': asked.length,
        'temperature': sampling.temperature,
        'top_p': sampling.top_p,
        'top_k': sampling.top_k,
        # A server draws the same for the same seed, so samples of a problem need different ones.
        'seed': sampling.seed + asked.id,
        'stop': prompt.stop,
    }
    if prompt.messages:
      reply = self._endpoint.chat(prompt.messages, tools=prompt.tools, **how)
    else:
      reply = self._endpoint.complete(prompt.text, **how)
    reply = self._endpoint.start(reply).result()
    return Answer(asked.id, reply.text, reply.end, reply.output_tokens)
