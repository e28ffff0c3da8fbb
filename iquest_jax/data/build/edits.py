"""Changes as edits: a chat that shows the old code and asks for what the message says."""

import re

from iquest_jax.data.build import patches
from iquest_jax.data.documents import Commit, Conversation, Transition


def conversation(change: Commit | Transition) -> Conversation:
  """The user shows the old code and asks for the change; the assistant answers it.

  Of a commit, old and new code are the two sides of the patch's hunks, and the answer is the new code. A transition shows
  whole files, and the answer is the patch. A change that only adds or only deletes files has nothing to edit or nothing to
  answer: its conversation has no messages.
  """
  old, new = sides(change.patch)
  if not old.strip() or not new.strip():
    return Conversation(change.id, ())
  if isinstance(change, Transition):
    code = '\n'.join(f'{path}\n{_fenced(text)}' for path, text in change.files)
    answer = _fenced(change.patch, 'diff')
  else:
    code, answer = _fenced(old), _fenced(new)
  request = f'{change.message.strip()}\n{code}'
  return Conversation(change.id, ({'role': 'user', 'content': request}, {'role': 'assistant', 'content': answer}))


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
