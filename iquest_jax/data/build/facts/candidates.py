"""What an extractor finds in a file: questions and their answers, before anything has checked them."""

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

# ours: longer ones are code to read, not facts to know.
MAX_ANSWER_CHARACTERS = 120
MAX_NAMED = 6


class Candidate(NamedTuple):
  """A question, with the fields of questions.Question except its place, and the answer that the extractor read."""

  kind: str
  noun: str
  subject: str
  answer: str
  detail: str = ''
  receiver: bool = False


# What may be asked about one definition; a file has many more than are asked about.
Definition = Callable[[], Iterator[Candidate]]


def is_public(name: str) -> bool:
  """Whether others may rely on a name: it is neither private nor that of a test."""
  return not name.startswith(('_', 'test_', 'Test', '#')) or name in ('__init__', '__call__', '__new__')


# Words that are trivial answers as a declared type.
NO_TYPE = frozenset(['None', 'void', 'Any', 'any', 'Self', '"Self"', 'this'])
_UPPER = re.compile(r'[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)*')


def is_constant(name: str) -> bool:
  """Whether a name is written as constants are: in capitals, with more than one letter."""
  return len(name) > 2 and bool(_UPPER.fullmatch(name))
