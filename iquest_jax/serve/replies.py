"""What a client is answered: choices, usage and errors in the form of OpenAI's API, whole or in chunks."""

import json
import time
import uuid
from collections.abc import Sequence
from typing import Any

from iquest_jax.serve.decoder import Piece
from iquest_jax.serve.fields import Refused
from iquest_jax.serve.requests import Asked, Served
from iquest_jax.serve.spans import CALL, CONTENT, Splitter
from iquest_jax.text.tokenizer import Tokenizer


def error(refused: Refused) -> dict[str, Any]:
  """The body of an error."""
  kinds = {429: 'rate_limit_error', 500: 'server_error'}
  kind = kinds.get(refused.status, 'invalid_request_error')
  return {'error': {'message': str(refused), 'type': kind, 'param': refused.param, 'code': refused.code}}


def model(served: Served, created: int) -> dict[str, Any]:
  """The entry of the list of models."""
  about = {'max_model_len': served.size, 'fingerprint': served.fingerprint}
  return {'id': served.name, 'object': 'model', 'created': created, 'owned_by': 'iquest_jax', **about}


class Reply:
  """The answer to one request: takes the pieces of all its texts, and gives chunks and the whole.

  Attributes:
    left: how many texts have not ended.
  """

  def __init__(self, asked: Asked, served: Served):
    self._asked, count = asked, len(asked.prompts) * asked.n
    kind = _ChatChoice if asked.chat else _CompletionChoice
    self._choices: Sequence[_Choice] = [kind(index, asked, served.tokenizer) for index in range(count)]
    self.left = count
    name = ('chat.completion' if asked.chat else 'text_completion') + ('.chunk' if asked.chat and asked.stream else '')
    self._head = {
        'id': f'{"chatcmpl" if asked.chat else "cmpl"}-{uuid.uuid4().hex}',
        'object': name,
        'created': int(time.time()),
        'model': served.name,
        'system_fingerprint': served.fingerprint,
    }

  def first(self) -> list[str]:
    """Events before any piece: a chat's roles."""
    if not self._asked.chat:
      return []
    role = {'role': 'assistant', 'content': ''}
    return [self._event([{'index': one.index, 'delta': role, 'finish_reason': None}]) for one in self._choices]

  def add(self, index: int, piece: Piece) -> list[str]:
    """Takes a piece of the text with this index, and returns the events that it makes."""
    self.left -= bool(piece.end)
    chunk = self._choices[index].add(piece)
    return [self._event([chunk])] if chunk and self._asked.stream else []

  def last(self) -> list[str]:
    """Events after all pieces."""
    usage = [_sse(self._head | {'choices': [], 'usage': self._usage()})] if self._asked.usage else []
    return [*usage, 'data: [DONE]\n\n']

  def whole(self) -> dict[str, Any]:
    """The body of an answer that is not streamed."""
    return self._head | {'choices': [one.whole() for one in self._choices], 'usage': self._usage()}

  def _event(self, choices: list[dict[str, Any]]) -> str:
    return _sse(self._head | {'choices': choices} | ({'usage': None} if self._asked.usage else {}))

  def _usage(self) -> dict[str, int]:
    prompt, drawn = sum(map(len, self._asked.prompts)), sum(one.drawn for one in self._choices)
    return {'prompt_tokens': prompt, 'completion_tokens': drawn, 'total_tokens': prompt + drawn}


def failed() -> str:
  """The event that ends a stream when the engine has failed."""
  return _sse(error(Refused('decoding failed; see the log of the server', status=500)))


def _sse(body: dict[str, Any]) -> str:
  return f'data: {json.dumps(body)}\n\n'


class _Choice:
  """One text as it comes. `drawn` counts its tokens, the one that ended it included."""

  def __init__(self, index: int, asked: Asked, tokenizer: Tokenizer):
    self.index, self.drawn, self._end = index, 0, None
    self._wants_logprobs, self._decode, self._ends = asked.logprobs, tokenizer.decode, tokenizer.ends
    self._tokens: list[tuple[str, float]] = []

  def _count(self, piece: Piece) -> list[tuple[str, float]]:
    """[(text, log-probability)] of the piece's token, if they are wanted; without the token that ends a text."""
    self.drawn, self._end = self.drawn + 1, piece.end or None
    new = [(self._decode([piece.token]), piece.logp)] if self._wants_logprobs and piece.token not in self._ends else []
    self._tokens += new
    return new


class _CompletionChoice(_Choice):
  """The continuation of a text."""

  def __init__(self, index: int, asked: Asked, tokenizer: Tokenizer):
    super().__init__(index, asked, tokenizer)
    self._text, self._offset = '', 0

  def add(self, piece: Piece) -> dict[str, Any] | None:
    new = self._count(piece)
    self._text += piece.text
    return self._choice(piece.text, new) if piece.text or piece.end or new else None

  def whole(self) -> dict[str, Any]:
    self._offset = 0
    return self._choice(self._text, self._tokens)

  def _choice(self, text: str, tokens: list[tuple[str, float]]) -> dict[str, Any]:
    logprobs = None
    if self._wants_logprobs:
      logprobs = {'tokens': [], 'token_logprobs': [], 'text_offset': [], 'top_logprobs': None}
      for token, logp in tokens:
        for name, value in (('tokens', token), ('token_logprobs', logp), ('text_offset', self._offset)):
          logprobs[name].append(value)
        self._offset += len(token)
    return {'index': self.index, 'text': text, 'logprobs': logprobs, 'finish_reason': self._end}


class _ChatChoice(_Choice):
  """A turn of the assistant; its parts are those of text/chat.py."""

  def __init__(self, index: int, asked: Asked, tokenizer: Tokenizer):
    super().__init__(index, asked, tokenizer)
    self._splitter, self._calls = Splitter(asked.calls), []
    self._content, self._thinking = '', ''

  def add(self, piece: Piece) -> dict[str, Any] | None:
    new, delta = self._count(piece), {}
    for kind, value in self._splitter.add(piece.text, last=bool(piece.end)):
      if kind == CALL:
        call = _call(value)
        delta.setdefault('tool_calls', []).append({'index': len(self._calls), **call})
        self._calls.append(call)
      elif kind == CONTENT:
        delta['content'] = delta.get('content', '') + value
      else:
        delta['reasoning_content'] = delta.get('reasoning_content', '') + value
    self._content += delta.get('content', '')
    self._thinking += delta.get('reasoning_content', '')
    if not (delta or piece.end or new):
      return None
    return {'index': self.index, 'delta': delta, **self._rest(new)}

  def whole(self) -> dict[str, Any]:
    message = {'role': 'assistant', 'content': self._content or ('' if not self._calls else None)}
    if self._thinking:
      message['reasoning_content'] = self._thinking
    if self._calls:
      message['tool_calls'] = self._calls
    return {'index': self.index, 'message': message, **self._rest(self._tokens)}

  def _rest(self, tokens: list[tuple[str, float]]) -> dict[str, Any]:
    content = [{'token': token, 'logprob': logp, 'bytes': None, 'top_logprobs': []} for token, logp in tokens]
    reason = 'tool_calls' if self._calls and self._end == 'stop' else self._end
    return {'logprobs': {'content': content} if self._wants_logprobs else None, 'finish_reason': reason}


def _call(call: dict[str, Any]) -> dict[str, Any]:
  function = {'name': call['name'], 'arguments': json.dumps(call['arguments'], ensure_ascii=False)}
  return {'id': f'call_{uuid.uuid4().hex[:24]}', 'type': 'function', 'function': function}
