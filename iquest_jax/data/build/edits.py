"""Commits as edits: a chat that shows the old code and asks for what the commit message says."""

import re

from iquest_jax.data.documents import Commit, Conversation


def conversation(commit: Commit) -> Conversation:
  """The user shows the old code and asks for the change; the assistant answers with the new code.

  Old and new code are the two sides of the patch's hunks. A commit that only adds or only deletes files has nothing to
  edit or nothing to answer: its conversation has no messages.
  """
  old, new = sides(commit.patch)
  if not old.strip() or not new.strip():
    return Conversation(commit.id, ())
  request = f'{commit.message.strip()}\n```\n{old}```'
  messages = ({'role': 'user', 'content': request}, {'role': 'assistant', 'content': f'```\n{new}```'})
  return Conversation(commit.id, messages)


def sides(patch: str) -> tuple[str, str]:
  """The code before and after, read from the hunks of a unified diff."""
  old, new = [], []
  inside = False
  for line in re.findall(r'.+\n?', patch):
    # A removed line '-- x' looks like the header '--- x': headers count only between a 'diff' line and the first hunk.
    if line.startswith('diff '):
      inside = False
    elif line.startswith('@@'):
      inside = True
    elif inside and line[0] in ' -+':
      if line[0] != '+':
        old.append(line[1:])
      if line[0] != '-':
        new.append(line[1:])
  return ''.join(old), ''.join(new)
