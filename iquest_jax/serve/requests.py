"""What a client asks for: the JSON bodies of chats and completions, checked, with prompts as token ids.

Source: OpenAI's reference of chat completions and completions; `top_k`, `reasoning_content` and prompts as token ids are as
in vLLM. A parameter that would change nothing is accepted, one that we cannot honour is refused.
"""

import dataclasses
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from iquest_jax.errors import UserError, nearest
from iquest_jax.infer import text as infer_text
from iquest_jax.infer.sampler import Sampling
from iquest_jax.serve.fields import Refused, int32, kind, short, typed, unicode_text
from iquest_jax.serve.messages import read_messages, read_tools
from iquest_jax.text.tokenizer import Tokenizer

_COMPLETION_LENGTH = 16  # where a completion names no max_tokens, as in OpenAI's reference
_MOST_STOP_WORDS, _MOST_CHOICES = 16, 128
# Parameters of which one value alone, the one that changes nothing, is accepted.
_NEUTRAL: Mapping[str, Any] = {
    'best_of': 1,
    'echo': False,
    'frequency_penalty': 0,
    'logit_bias': {},
    'parallel_tool_calls': True,
    'presence_penalty': 0,
    'response_format': {'type': 'text'},
    'top_logprobs': 0,
}
_LABELS = ('metadata', 'prompt_cache_key', 'safety_identifier', 'service_tier', 'store', 'user')  # of no effect here
_BOTH = (
    'logprobs', 'max_tokens', 'model', 'n', 'seed', 'stop', 'stream', 'stream_options', 'temperature', 'top_k', 'top_p',
)  # fmt: skip
_CHAT = ('messages', 'tools', 'tool_choice', 'max_completion_tokens')
_COMPLETION = ('prompt', 'suffix')


@dataclasses.dataclass(frozen=True)
class Served:
  """The model that is offered.

  Attributes:
    name: as clients call it.
    size: most tokens of prompt and text together.
    fingerprint: of its parameters.
  """

  name: str
  tokenizer: Tokenizer
  size: int
  fingerprint: str


@dataclasses.dataclass(frozen=True)
class Asked:
  """A request.

  Attributes:
    chat: whether it is one of the chat interface.
    prompts: int32 [n] each; a chat has one.
    n: texts per prompt.
    length: most tokens of a text, for each prompt.
    calls: whether the assistant has tools to call.
    stream, usage: whether pieces are sent as they come, and then also how many tokens there were.
    logprobs: whether log-probabilities of the drawn tokens are wanted.
  """

  chat: bool
  prompts: tuple[np.ndarray, ...]
  n: int
  length: tuple[int, ...]
  sampling: Sampling
  stop_words: tuple[str, ...]
  calls: bool
  stream: bool
  usage: bool
  logprobs: bool


def read(body: Any, chat: bool, served: Served) -> Asked:
  """The request of a body.

  Args:
    chat: whether it came to /chat/completions.

  Raises:
    Refused: a parameter is missing, unknown, of a wrong type, out of range or not supported; the model is another; the
      text does not fit.
  """
  given = _known(body, (*_BOTH, *(_CHAT if chat else _COMPLETION)))
  check_model(typed(given, 'model', str, ''), served)
  tools = read_tools(given) if chat else ()
  prompts = (_chat_prompt(given, tools, served.tokenizer),) if chat else _prompts(given, served.tokenizer)
  length = int32(given, 'max_completion_tokens' if 'max_completion_tokens' in given else 'max_tokens', None, least=1)
  stream = typed(given, 'stream', bool, False)
  return Asked(
      chat,
      prompts,
      _n(given),
      tuple(_length(ids, length, chat, served.size) for ids in prompts),
      _sampling(given),
      _stop_words(given),
      calls=bool(tools),
      stream=stream,
      usage=stream and typed(typed(given, 'stream_options', dict, {}), 'include_usage', bool, False, 'stream_options.'),
      logprobs=_logprobs(given, chat),
  )


def check_model(name: str, served: Served) -> None:
  """Raises Refused unless the name is that of the model."""
  if not name:
    raise Refused(f'model is missing; this server offers "{served.name}"', 'model')
  if name != served.name:
    message = f'model "{short(name)}" does not exist; this server offers "{served.name}"'
    raise Refused(message, 'model', 404, 'model_not_found')


def _known(body: Any, names: Sequence[str]) -> dict[str, Any]:
  """The parameters that are given; null stands for one that is not."""
  if not isinstance(body, dict):
    raise Refused(f'the body must be a JSON object, got {kind(body)}')
  given = {name: value for name, value in body.items() if value is not None}
  for name, value in given.items():
    if name in _NEUTRAL and (value != _NEUTRAL[name] or (type(value) is bool) != (type(_NEUTRAL[name]) is bool)):
      raise Refused(f'{name} {short(value)} is not supported; leave it out', name)
    if name not in (*names, *_NEUTRAL, *_LABELS):
      raise Refused(f'parameter "{short(name)}" is not supported{nearest(name, names)}', name)
  return given


def _n(given: Mapping[str, Any]) -> int:
  n = int32(given, 'n', 1, least=1)
  if n > _MOST_CHOICES:
    raise Refused(f'n must be at most {_MOST_CHOICES}, got {n}', 'n')
  return n


def _stop_words(given: Mapping[str, Any]) -> tuple[str, ...]:
  words = given.get('stop', [])
  words = [words] if isinstance(words, str) else words
  if not isinstance(words, list) or not all(isinstance(word, str) and word for word in words):
    raise Refused('stop must be a string or a list of strings, none of them empty', 'stop')
  if len(words) > _MOST_STOP_WORDS:
    raise Refused(f'stop must be at most {_MOST_STOP_WORDS} strings, got {len(words)}', 'stop')
  return tuple(words)


def _logprobs(given: Mapping[str, Any], chat: bool) -> bool:
  """Those of the drawn tokens alone: true in a chat, 0 in a completion, whose number counts the other tokens."""
  if chat:
    return typed(given, 'logprobs', bool, False)
  if int32(given, 'logprobs', 0):
    raise Refused('logprobs must be 0: only those of the drawn tokens are known', 'logprobs')
  return 'logprobs' in given


def _sampling(given: Mapping[str, Any]) -> Sampling:
  temperature, top_p = (typed(given, name, float, 1.0) for name in ('temperature', 'top_p'))
  top_k, seed = int32(given, 'top_k', 0), typed(given, 'seed', int, secrets.randbelow(2**31)) % 2**31
  try:
    return Sampling(float(temperature), float(top_p), top_k, seed).check()
  except OverflowError:
    raise Refused('temperature and top_p must be finite') from None
  except UserError as error:
    message = str(error).removeprefix('sample: ')
    raise Refused(message, message.split()[0]) from None


def _length(ids: np.ndarray, length: int | None, chat: bool, size: int) -> int:
  """The most tokens of a text: those asked for; else in a chat all there is room for."""
  room = size - len(ids)
  if room < (length or 1):
    asked = f' and {length} for the answer' if length else ''
    message = f'the context holds {size} tokens, got {len(ids)} in the prompt{asked}; shorten one of them'
    raise Refused(message, code='context_length_exceeded')
  return length or (room if chat else min(_COMPLETION_LENGTH, room))


def _prompts(given: Mapping[str, Any], tokenizer: Tokenizer) -> tuple[np.ndarray, ...]:
  """A prompt is a string, which may spell out special tokens, or a list of token ids; there may be a list of prompts."""
  if 'prompt' not in given:
    raise Refused('prompt is missing', 'prompt')
  prompt = given['prompt']
  is_list = isinstance(prompt, list) and prompt and isinstance(prompt[0], (str, list))
  ids = [_prompt(one, given, tokenizer) for one in (prompt if is_list else [prompt])]
  if not all(map(len, ids)):
    raise Refused('prompt must not be empty', 'prompt')
  return tuple(ids)


def _prompt(prompt: Any, given: Mapping[str, Any], tokenizer: Tokenizer) -> np.ndarray:
  suffix = unicode_text(typed(given, 'suffix', str, ''), 'suffix')
  if isinstance(prompt, str):
    prompt = unicode_text(prompt, 'prompt')
    return infer_text.infill(tokenizer, prompt, suffix) if suffix else infer_text.completion(tokenizer, prompt)
  if not isinstance(prompt, list) or not all(type(id) is int and 0 <= id < tokenizer.vocab_size for id in prompt):
    raise Refused(f'prompt must be a string, token ids below {tokenizer.vocab_size}, or a list of either', 'prompt')
  if suffix:
    raise Refused('suffix needs a prompt of text', 'suffix')
  return np.asarray(prompt, np.int32)


def _chat_prompt(given: Mapping[str, Any], tools: Sequence[Mapping[str, Any]], tokenizer: Tokenizer) -> np.ndarray:
  messages = typed(given, 'messages', list, [])
  if not messages:
    raise Refused('messages is missing or empty', 'messages')
  try:
    return infer_text.turn(tokenizer, read_messages(messages), tools)
  except UserError as error:
    raise Refused(str(error).removeprefix('chat: '), 'messages') from None
