"""Whether a fact holds: general rules for any question, and a second reading of the source for those of questions.py.

The second reading shares nothing with what extracts facts: no tree, other code (reread_python.py, reread_braces.py). In
Python the syntax tree has a word too, on whether something else binds the name (bindings.py); it can only reject.
"""

import dataclasses
import functools
import posixpath
import re

from iquest_jax.data.build.facts import bindings, definition, masked, questions, reread_braces, reread_python
from iquest_jax.data.build.facts.questions import Question
from iquest_jax.data.documents import Drop, Fact
from iquest_jax.data.languages import language_of

# ours: limits in characters, and how often a file may mention a name whose every mention is looked at.
MAX_QUESTION, MAX_ANSWER, MAX_MENTIONS = 400, 160, 1000

_TIME_WORDS = re.compile(
    r'\b(?:current(?:ly)?|latest|newest|recent(?:ly)?|today|nowadays|now|at present|as of|so far|not yet|no longer|upcoming'
    r'|soon|deprecat\w*|obsolete|experimental|since (?:version|v?\d)|will be removed|(?:in the|a) future|last updated'
    r'|up to date|this year)\b',
    re.IGNORECASE,
)
_TIME_NAMES = re.compile(
    r'(?:^|[^a-z])(?:versions?|releases?|revision|build|date|year|copyright|timestamp|updated|changed)(?![a-z])',
    re.IGNORECASE,
)
_TIME_VALUES = re.compile(
    r'(?<![\d.])\d+\.\d+\.\d+(?!\.?\d)|\bv\d+\.\d+|[\'"]\d+\.\d+[\'"]|\b(?:19|20)\d\d[-/.]\d{1,2}[-/.]\d{1,2}\b'
    r'|\b(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)[a-z]* (?:\d{1,2},? )?(?:19|20)\d\d\b'
)
_YEAR = re.compile(r'\b(?:19|20)\d\d\b')
_OBJECT = re.compile(r'\bat 0x[0-9a-fA-F]+|<[\w.]+ object|<(?:class|function|module|method|bound method|built-in)\b')
_POINTS = re.compile(
    r'\b(?:this|these|that|the (?:above|following|given|provided|shown|same)) '
    r'(?:code|file|function|class|method|module|snippet|program|example|script|source)\b|\babove\b|\bbelow\b|\bsnippet\b',
    re.IGNORECASE,
)
_QUOTED = re.compile(r'`[^`]*`')
_MARKUP = re.compile(r'\{@\w+\s([^{}]*)\}')
_COMMENT_SIGNS = re.compile(r'[\s*/#]+')


def verify(fact: Fact, source: str) -> Fact | Drop:
  """The fact with the names of the checks it passed, or why it is dropped.

  A question that is not phrased as in questions.py is held against the general rules only: its answer must stand in the
  source.

  Args:
    source: text of the file at `fact.path`.
  """
  asked, source = questions.read(fact.question), masked.with_line_feeds(source)
  passed = []
  for name, check in _GENERAL:
    if evidence := check(fact, asked, source):
      return Drop(f'fact: {evidence}', f'{fact.question} {fact.answer}')
    passed.append(name)
  if asked:
    if evidence := _second_reading(fact, asked, source):
      return Drop(f'fact: {evidence}', f'{fact.question} {fact.answer}')
    passed += ['one definition', 'second reading']
  return dataclasses.replace(fact, checks=(*fact.checks, *passed))


def _check_length(fact: Fact, asked: Question | None, source: str) -> str:
  del asked, source
  if not fact.question.strip() or not fact.answer.strip():
    return 'empty'
  if '\n' in fact.question + fact.answer:
    return 'more than one line'
  return 'too long' if len(fact.question) > MAX_QUESTION or len(fact.answer) > MAX_ANSWER else ''


def _check_subject(fact: Fact, asked: Question | None, source: str) -> str:
  """Out of context a question has one answer only if it names its repository, its file, and something the file defines."""
  if asked:
    return '' if (asked.path, asked.repo) == (fact.path, fact.repo) else 'names another file'
  if _POINTS.search(fact.question):
    return 'points at what is not shown'
  stem = posixpath.splitext(fact.path)[0]
  module = stem.removesuffix('/__init__').replace('/', '.')
  rest = fact.question
  for what, names in (('file', (fact.path, module)), ('repository', (fact.repo,))):
    if not any(_stands_in(name, rest) for name in names if name):
      return f'does not name its {what}'
    rest = re.sub('|'.join(rf'(?<!\w){re.escape(name)}(?!\w)' for name in names if name), ' ', rest)
  words = set(re.findall(r'\w{2,}', rest))
  defined = re.findall(r'\b(?:def|class|function|func|const|let|var|interface|type|enum|record|struct)\s+(\w+)', source)
  methods = re.findall(r'\b(\w+)\s*\([^()]*\)\s*(?:throws [\w., ]+)?\{', source)
  constants = re.findall(r'^([A-Z_]{3,})\s*=', source, re.MULTILINE)
  return '' if words & {*defined, *methods, *constants} else 'names nothing in its file'


def _check_not_copied(fact: Fact, asked: Question | None, source: str) -> str:
  """A question of ours is words around the names in backticks; only these can give the answer away, and no count."""
  del source
  if asked and asked.kind == 'count':
    copied = False
  elif asked:
    copied = _stands_in(fact.answer, ' '.join(_QUOTED.findall(fact.question)))
  else:
    copied = _stands_in(fact.answer.lower(), fact.question.lower())
  return 'answer in the question' if copied else ''


def _check_time(fact: Fact, asked: Question | None, source: str) -> str:
  del source
  prose = _QUOTED.sub('', fact.question)
  if asked is None or asked.kind in questions.DOCUMENTED:
    prose += ' ' + fact.answer
  names = fact.question if asked is None else asked.subject if asked.kind == 'value' else ''
  changes = _TIME_WORDS.search(prose) or _TIME_NAMES.search(names) or _TIME_VALUES.search(fact.answer)
  changes = changes or (asked is None or asked.kind in questions.DOCUMENTED) and _YEAR.search(fact.answer)
  return 'changes with time' if changes else ''


def _check_no_object(fact: Fact, asked: Question | None, source: str) -> str:
  del asked, source
  return 'address or object' if _OBJECT.search(fact.answer) else ''


def _check_in_source(fact: Fact, asked: Question | None, source: str) -> str:
  if asked and asked.kind == 'count':
    return '' if fact.answer.isdecimal() else 'not a number'
  parts = fact.answer.split(', ') if asked and asked.kind in questions.DERIVED else [fact.answer]
  found = all(_stands_in(part, source) for part in parts)
  if not found and (asked is None or asked.kind in questions.DOCUMENTED):
    found = _stands_in(_flat(fact.answer), _flat(source))
  return '' if found else 'answer not in the source'


def _flat(text: str) -> str:
  """One line without the signs of comments and the markup of documentation."""
  return _COMMENT_SIGNS.sub(' ', _MARKUP.sub(r'\1', text))


def _stands_in(text: str, within: str) -> bool:
  """Whether a text occurs, and not as a part of a longer word."""
  place = within.find(text)
  while place >= 0:
    before, after = within[place - 1 : place] if place else '', within[place + len(text) : place + len(text) + 1]
    if not (_is_word(before) and _is_word(text[0]) or _is_word(after) and _is_word(text[-1])):
      return True
    place = within.find(text, place + 1)
  return False


def _is_word(character: str) -> bool:
  return character.isalnum() or character == '_'


_GENERAL = (
    ('length', _check_length),
    ('names its subject', _check_subject),
    ('answer not in question', _check_not_copied),
    ('independent of time', _check_time),
    ('no address', _check_no_object),
    ('answer in source', _check_in_source),
)


def _second_reading(fact: Fact, asked: Question, source: str) -> str:
  language = language_of(fact.path, source)
  if language not in masked.LANGUAGES:
    return 'language without facts'
  if source.count(asked.subject.rpartition('.')[2]) > MAX_MENTIONS:
    return 'mentioned too often'
  reread = _reread(source, language)
  if asked.kind == 'owner':
    owners = reread.owners(asked.subject)
    if len(owners) > 1:
      return 'two answers'
    if owners != [fact.answer]:
      return 'wrong answer' if owners else 'subject not found'
    return _doubt(f'{fact.answer}.{asked.subject}', source) if language == 'python' else ''
  found = reread.find(asked.subject, asked.kind)
  if not found:
    return 'subject not found'
  if len(found) > 1:
    return 'two answers'
  if found[0].deprecated:
    return 'changes with time'
  if definition.answer(asked, found[0]) != fact.answer:
    return 'wrong answer'
  return _doubt(asked.subject, source) if language == 'python' else ''


def _doubt(subject: str, source: str) -> str:
  try:
    return _bindings(source).doubt(subject)
  except (SyntaxError, ValueError, RecursionError, MemoryError):
    return 'not parsed'


_bindings = functools.lru_cache(2)(bindings.Bindings)


@functools.lru_cache(2)
def _reread(source: str, language: str) -> reread_python.Reread | reread_braces.Reread:
  """A file brings several facts, one after another."""
  return reread_python.Reread(source) if language == 'python' else reread_braces.Reread(source, language)
