"""What can be asked about code: how each kind of question is phrased, and how it is read back.

A question names its file, its repository and what it is about, so that it has one answer wherever it is read.
"""

import dataclasses
import functools
import re

ORDINALS = ('first', 'second', 'third', 'fourth', 'fifth')

# ours: kinds and phrases. {place} is the file and its repository, {subject} what the question is about, {detail} a
# parameter, an exception or an ordinal, {apart} what does not count as a parameter.
_PHRASES = {
    'count': (
        'How many parameters does {subject} in {place} have{apart}?',
        'In {place}, how many parameters does {subject} declare{apart}?',
        'What is the number of parameters of {subject} in {place}{apart}?',
    ),
    'names': (
        'What are the names of the parameters of {subject} in {place}, in order{apart}?',
        'In {place}, which parameters does {subject} declare, in order{apart}?',
        'List the parameters of {subject} in {place} in the order of their declaration{apart}.',
    ),
    'position': (
        'What is the name of the {detail} parameter of {subject} in {place}{apart}?',
        'In {place}, what is the {detail} parameter of {subject} called{apart}?',
        'Which parameter comes {detail} in the signature of {subject} in {place}{apart}?',
    ),
    'default': (
        'What is the default value of the parameter `{detail}` of {subject} in {place}?',
        'In {place}, which value does the parameter `{detail}` of {subject} take if the caller leaves it out?',
        'Which default does {subject} in {place} give its parameter `{detail}`?',
        'In {place}, what does the parameter `{detail}` of {subject} default to?',
    ),
    'type': (
        'What is the declared type of the parameter `{detail}` of {subject} in {place}?',
        'In {place}, which type does {subject} declare for its parameter `{detail}`?',
        'As which type is the parameter `{detail}` of {subject} in {place} declared?',
    ),
    'returns': (
        'What is the declared return type of {subject} in {place}?',
        'In {place}, which return type does {subject} declare?',
        'Which type does {subject} in {place} return, according to its signature?',
    ),
    'raises': (
        'Which type of exception do the statements of {subject} in {place} raise explicitly?',
        'In {place}, which exception does {subject} raise in its own body?',
        'What is the type of the exception that {subject} in {place} raises itself?',
    ),
    'throws': (
        'Which exception does the signature of {subject} in {place} declare?',
        'In {place}, which exception type is in the throws clause of {subject}?',
        'Which type of exception does {subject} in {place} declare that it throws?',
    ),
    'base': (
        'Which class does {subject} in {place} inherit from?',
        'In {place}, what is the base class of {subject}?',
        'What is the direct superclass of {subject} in {place}?',
    ),
    'value': (
        'What is the value of {subject} in {place}?',
        'In {place}, which value is assigned to {subject}?',
        'To which value does {place} set {subject}?',
    ),
    'owner': (
        'Which class in {place} defines {subject}?',
        'In {place}, {subject} belongs to which class?',
        'What is the name of the class that defines {subject} in {place}?',
    ),
    'documented result': (
        'What does {subject} in {place} return, according to its documentation?',
        'In {place}, what is the documented result of {subject}?',
        'According to its documentation, what is returned by {subject} in {place}?',
    ),
    'documented error': (
        'When does {subject} in {place} raise `{detail}`, according to its documentation?',
        'In {place}, under which condition is {subject} documented to raise `{detail}`?',
        'According to its documentation, what makes {subject} in {place} raise `{detail}`?',
    ),
}  # fmt: skip
_APART = ', not counting `self` or `cls`'
KINDS = tuple(_PHRASES)
DOCUMENTED = ('documented result', 'documented error')
# Their answers are derived from several words of the source.
DERIVED = ('count', 'names')
SUBJECTS = ('function', 'method', 'constructor', 'class', 'constant')


@dataclasses.dataclass(frozen=True)
class Question:
  """What is asked.

  Attributes:
    kind: one of KINDS.
    noun: what the subject is, one of SUBJECTS.
    subject: its name in the file, with the classes around it: 'Outer.Inner.method'; for the kind 'owner' the bare name.
    detail: name of a parameter or an exception, one of ORDINALS, or ''.
    receiver: whether the question sets the receiver of a Python method apart.
  """

  kind: str
  noun: str
  subject: str
  path: str
  repo: str
  detail: str = ''
  receiver: bool = False


def phrase(question: Question, number: int) -> str:
  """The question in words; `number` chooses among the phrases of its kind."""
  phrases = _PHRASES[question.kind]
  return phrases[number % len(phrases)].format(
      place=f'the file `{question.path}` of the repository `{question.repo}`',
      subject=f'the {question.noun} `{question.subject}`',
      detail=question.detail,
      apart=_APART if question.receiver else '',
  )


def read(text: str) -> Question | None:
  """The question that a text asks; None if it is not one of these phrases."""
  for kind, pattern in _patterns():
    if match := pattern.fullmatch(text):
      found = match.groupdict(default='')
      return Question(
          kind, found['noun'], found['subject'], found['path'], found['repo'], found.get('detail', ''),
          bool(found.get('apart')),
      )  # fmt: skip
  return None


@functools.cache
def _patterns() -> list[tuple[str, re.Pattern]]:
  found = []
  for kind, phrases in _PHRASES.items():
    fields = {
        'place': r'the file `(?P<path>[^`]+)` of the repository `(?P<repo>[^`]+)`',
        'subject': rf'the (?P<noun>{"|".join(SUBJECTS)}) `(?P<subject>[^`]+)`',
        'detail': f'(?P<detail>{"|".join(ORDINALS)})' if kind == 'position' else '(?P<detail>[^`]+)',
        'apart': f'(?P<apart>{_APART})?',
    }
    for words in phrases:
      pattern = re.sub(r'\\\{(\w+)\\\}', lambda match: fields[match[1]], re.escape(words))
      found.append((kind, re.compile(pattern)))
  return found
