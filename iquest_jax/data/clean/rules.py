"""Rules on code: length, lines, alphanumeric share, encoded data, repetition.

Thresholds named StarCoder are of arXiv 2305.06161, those named The Stack v2 of arXiv 2402.19173. The others are ours, set
so that of the files of Python's library that are not empty fewer than one in a hundred is dropped.
"""

from iquest_jax.data.documents import Drop

# ours: characters. The long bound is StarCoder's megabyte.
SHORTEST, LONGEST = 16, 1 << 20
_LONGEST_CHAT = 4 << 20  # ours: above the longest agent trajectory that fits 128k tokens
_LONGEST_LINE, _LONGEST_MEAN_LINE = 1000, 100  # StarCoder
_LEAST_ALPHANUMERIC = 0.25  # StarCoder
_MOST_DIGITS = 0.5  # ours: a table of numbers
_MOST_ENCODED, _LONGEST_ENCODED, _ENCODED_RUN = 0.5, 1024, 64  # The Stack v2
_MOST_DUPLICATE = 0.6  # ours: share of characters in lines that came before
_SHORTEST_REPETITIVE = 2000  # ours: shorter texts repeat lines by chance

_RUN = b'A' * _ENCODED_RUN
_DIGITS = b'0123456789'
# Beyond ASCII, every byte counts as a letter: two thirds of such characters are, and symbols alone make no file of code.
_ALPHANUMERIC = bytes(b for b in range(256) if b > 127 or chr(b).isalnum())
_BASE64 = bytes(65 if b < 128 and (chr(b).isalnum() or b in b'+/=') else 32 for b in range(256))
# Hexadecimal tables have separators between their numbers.
_HEX = bytes(65 if b in b'0123456789abcdefABCDEFxX\\, \n\t' else 32 for b in range(256))


def length(path: str, text: str) -> str | Drop:
  """Code that is neither empty nor longer than anyone reads."""
  del path
  if len(text) > LONGEST:
    return Drop('length: too long', f'{len(text)} characters')
  if len(text) < 1000 and len(text.strip()) < SHORTEST:
    return Drop('length: too short' if text.strip() else 'length: empty', f'{len(text)} characters')
  return text


def message_length(path: str, text: str) -> str | Drop:
  """A patch, message or turn of a chat; an empty one may be right."""
  del path
  return text if len(text) <= _LONGEST_CHAT else Drop('length: too long', f'{len(text)} characters')


def lines(path: str, text: str) -> str | Drop:
  """No line is longer than 1000 characters, and on average they have at most 100: otherwise it is minified or data."""
  del path
  longest = max(map(len, text.split('\n')))
  if longest > _LONGEST_LINE:
    return Drop('lines: a line is too long', f'{longest} characters')
  if (mean := len(text) / (text.count('\n') + 1)) > _LONGEST_MEAN_LINE:
    return Drop('lines: too long on average', f'{mean:.0f} characters')
  return text


def alphanumeric(path: str, text: str) -> str | Drop:
  """At least a quarter letters and digits, at most half digits; white space counts for neither."""
  del path
  data = text.encode('utf-8', 'replace')
  visible = len(data.translate(None, b' \t\n\r\f\v')) or 1
  found = len(data) - len(data.translate(None, _ALPHANUMERIC))
  if found < _LEAST_ALPHANUMERIC * visible:
    return Drop('alphanumeric: too few letters and digits', f'{found / visible:.2f}')
  digits = len(data) - len(data.translate(None, _DIGITS))
  return text if digits <= _MOST_DIGITS * visible else Drop('alphanumeric: mostly digits', f'{digits / visible:.2f}')


def encoded(path: str, text: str) -> str | Drop:
  """No run of base64 or of hexadecimal numbers beyond 1024 characters, and no more than half of the text in runs."""
  del path
  data = text.encode('utf-8', 'replace')
  for name, table in (('base64', _BASE64), ('hexadecimal', _HEX)):
    marked = data.translate(table)
    if _RUN not in marked:
      continue
    # White space alone is not data.
    runs, place = [], 0
    for piece in marked.split(b' '):
      if len(piece) >= _ENCODED_RUN:
        runs.append(len(data[place : place + len(piece)].translate(None, b' \t\n')))
      place += len(piece) + 1
    longest, total = max(runs), sum(run for run in runs if run >= _ENCODED_RUN)
    if longest > _LONGEST_ENCODED or total > _MOST_ENCODED * len(data):
      return Drop(f'encoded: {name}', f'{longest} characters in one run, {total} of {len(data)} in all')
  return text


def repetition(path: str, text: str) -> str | Drop:
  """At most 60 % of the characters lie in lines that came before."""
  del path
  if len(text) < _SHORTEST_REPETITIVE:
    return text
  duplicate = len(text) - sum(map(len, found := set(text.split('\n')))) - len(found)
  if duplicate > _MOST_DUPLICATE * len(text):
    return Drop('repetition: lines', f'{duplicate / len(text):.2f} of all characters')
  return text
