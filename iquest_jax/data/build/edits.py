"""Changes as edits: a chat that shows the old code and asks for what the message says."""

import dataclasses
import random
import re

from iquest_jax.data.build import patches, transitions
from iquest_jax.data.documents import Commit, Conversation, Drop, Transition
from iquest_jax.text.tokenizer import Tokenizer

# Room for the turns of a chat, and for path and fence of each file.
_CHAT_TOKENS, _FILE_TOKENS = 64, 8


def conversation(commit: Commit) -> Conversation:
  """The user shows the old code and asks for the change; the assistant answers with the new code.

  Old and new code are the two sides of the patch's hunks. A commit that only adds or only deletes files has nothing to
  edit or nothing to answer: its conversation has no messages.
  """
  old, new = sides(commit.patch)
  if not old.strip() or not new.strip():
    return Conversation(commit.id, ())
  return _conversation(commit.id, f'{commit.message.strip()}\n{_fenced(old)}', _fenced(new))


def repository_conversation(
    transition: Transition, context: int, tokenizer: Tokenizer, rng: random.Random | None = None
) -> Conversation | Drop:
  """The user shows the files to change, as far as they fit into `context` tokens; the assistant answers with the patch."""
  room = context - _CHAT_TOKENS - _FILE_TOKENS * len(transition.files)
  shown = transitions.view(dataclasses.replace(transition, context=()), room, tokenizer)
  if not shown.files:
    return Drop('transition: no room for the files to edit', transition.id)
  files = '\n'.join(f'{path}\n{_fenced(text)}' for path, text in shown.files)
  return _conversation(transition.id, f'{transition.message.strip()}\n{files}', _fenced(transition.patch, 'diff'))


def _conversation(id: str, request: str, answer: str) -> Conversation:
  return Conversation(id, ({'role': 'user', 'content': request}, {'role': 'assistant', 'content': answer}))


def sides(patch: str) -> tuple[str, str]:
  """The code before and after, read from the hunks of a unified diff."""
  files = patches.changes(patch)
  return ''.join(line for file in files for line in file.old), ''.join(line for file in files for line in file.new)


def _fenced(code: str, language: str = '') -> str:
  """A code block whose fence is longer than any in the code."""
  longest = max((len(fence) for fence in re.findall(r'^\s*(`{3,})', code, re.M)), default=2)
  fence = '`' * (longest + 1)
  ending = '' if code.endswith('\n') else '\n'
  return f'{fence}{language}\n{code}{ending}{fence}'
