"""Commits as documents: a patch as a diff, and as an edit asked for in a chat."""

import re
from typing import Any

from iquest_jax.data.documents import Document, content_id


def document(message: str, patch: str, repo: str = '') -> Document:
  """A commit without its author: the files 'message' and 'patch' (unified diff)."""
  message = message.strip() + '\n'
  patch = patch.strip('\n') + '\n'  # of newlines only: it may end with the space of an empty context line
  return Document(content_id(message, patch), 'commits', (('message', message), ('patch', patch)), (), repo)


def as_edit(commit: Document) -> tuple[dict[str, Any], ...]:
  """A chat in which a person shows the old code and asks for what the message says; the answer is the new code.

  Old and new code are the two sides of the patch's hunks. A commit that only adds or only deletes files shows nothing
  to edit, or nothing to answer: no messages then.
  """
  files = dict(commit.files)
  old, new = sides(files.get('patch', ''))
  if not old.strip() or not new.strip():
    return ()
  request = f'{files["message"].strip()}\n```\n{old}```'
  return ({'role': 'user', 'content': request}, {'role': 'assistant', 'content': f'```\n{new}```'})


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
