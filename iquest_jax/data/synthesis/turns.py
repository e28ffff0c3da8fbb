"""What domains share: requests to the model that writes, the parts of its answers, and the chats that are made of them."""

import json
import re
from typing import Any

from iquest_jax.data.documents import Conversation, content_id
from iquest_jax.text import extract

_FENCE = re.compile(r'^\s*(`{3,})', re.MULTILINE)


def request(*parts: str) -> list[dict[str, str]]:
  """The messages of a request: one turn, with an empty line between its parts."""
  return [{'role': 'user', 'content': '\n\n'.join(part.strip('\n') for part in parts)}]


def fenced(code: str, language: str = '') -> str:
  """A code block whose fence is longer than any in the code."""
  longest = max(map(len, _FENCE.findall(code)), default=2)
  fence = '`' * (longest + 1)
  ending = '' if code.endswith('\n') else '\n'
  return f'{fence}{language}\n{code}{ending}{fence}'


def listed(section: str) -> list[Any]:
  """The JSON list of a section, fenced or not; empty if it is none."""
  blocks = extract.blocks(section)
  try:
    found = json.loads(blocks[0].text if blocks else section)
  except (ValueError, RecursionError):
    return []
  return found if isinstance(found, list) else []


def conversation(request: str, answer: str, checks: tuple[str, ...], repo: str = '') -> Conversation:
  """A chat of a request and its answer."""
  messages = ({'role': 'user', 'content': request}, {'role': 'assistant', 'content': answer})
  return Conversation(content_id(request, answer), messages, repo=repo, checks=checks)


def quotes(text: str, code: str) -> bool:
  """Whether a text contains code: all of it, or one of its longer lines."""
  plain = lambda part: ' '.join(part.split())
  # ours: 20 characters and more than one word.
  lines = [line for line in map(plain, code.split('\n')) if len(line) >= 20 and re.search(r'\w\W+\w', line)]
  text = plain(text)
  return any(line in text for line in [plain(code), *lines] if line)
