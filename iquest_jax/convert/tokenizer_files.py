"""The tokenizer of a published checkpoint: tokenizer.json and the files beside it, written and read."""

import json
import pathlib
from typing import Any

from iquest_jax.convert.chat_template import TEMPLATE
from iquest_jax.errors import UserError
from iquest_jax.model.sizes import ModelConfig
from iquest_jax.text import chat, example
from iquest_jax.text.tokenizer import END_OF_TEXT, IM_END, RESERVED, SPECIAL, Tokenizer

_NAME = 'tokenizer.json'
_UNKNOWN, _BEGIN, _ = RESERVED
# Every kind of turn, with digits, spaces, lines and letters outside ASCII where a turn begins and ends.
_CHAT = (
    {'role': 'system', 'content': 'Be brief.'},
    {'role': 'user', 'content': 'é 12 + 3?\n\n    x = 1\n'},
    {
        'role': 'assistant',
        'content': 'Look:',
        'thinking': ' 漢字?\n',
        'tool_calls': [{'name': 'search', 'arguments': {'pattern': ' é"'}}],
    },
    {'role': 'tool', 'content': '\n  3 hits\n'},
    {'role': 'assistant', 'content': 'Yes: 15 hits. '},
)
_TOOLS = ({'name': 'search', 'parameters': {'pattern': 'text'}},)


def write(folder: pathlib.Path, tokenizer: Tokenizer, model: ModelConfig) -> None:
  """Writes tokenizer.json, tokenizer_config.json, special_tokens_map.json and generation_config.json."""
  special = {'bos_token': _BEGIN, 'eos_token': IM_END, 'unk_token': _UNKNOWN, 'pad_token': END_OF_TEXT}
  special['additional_special_tokens'] = [token for token in SPECIAL if token not in special.values()]
  config = special | {
      'tokenizer_class': 'PreTrainedTokenizerFast',
      'model_max_length': model.max_context,
      'add_bos_token': False,
      'add_eos_token': False,
      'clean_up_tokenization_spaces': False,
      'chat_template': TEMPLATE,
  }
  files = {
      'tokenizer_config.json': config,
      'special_tokens_map.json': special,
      'generation_config.json': ids(tokenizer),
  }
  (folder / _NAME).write_text(tokenizer.to_str(), encoding='utf-8')
  for name, content in files.items():
    (folder / name).write_text(json.dumps(content, indent=2, ensure_ascii=False) + '\n', encoding='utf-8')


def ids(tokenizer: Tokenizer) -> dict[str, Any]:
  """The keys of generation_config.json, which config.json has too; a text ends at any of the three ids."""
  stop = list(tokenizer.ends)
  return {'bos_token_id': tokenizer.id(_BEGIN), 'eos_token_id': stop, 'pad_token_id': tokenizer.id(END_OF_TEXT)}


def read(model_dir: pathlib.Path, model: ModelConfig) -> Tokenizer | None:
  """The tokenizer of a published checkpoint; None if it has no tokenizer.json.

  Raises:
    UserError: it is not a tokenizer with the special and reserved tokens, has ids that the model does not know, or
      encodes the text of a chat to other tokens than the chat's segments, of which rows and prompts are made.
  """
  path = model_dir / _NAME
  if not path.exists():
    return None
  tokenizer = Tokenizer.load(path)
  check_size(str(path), tokenizer, model)
  if absent := [token for token in RESERVED if tokenizer.id(token) is None]:
    raise UserError(f'{path}: the token {absent[0]} is missing; use one of a released model or of launch.prepare')
  segments = chat.segments(_CHAT, _TOOLS)
  text = ''.join(part if isinstance(part, str) else part.token for part, _ in segments)
  whole, pieces = tokenizer.encode(text, allow_special=True), example.build(tokenizer, segments).tokens.tolist()
  if whole != pieces:
    at = next((at for at, (a, b) in enumerate(zip(whole, pieces)) if a != b), min(len(whole), len(pieces)))
    raise UserError(
        f'{path}: encodes a chat to other tokens whole ({_shown(tokenizer, whole, at)}) than in segments '
        f'({_shown(tokenizer, pieces, at)}), so that training and serving would differ; use a byte-level tokenizer'
    )
  return tokenizer


def check_size(where: str, tokenizer: Tokenizer, model: ModelConfig) -> None:
  """Raises UserError if the tokenizer has ids that the model does not know."""
  if tokenizer.vocab_size > model.vocab:
    raise UserError(
        f'{where}: the tokenizer has {tokenizer.vocab_size} ids, but the model knows {model.vocab}; '
        'use the tokenizer that the model was trained with'
    )


def _shown(tokenizer: Tokenizer, tokens: list[int], at: int) -> str:
  return f'{tokenizer.decode(tokens[at : at + 4])!r} at token {at}'
