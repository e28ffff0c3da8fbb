"""Holds a free question about a definition against the definition: a default, a type, a value, what is raised, a base.

In a language that the second reading of build/facts knows, it decides. In others the answer of a question about a value
or a type must stand beside the name that the question asks about, and the question may name nothing but a definition and
its parameter.
"""

import re
from collections.abc import Iterator

from iquest_jax.data.build.facts import masked, questions, verify
from iquest_jax.data.documents import Drop, Fact, File
from iquest_jax.data.languages import language_of

UNCONFIRMED, UNRELATED = 'facts: a second reading does not confirm it', 'facts: answer does not belong to its subject'
# Kind of question -> the words that tell it; the first that fits.
_KINDS = {
    'default': r'\bdefaults?\b|\bleaves? .*\bout\b|\bomit',
    'returns': r'\breturn(?:s|ed)?[ -]type\b|\btype\b.*\breturn',
    'type': r'\btyped?\b',
    'raises': r'\b(?:raise|throw)',
    'base': r'\b(?:inherit|superclass|base class|parent class|extend|derive)',
    'value': r'\bvalue\b|\bset to\b|\bassigned\b|\bequal\b',
}
_MOST_NAMES = 4
_UNREAD = ('fact: subject not found', 'fact: language without facts', 'fact: mentioned too often', 'fact: not parsed')


def check(question: str, answer: str, quote: str, file: File) -> tuple[str, ...] | Drop:
  """The names of the checks that a question about a definition passed, or why it is dropped; none for other questions."""
  words = re.sub(r'`[^`]*`', '', question)
  kind = next((kind for kind, pattern in _KINDS.items() if re.search(pattern, words, re.IGNORECASE)), '')
  if not kind:
    return ()
  evidence = f'{question} {answer}'
  rules = set()
  for asked in _questions(kind, question, file):
    # A text may be quoted in the file and not in the answer.
    for said in dict.fromkeys((answer, f"'{answer}'", f'"{answer}"')):
      found = verify.verify(Fact('', questions.phrase(asked, 0), said, file.path, file.repo), file.text)
      if not isinstance(found, Drop):
        return found.checks[-2:]
      rules.add(found.rule)
  placed = kind in ('default', 'value', 'type')
  readable = language_of(file.path, file.text) in masked.LANGUAGES
  if placed and readable or rules - {*_UNREAD, 'fact: answer not in the source', 'fact: answer in the question'}:
    return Drop(UNCONFIRMED, evidence)
  if placed and not (rules and _beside(kind, question, answer, quote)):
    return Drop(UNRELATED, evidence)
  return ()


def _questions(kind: str, question: str, file: File) -> Iterator[questions.Question]:
  """What a question of a kind may ask, by the names in backticks, of all of which it is; a parameter may stand without."""
  if not file.repo or '`' in file.path + file.repo:
    return
  names = list(dict.fromkeys(name.removesuffix('()') for name in re.findall(r'`([^`\n]+)`', question)))
  if len(names) > _MOST_NAMES:
    return
  subjects = names + [f'{one}.{other}' for one in names for other in names if one != other]
  details = [''] if kind not in ('default', 'type') else [*names, *_words(question)]
  for subject in subjects:
    for detail in dict.fromkeys(details):
      if detail not in (owned := [subject, *subject.split('.')]) and not {*names} - {*owned, detail}:
        for one in (kind, 'throws') if kind == 'raises' else (kind,):
          yield questions.Question(one, 'function', subject, file.path, file.repo, detail)


def _words(question: str) -> list[str]:
  """Words that may be names of parameters."""
  return re.findall(r'[^\W\d]\w*', re.sub(r'`[^`]*`', ' ', question))


def _beside(kind: str, question: str, answer: str, quote: str) -> bool:
  """Whether an answer stands where a name of the question is declared or gets its value."""
  names = '|'.join(map(re.escape, [*re.findall(r'`([^`\n]+)`', question), *_words(question)]))
  name = rf'(?<!\w)(?:{names})(?!\w)'
  said = rf'(?<![\w.]){re.escape(answer)}(?![\w.])' if answer[:1].isalnum() else re.escape(answer)
  if kind == 'type':
    forms = (rf'{name}\s*\??\s*:\s*{said}', rf'{said}\s*[&*]*\s*{name}', rf'{name}\s+{said}')
  else:
    value = rf'["\'`]?{said}'
    forms = (rf'{name}\s*(?::[^=,]*)?:?=\s*{value}', rf'#define\s+{name}\s+{value}', rf'{name}["\']?\s*:\s*{value}')
  return any(re.search(form, quote) for form in forms)
