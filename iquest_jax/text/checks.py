"""What verifiable instructions ask of a text: pure functions (text, **arguments) -> bool that never raise.

ours, after the kinds of IFEval (arXiv 2311.07911). All take time linear in the length of the text.
"""

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

SEPARATOR, POSTSCRIPT = '******', 'P.S.'
# Beginnings of Unicode's names of letters, by script.
SCRIPTS = {
    'Latin': ('LATIN',),
    'Cyrillic': ('CYRILLIC',),
    'Greek': ('GREEK',),
    'Arabic': ('ARABIC',),
    'Hebrew': ('HEBREW',),
    'Devanagari': ('DEVANAGARI',),
    'Chinese': ('CJK',),
    'Japanese': ('HIRAGANA', 'KATAKANA', 'CJK'),
    'Korean': ('HANGUL',),
}
_OF_SCRIPT = 0.9  # of the letters: a name or a number may be written in another
TYPES = {'string': str, 'integer': int, 'number': (int, float), 'boolean': bool, 'array': list, 'object': dict}
# Only from the first mark on: otherwise a long run of marks would be read again from each of them.
_SENTENCE_END = re.compile(r'(?<![.!?。！？])[.!?。！？]+["\')\]]*(?:\s+|$)|\n\s*\n')
_EMPTY_LINE = re.compile(r'\n[ \t]*\n')
_BULLET, _HEADING, _NUMBERED = re.compile(r'[-*•] +\S'), re.compile(r'#{1,6} +\S'), re.compile(r'(\d{1,4})[.)] +\S')
_BOLD, _TITLE = re.compile(r'\*\*[^*\n]+\*\*'), re.compile(r'<<([^<>]+)>>')
_FENCE = re.compile(r'^ {0,3}(?:```|~~~)', re.M)


def most_words(text: str, count: int) -> bool:
  return len(text.split()) <= count


def least_words(text: str, count: int) -> bool:
  return len(text.split()) >= count


def most_characters(text: str, count: int) -> bool:
  return len(text) <= count


def least_characters(text: str, count: int) -> bool:
  return len(text) >= count


def most_sentences(text: str, count: int) -> bool:
  return _sentences(text) <= count


def least_sentences(text: str, count: int) -> bool:
  return _sentences(text) >= count


def lines(text: str, count: int) -> bool:
  """Empty lines do not count."""
  return sum(bool(line.strip()) for line in text.split('\n')) == count


def paragraphs(text: str, count: int) -> bool:
  """Paragraphs are separated by empty lines."""
  return sum(bool(part.strip()) for part in _EMPTY_LINE.split(text)) == count


def begins_with(text: str, phrase: str) -> bool:
  return text.startswith(phrase)


def ends_with(text: str, phrase: str) -> bool:
  return text.endswith(phrase)


def contains(text: str, word: str, count: int) -> bool:
  """A word, in any case, at least `count` times."""
  return _occurrences(text, word) >= count


def keywords(text: str, words: Sequence[str]) -> bool:
  """All of them, in any case."""
  return all(_occurrences(text, word) for word in words)


def forbidden(text: str, words: Sequence[str]) -> bool:
  return not any(_occurrences(text, word) for word in words)


def lower_case(text: str) -> bool:
  return text == text.lower() and text != text.upper()


def upper_case(text: str) -> bool:
  return text == text.upper() and text != text.lower()


def capital_words(text: str, count: int) -> bool:
  """At least `count` words of two or more letters, all of them capitals."""
  letters = (''.join(filter(str.isalpha, word)) for word in text.split())
  return sum(len(word) > 1 and word.isupper() for word in letters) >= count


def json_object(text: str) -> bool:
  return isinstance(_json(text), dict)


def json_fields(text: str, fields: Mapping[str, str]) -> bool:
  """A JSON object with exactly these fields, {name: type as in JSON Schema}."""
  value = _json(text)
  if not isinstance(value, dict) or value.keys() != fields.keys():
    return False
  is_bool = lambda item: isinstance(item, bool)
  return all(isinstance(value[f], TYPES[kind]) and is_bool(value[f]) == (kind == 'boolean') for f, kind in fields.items())


def bullets(text: str, count: int) -> bool:
  return sum(_BULLET.match(line.strip()) is not None for line in text.split('\n')) == count


def numbered(text: str, count: int) -> bool:
  """Exactly the items 1 to `count`, in order."""
  found = (_NUMBERED.match(line.strip()) for line in text.split('\n'))
  return [int(item[1]) for item in found if item] == list(range(1, count + 1))


def headings(text: str, count: int) -> bool:
  return sum(_HEADING.match(line) is not None for line in text.split('\n')) == count


def bold(text: str, count: int) -> bool:
  """At least `count` spans between double asterisks."""
  return len(_BOLD.findall(text)) >= count


def no_commas(text: str) -> bool:
  return not set(text) & set(',，、،')


def quoted(text: str) -> bool:
  """Double quotation marks around all of it."""
  return len(text) > 2 and text[0] == text[-1] == '"' and bool(text[1:-1].strip())


def script(text: str, name: str) -> bool:
  """Letters of a script, up to a tenth."""
  letters = [character for character in text if character.isalpha()]
  own = sum(unicodedata.name(letter, '').startswith(SCRIPTS[name]) for letter in letters)
  return bool(letters) and own >= _OF_SCRIPT * len(letters)


def code_block(text: str) -> bool:
  """At least one fenced block, and none that is not closed."""
  fences = len(_FENCE.findall(text))
  return fences > 0 and fences % 2 == 0


def no_code_block(text: str) -> bool:
  return '```' not in text and '~~~' not in text


def postscript(text: str) -> bool:
  """A line of the last paragraph begins with POSTSCRIPT and says more, and something stands before it."""
  last = _EMPTY_LINE.split(text)[-1]
  at = f'\n{last}'.find(f'\n{POSTSCRIPT}')
  before = text[: len(text) - len(last)] + last[: max(at, 0)]
  return at >= 0 and bool(before.strip()) and bool(last[at + len(POSTSCRIPT) :].strip())


def two_answers(text: str) -> bool:
  """Two different texts, with a line of SEPARATOR alone between them."""
  parts = [part.strip() for part in re.split(rf'^{re.escape(SEPARATOR)}[ \t]*$', text, flags=re.M)]
  return len(parts) == 2 and all(parts) and parts[0] != parts[1]


def title(text: str) -> bool:
  """The first line is a title in double angular brackets, alone."""
  found = _TITLE.fullmatch(text.partition('\n')[0].strip())
  return found is not None and bool(found[1].strip())


def repeats(text: str, request: str) -> bool:
  """The request, word for word, then something else."""
  return text.startswith(request) and bool(text[len(request) :].strip())


def one_of(text: str, options: Sequence[str]) -> bool:
  """One of the options, and nothing else."""
  return text in options


def _sentences(text: str) -> int:
  """Pieces with a letter or digit, cut after the marks that end a sentence and at empty lines."""
  return sum(any(map(str.isalnum, piece)) for piece in _SENTENCE_END.split(text))


def _occurrences(text: str, word: str) -> int:
  return len(re.findall(rf'(?<!\w){re.escape(word)}(?!\w)', text, re.I))


def _json(text: str) -> Any:
  try:
    return json.loads(text)
  except (ValueError, RecursionError):
    return None
