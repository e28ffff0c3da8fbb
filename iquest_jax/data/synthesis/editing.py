"""Code editing: a real change, and an instruction for it that a model writes.

The answer is the change as it was made, so it is right if the patch applies. Only the instruction can be wrong. It
must not quote the new code, and a request that shows the old code and the instruction, but not the change, must give
the same new code.
"""

import dataclasses

from iquest_jax.data.documents import Commit, Conversation, Drop, Transition
from iquest_jax.data.languages import LANGUAGES, language_of
from iquest_jax.data.synthesis import hunks, turns
from iquest_jax.data.synthesis.domain import Domain, Tools
from iquest_jax.text import extract

CHECKS = ('the patch applies', 'the instruction gives no code away', 'the change follows from the instruction')
# ours: characters of a file and lines of a change, beyond which a second request seldom leads to the same text.
_LONGEST, _CHANGED = 12_000, 60
_TRIES = 2
_INSTRUCT = """Below are a file and a change that was made to it. Write the instruction that a colleague with the
file in front of them would have needed: in one to four sentences, what is to be different, and every choice that
could be made in another way, such as new names, messages and values. Do not quote lines of the new code and do not
mention a patch. Answer with the instruction alone."""
_APPLY = """Change this file as the instruction says, and nothing else. Answer with the whole new file in one fenced
block."""


@dataclasses.dataclass(frozen=True)
class Candidate:
  """A change of one file, its instruction, and the files that requests which did not see the change made of it."""

  path: str
  old: str
  patch: str
  instruction: str
  attempts: tuple[str, ...]
  repo: str = ''


async def generate(document: Commit | Transition, tools: Tools) -> Candidate | Drop:
  found = _file(document)
  if isinstance(found, Drop):
    return found
  path, old = found
  file = f'{path}\n{turns.fenced(old)}'
  request = turns.request(_INSTRUCT, file, turns.fenced(document.patch, 'diff'))
  instruction = (await tools.ask(request, temperature=0.3)).strip()
  attempts = []
  for number in range(_TRIES):
    request = turns.request(_APPLY, instruction, file)
    answer = await tools.ask(request, temperature=0.6 * number, max_tokens=8000, seed=1 + number)
    attempts.append(extract.code(answer, language_of(path) or 'text'))
  return Candidate(path, old, document.patch, instruction, tuple(attempts), document.repo)


async def verify(candidate: Candidate, tools: Tools) -> Conversation | Drop:
  new = hunks.apply(candidate.old, candidate.patch)
  if new is None:
    return Drop('editing: the patch does not apply')
  kept = lambda text: _code(text, candidate.path)
  if kept(new) == kept(candidate.old):
    return Drop('editing: nothing changes')
  if not candidate.instruction:
    return Drop('editing: no instruction')
  added = '\n'.join(hunks.added(candidate.patch))
  if '```' in candidate.instruction or turns.quotes(candidate.instruction, added):
    return Drop('editing: the instruction gives code away', candidate.instruction[:200])
  if not any(kept(attempt) == kept(new) for attempt in candidate.attempts):
    return Drop('editing: the change does not follow from the instruction', candidate.instruction[:200])
  request = f'{candidate.instruction}\n\n{candidate.path}\n{turns.fenced(candidate.old)}'
  return turns.conversation(request, turns.fenced(new), CHECKS, candidate.repo)


def _file(document: Commit | Transition) -> tuple[str, str] | Drop:
  """(path, old text) of a change of one file; of a commit, whose files are not there, of a change in one place."""
  paths, places = hunks.paths(document.patch), hunks.hunks(document.patch)
  if len(paths) != 1 or not places:
    return Drop('editing: not one file')
  if len(hunks.added(document.patch)) > _CHANGED:
    return Drop('editing: large change')
  if isinstance(document, Transition):
    old = dict(document.files).get(paths[0], '')
  else:
    old = ''.join(places[0].old) if len(places) == 1 else ''
  if not old.strip():
    return Drop('editing: no old text')
  return (paths[0], old) if len(old) <= _LONGEST else Drop('editing: long file')


def _code(text: str, path: str) -> list[str]:
  """The lines that are compared: no empty ones, no whole-line comments, no blanks at the end."""
  comment = LANGUAGES[name].comment if (name := language_of(path)) else ''
  lines = [line.rstrip() for line in text.split('\n')]
  return [line for line in lines if line and not (comment and line.lstrip().startswith(comment))]


DOMAIN = Domain('editing', (Commit, Transition), generate, verify)
