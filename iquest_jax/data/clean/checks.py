"""THE table of checks: which texts go through which, in which order."""

import collections
from collections.abc import Callable, Sequence

from iquest_jax.data.clean import encoding, generated, language, prose, rules, secrets, structure
from iquest_jax.data.documents import Drop
from iquest_jax.data.languages import LANGUAGES, language_of

# (path, text) -> the text, possibly repaired, or why it is left out.
Check = Callable[[str, str], str | Drop]

# What costs little comes first. Parsing costs as much as the others together.
CODE: tuple[tuple[str, Check], ...] = (
    ('vendored', generated.vendored),
    ('encoding', encoding.repair),
    ('length', rules.length),
    ('generated', generated.generated),
    ('minified', generated.minified),
    ('data', generated.data),
    ('language', language.check),
    ('lines', rules.lines),
    ('alphanumeric', rules.alphanumeric),
    ('repetition', rules.repetition),
    ('encoded', rules.encoded),
    ('secrets', secrets.replace),
    ('structure', structure.check),
)
PROSE: tuple[tuple[str, Check], ...] = (
    ('vendored', generated.vendored),
    ('encoding', encoding.repair),
    ('length', prose.length),
    ('generated', generated.generated),
    ('crawled', prose.crawled),
    ('words', prose.words),
    ('encoded', rules.encoded),
    ('repetition', prose.repetition),
    ('secrets', secrets.replace),
)
# A patch must still apply, so nothing but secrets changes in it and in the files it applies to, line by line.
PATCH: tuple[tuple[str, Check], ...] = (
    ('encoding', encoding.intact),
    ('length', rules.message_length),
    ('secrets', secrets.replace_in_patch),
)
PATCHED: tuple[tuple[str, Check], ...] = (
    ('encoding', encoding.intact),
    ('length', rules.message_length),
    ('secrets', secrets.replace),
)
# Turns of chats, messages of commits, statements of problems.
CHAT: tuple[tuple[str, Check], ...] = (
    ('encoding', encoding.repair),
    ('length', rules.message_length),
    ('secrets', secrets.replace),
)
# Repairs make texts simpler, so one round is enough for nearly all that change.
_ROUNDS = 8


def of_file(path: str) -> tuple[tuple[str, Check], ...]:
  """The checks of a file: PROSE for documentation and text, CODE for everything else."""
  name = language_of(path)
  return PROSE if name and LANGUAGES[name].kind == 'prose' else CODE


def clean(
    path: str, text: str, checks: Sequence[tuple[str, Check]], seen: collections.Counter | None = None
) -> str | Drop:
  """A text after all checks, or why it is left out.

  What one check repaired another has to see, so they run until nothing changes: cleaning a clean text changes nothing.

  Args:
    seen: counts texts changed, by check ('secrets: texts changed').
  """
  changed = set()
  for _ in range(_ROUNDS):
    before = text
    for name, check in checks:
      checked = check(path, text)
      if isinstance(checked, Drop):
        return checked
      if checked is not text and checked != text:
        changed.add(name)
      text = checked
    if text == before:
      if seen is not None:
        seen.update(f'{name}: texts changed' for name in changed)
      return text
  return Drop('encoding: repairs without an end', path)
